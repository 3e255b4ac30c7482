//! The linear warm-up of a loss weight.

/// A weight that grows linearly over the first epochs: `min(epoch / epochs, 1)`, epochs counted from 1.
///
/// DKD's authors use 20 epochs on CIFAR-100: the first epoch runs with a twentieth of the weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmup {
    /// Length in epochs; 0 means full weight from the start.
    pub epochs: usize,
}

impl Warmup {
    /// Full weight from the start.
    pub const NONE: Self = Self { epochs: 0 };

    /// The factor in (0, 1] for `epoch`, counted from 1.
    pub fn factor(self, epoch: usize) -> f64 {
        if epoch >= self.epochs { 1.0 } else { epoch as f64 / self.epochs as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_one_and_stays() {
        let w = Warmup { epochs: 20 };
        assert_eq!((w.factor(1), w.factor(10), w.factor(20), w.factor(21)), (0.05, 0.5, 1.0, 1.0));
        assert_eq!(Warmup::NONE.factor(1), 1.0);
    }
}
