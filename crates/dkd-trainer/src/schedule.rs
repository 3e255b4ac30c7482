//! Learning rates as a pure function of the position in the run.

/// How the learning rate moves.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Always the base rate.
    Constant,
    /// Times `gamma` after each of these epochs (counted from 1), as papers and PyTorch's `MultiStepLR` say it.
    Milestones {
        /// Last epochs with the higher rate.
        epochs: Vec<usize>,
        /// Factor.
        gamma: f64,
    },
    /// Half a cosine from the base rate to `last` times it, step by step.
    Cosine {
        /// Factor at the end.
        last: f64,
    },
}

/// A shape with a linear warm-up before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub shape: Shape,
    /// Epochs over which the rate grows linearly from (almost) 0, step by step.
    pub warmup_epochs: usize,
}

impl Schedule {
    /// The constant schedule.
    pub const CONSTANT: Self = Self { shape: Shape::Constant, warmup_epochs: 0 };

    /// How many of the first epochs, in a run of `epochs`, are all at the base rate.
    pub fn steady_epochs(&self, epochs: usize) -> usize {
        match &self.shape {
            _ if self.warmup_epochs > 0 => 0,
            Shape::Constant => epochs,
            Shape::Milestones { epochs: last, .. } => last.first().map_or(epochs, |last| epochs.min(*last)),
            Shape::Cosine { .. } => 0,
        }
    }

    /// Factor of the base rate in `epoch` (from 1), `batch` (from 0) of `batches`, in a run of `epochs`.
    pub fn factor(&self, epoch: usize, batch: usize, batches: usize, epochs: usize) -> f64 {
        // Numbers of epochs are what somebody wrote into a file.
        let done = (epoch - 1).saturating_mul(batches).saturating_add(batch);
        let warmup = self.warmup_epochs.saturating_mul(batches);
        if done < warmup {
            return (done + 1) as f64 / warmup as f64;
        }
        match &self.shape {
            Shape::Constant => 1.0,
            Shape::Milestones { epochs, gamma } => {
                gamma.powi(epochs.iter().filter(|m| epoch > **m).count() as i32)
            }
            Shape::Cosine { last } => {
                let total = epochs.saturating_mul(batches).saturating_sub(warmup).max(1);
                let share = (done - warmup) as f64 / total as f64;
                last + (1.0 - last) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let milestones = Shape::Milestones { epochs: vec![2, 4], gamma: 0.1 };
        let s = Schedule { shape: milestones, warmup_epochs: 0 };
        let at: Vec<f64> = (1..=5).map(|e| s.factor(e, 0, 10, 5)).collect();
        assert!(at.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01]).all(|(a, b)| (a - b).abs() < 1e-12), "{at:?}");
        let s = Schedule { shape: Shape::Cosine { last: 0.0 }, warmup_epochs: 1 };
        assert_eq!(s.factor(1, 0, 10, 3), 0.1);
        assert_eq!(s.factor(1, 9, 10, 3), 1.0);
        assert_eq!(s.factor(2, 0, 10, 3), 1.0);
        assert!((s.factor(3, 0, 10, 3) - 0.5).abs() < 1e-12);
        assert!(s.factor(3, 9, 10, 3) > 0.0);
        assert_eq!(Schedule::CONSTANT.factor(7, 3, 10, 30), 1.0);
        let s = Schedule { shape: Shape::Cosine { last: 0.5 }, warmup_epochs: usize::MAX / 2 };
        assert!(s.factor(3, 9, 10, 3) < 1e-15);
        assert_eq!(s.factor(usize::MAX, 9, 10, usize::MAX), 1.0);
    }
}
