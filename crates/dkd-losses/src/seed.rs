//! The distillation loss of the small replication that this project grew from, quirks included.
use candle_core::Tensor;

use crate::cross_entropy::cross_entropy_unchecked;
use crate::kd::kd_unchecked;
use crate::{Batch, Error, Objective, Reduction, Result, Temperature, Term};

/// The replication's distillation objective: `(T² + a) KL / (B C) + (1 - a) CE`.
///
/// What was meant is `a T² KL / B + (1 - a) CE`. Two things differ: the divergence is divided by the number of classes
/// as well (the default reduction of PyTorch's `KLDivLoss`), and `T² * a` became `T² + a`. It also adds 1 to the
/// logits before the softmax, which changes nothing and is left out here. At T = 1, a = 0.5 and ten classes this is
/// `0.15 KL + 0.5 CE`; at T = 5, `2.55 KL + 0.5 CE`.
///
/// Terms: `kd`, the divergence with [`Reduction::Mean`] and without T², weight T² + a; `ce`, weight 1 - a.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeedKd {
    temperature: Temperature,
    a: f64,
}

impl SeedKd {
    /// The objective with temperature T and balance `a`.
    ///
    /// # Errors
    /// [`Error::Setting`] unless `a` is finite (the replication also tried values above 1).
    pub fn new(temperature: Temperature, a: f64) -> Result<Self> {
        if a.is_finite() {
            return Ok(Self { temperature, a });
        }
        Err(Error::Setting { method: "seed_kd", key: "a", value: a, expected: "a finite number" })
    }

    fn divergence(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let with_square = kd_unchecked(student, teacher, self.temperature, Reduction::Mean)?;
        Ok((with_square / self.temperature.squared())?)
    }
}

impl Objective for SeedKd {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let student = batch.student_logits()?;
        let divergence = self.divergence(student, batch.teacher_logits("seed_kd")?)?;
        Ok(vec![
            Term::new("kd", divergence, self.temperature.squared() + self.a),
            Term::new("ce", cross_entropy_unchecked(student, batch.labels, 0.0)?, 1.0 - self.a),
        ])
    }
}
