//! Curriculum temperature: KD at a temperature that is learned against the student.
use std::f64::consts::PI;

use candle_core::{Device, Tensor, Var};

use crate::check::{check_logits, check_weight, pair_shape};
use crate::softmax::{kl_sum, log_softmax, narrowed, scaled_below_max, widen};
use crate::{Batch, Error, Objective, Result, Setup, Temperature, Term};

/// The parameter's first value; the temperature is then 15.6 with the default range.
const START: f32 = 1.0;

/// Where the learned temperature may lie, and how fast its gradient is reversed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curriculum {
    /// The lowest temperature.
    pub temperature_min: f64,
    /// The highest temperature less the lowest.
    pub temperature_range: f64,
    /// Epochs until the temperature's gradient is fully reversed; 0 for at once.
    pub epochs: usize,
}

impl Default for Curriculum {
    /// The paper's setting: from 1 to 21, over 10 epochs.
    fn default() -> Self {
        Self { temperature_min: 1.0, temperature_range: 20.0, epochs: 10 }
    }
}

impl Curriculum {
    /// Strength of the reversal in `epoch`, counted from 1: `(1 - cos(pi min(epoch / epochs, 1))) / 2`.
    pub fn strength(self, epoch: usize) -> f64 {
        if epoch >= self.epochs {
            return 1.0;
        }
        0.5 * (1.0 - (PI * epoch as f64 / self.epochs as f64).cos())
    }

    fn check(self) -> Result<Self> {
        let value = self.temperature_min;
        if !(value.is_finite() && value > 0.0) {
            let expected = "a finite number above 0";
            return Err(Error::Setting { method: "ctkd", key: "temperature_min", value, expected });
        }
        check_weight("ctkd", "temperature_range", self.temperature_range)?;
        Ok(self)
    }

    /// `T(theta)`, shape [1, 1], f64, its gradient multiplied by minus the strength.
    fn temperature(self, theta: &Tensor, epoch: usize) -> Result<Tensor> {
        let theta = widen(theta)?.reshape((1, 1))?;
        let fixed = theta.detach();
        // The difference is 0: it carries the gradient and leaves the value as it is.
        let reversed = (&fixed + ((&theta - &fixed)? * -self.strength(epoch))?)?;
        // The logistic function by tanh, whose derivative is finite everywhere.
        let logistic = ((reversed * 0.5)?.tanh()?.affine(0.5, 0.5))?;
        Ok(logistic.affine(self.temperature_range, self.temperature_min)?)
    }
}

/// `CTKD = T² mean_i KL(softmax(t_i / T) || softmax(s_i / T))` of `student` and `teacher` logits, both [B, C], at the learned
/// temperature `T = temperature_min + temperature_range / (1 + exp(-theta))`; `theta` is a single number.
///
/// Li, Li, Yang, Zhao, Song, Luo, Li, Yang: *Curriculum temperature for knowledge distillation* (AAAI 2023), with one
/// temperature for all samples (the paper also has one per sample, from a small network). The value is
/// [`kd`](crate::kd)'s. The gradient of the student's logits is KD's as well; that of `theta` is its derivative times
/// `-`[`Curriculum::strength`], so that a descent step makes the temperature harder for the student. T moves the teacher's
/// probabilities and the factor T², too; the teacher's logits are a constant. Computed in f64; result f32 (f64 for f64
/// logits); value and gradients are finite for all finite logits and theta. Costs as KD.
///
/// # Errors
/// [`Error::Shape`] unless both are [B, C] with B, C >= 1; [`Error::Setting`] unless the lowest temperature is above 0 and
/// the range at least 0, both finite; [`Error::NotFinite`] for NaN or infinity in the logits.
pub fn ctkd(
    student: &Tensor,
    teacher: &Tensor,
    theta: &Tensor,
    curriculum: Curriculum,
    epoch: usize,
) -> Result<Tensor> {
    let value = ctkd_unchecked(student, teacher, &curriculum.check()?.temperature(theta, epoch)?)?;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// KD at a temperature [1, 1] that is differentiated with respect to.
fn ctkd_unchecked(student: &Tensor, teacher: &Tensor, temperature: &Tensor) -> Result<Tensor> {
    let (rows, _) = pair_shape(student, teacher, 1)?;
    let log_probabilities = |logits: &Tensor| -> Result<Tensor> {
        let below = scaled_below_max(&widen(logits)?, Temperature::ONE)?;
        log_softmax(&below.broadcast_div(temperature)?, Temperature::ONE)
    };
    let divergence = kl_sum(&log_probabilities(&teacher.detach())?, &log_probabilities(student)?)?;
    narrowed(&(divergence * temperature.sqr()?.reshape(())?)?, 1.0 / rows as f64, student)
}

/// The objective of curriculum temperature: one term `ctkd`, and the parameter `theta`, from which the temperature comes.
/// See [`ctkd`].
#[derive(Debug)]
pub struct Ctkd {
    curriculum: Curriculum,
    theta: Var,
}

impl Ctkd {
    /// A temperature that starts at `theta = 1` and is learned as `curriculum` says.
    ///
    /// # Errors
    /// [`Error::Setting`] unless the lowest temperature is above 0 and the range at least 0, both finite.
    pub fn new(curriculum: Curriculum) -> Result<Self> {
        Ok(Self { curriculum: curriculum.check()?, theta: theta_on(&Device::Cpu)? })
    }
}

fn theta_on(device: &Device) -> Result<Var> {
    Ok(Var::from_tensor(&Tensor::full(START, 1, device)?)?)
}

impl Objective for Ctkd {
    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.theta = theta_on(setup.device)?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let temperature = self.curriculum.temperature(self.theta.as_tensor(), batch.epoch)?;
        let value = ctkd_unchecked(batch.student_logits()?, batch.teacher_logits("ctkd")?, &temperature)?;
        Ok(vec![Term::new("ctkd", value, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        vec![("theta".to_owned(), self.theta.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reversal_grows_to_one_and_stays() {
        let curriculum = Curriculum::default();
        assert!((curriculum.strength(5) - 0.5).abs() < 1e-15);
        assert!((curriculum.strength(1) - 0.024_471_741_852_423_2).abs() < 1e-12);
        assert_eq!((curriculum.strength(10), curriculum.strength(11)), (1.0, 1.0));
        assert_eq!(Curriculum { epochs: 0, ..curriculum }.strength(1), 1.0);
    }
}
