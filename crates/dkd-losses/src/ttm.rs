//! Transformed teacher matching: the teacher's probabilities raised to a power, the student left as it is.
use candle_core::Tensor;

use crate::check::{check_logits, pair_shape};
use crate::softmax::{log_softmax, narrowed, widen};
use crate::{Batch, Error, Objective, Result, Temperature, Term};

/// `TTM = mean_i KL(p~_i || softmax(s_i))` of `student` and `teacher` logits, both [B, C], with the teacher's
/// probabilities power-transformed: `p~_j = p_j^gamma / sum_k p_k^gamma`, p = softmax(t).
///
/// Zheng, Yang: *Knowledge distillation based on transformed teacher matching* (ICLR 2024). p~ is the softmax at
/// temperature 1 / gamma, so this is KD without a temperature on the student's side, and without T². The teacher is a
/// constant; computed in f64 from log-softmax, result f32 (f64 for f64 logits); value and gradient are finite for all
/// finite logits. The gradient is `(softmax(s) - p~) / B`. Costs O(B C).
///
/// # Errors
/// [`Error::Shape`] unless both are [B, C] with B, C >= 1; [`Error::Setting`] unless gamma is finite and above 0;
/// [`Error::NotFinite`] for NaN or infinity in the logits.
pub fn ttm(student: &Tensor, teacher: &Tensor, gamma: f64) -> Result<Tensor> {
    let value = Ttm::new(gamma)?.value(student, teacher)?;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// `WTTM = mean_i U_i KL(p~_i || softmax(s_i))`: [`ttm`] with each sample weighted by `U = sum_k p_k^gamma`, the power sum
/// that the transformed probabilities are divided by.
///
/// U is between 1 and C^(1 - gamma) for gamma < 1, larger the flatter the teacher's answer. Source, arguments, precision
/// and errors as for [`ttm`].
///
/// # Errors
/// As for [`ttm`].
pub fn wttm(student: &Tensor, teacher: &Tensor, gamma: f64) -> Result<Tensor> {
    let value = Ttm::weighted(gamma)?.value(student, teacher)?;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// The objective of transformed teacher matching, one term `ttm` or `wttm`. See [`ttm`] and [`wttm`].
///
/// The authors' example on CIFAR-100 takes gamma = 0.1 with a weight of 45 for TTM, beside a cross-entropy of weight 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ttm {
    name: &'static str,
    gamma: f64,
    temperature: Temperature,
    weighted: bool,
}

impl Ttm {
    /// TTM with this exponent.
    ///
    /// # Errors
    /// [`Error::Setting`] unless gamma is finite and above 0.
    pub fn new(gamma: f64) -> Result<Self> {
        Self::named("ttm", gamma, false)
    }

    /// WTTM with this exponent.
    ///
    /// # Errors
    /// [`Error::Setting`] unless gamma is finite and above 0.
    pub fn weighted(gamma: f64) -> Result<Self> {
        Self::named("wttm", gamma, true)
    }

    fn named(name: &'static str, gamma: f64, weighted: bool) -> Result<Self> {
        match Temperature::new(1.0 / gamma) {
            Ok(temperature) if gamma.is_finite() => Ok(Self { name, gamma, temperature, weighted }),
            _ => {
                let expected = "a finite number above 0";
                Err(Error::Setting { method: name, key: "gamma", value: gamma, expected })
            }
        }
    }

    /// The loss without a look at the values: NaN in gives NaN out.
    fn value(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let (rows, _) = pair_shape(student, teacher, 1)?;
        let log_p = log_softmax(&widen(&teacher.detach())?, Temperature::ONE)?;
        let transformed = log_softmax(&log_p, self.temperature)?;
        let log_q = log_softmax(&widen(student)?, Temperature::ONE)?;
        let mut divergence = (transformed.exp()? * (&transformed - log_q)?)?.sum_keepdim(1)?;
        if self.weighted {
            divergence = (divergence * (log_p * self.gamma)?.exp()?.sum_keepdim(1)?)?;
        }
        narrowed(&divergence.sum_all()?, 1.0 / rows as f64, student)
    }
}

impl Objective for Ttm {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let value = self.value(batch.student_logits()?, batch.teacher_logits(self.name)?)?;
        Ok(vec![Term::new(self.name, value, 1.0)])
    }
}
