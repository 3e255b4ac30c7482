//! Knowledge distillation: the divergence between the softened outputs of teacher and student.
use candle_core::Tensor;

use crate::check::{check_logits, pair_shape};
use crate::softmax::{kl_sum, log_softmax, narrowed, widen};
use crate::{Batch, Objective, Reduction, Result, Temperature, Term};

/// `KD = T² reduce_i KL(softmax(t_i / T) || softmax(s_i / T))` of `student` and `teacher` logits, both [B, C].
///
/// Hinton, Vinyals, Dean: *Distilling the knowledge in a neural network* (2015). The teacher is a constant. With
/// [`Reduction::BatchMean`] the gradient is `T (softmax(s/T) - softmax(t/T)) / B`. Computed in f64 from log-softmax;
/// the result is f32 (f64 for f64 logits). Exactly 0 for identical logits; finite, with a finite gradient, for all
/// finite logits.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are [B, C] with B, C >= 1;
/// [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in either.
pub fn kd(
    student: &Tensor,
    teacher: &Tensor,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Tensor> {
    let value = kd_unchecked(student, teacher, temperature, reduction)?;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// [`kd`] without a look at the values: NaN in gives NaN out.
pub(crate) fn kd_unchecked(
    student: &Tensor,
    teacher: &Tensor,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Tensor> {
    let (rows, classes) = pair_shape(student, teacher, 1)?;
    let log_p = log_softmax(&widen(&teacher.detach())?, temperature)?;
    let log_q = log_softmax(&widen(student)?, temperature)?;
    let scale = temperature.squared() / reduction.divisor(rows, classes);
    narrowed(&kl_sum(&log_p, &log_q)?, scale, student)
}

/// The objective of plain distillation: one term `kd`. See [`kd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kd {
    /// Softmax temperature T.
    pub temperature: Temperature,
    /// Divisor of the sum over all elements.
    pub reduction: Reduction,
}

impl Objective for Kd {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("kd")?);
        let value = kd_unchecked(student, teacher, self.temperature, self.reduction)?;
        Ok(vec![Term::new("kd", value, 1.0)])
    }
}
