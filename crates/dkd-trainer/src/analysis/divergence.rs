//! How far a student's probabilities are from its teacher's: KD and the two parts that DKD makes of it.

use super::Answers;
use super::gradients::chunks;
use crate::Result;
use dkd_losses::{Reduction, Temperature, decoupled, kd};
use serde::Serialize;

/// Means over the images, T² included, in nats. Row by row `KD = TCKD + (1 - p_y) NCKD`, p_y the teacher's probability of the
/// label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Divergence {
    /// [`dkd_losses::kd`].
    pub kd: f64,
    /// [`dkd_losses::tckd`].
    pub tckd: f64,
    /// [`dkd_losses::nckd`].
    pub nckd: f64,
}

impl Divergence {
    /// Of two networks that have seen the same images.
    ///
    /// # Errors
    /// Those of the losses.
    pub fn of(teacher: &Answers, student: &Answers, temperature: Temperature) -> Result<Self> {
        let mut sum = Self::default();
        let mut images = 0;
        for part in chunks(teacher, student)? {
            let (student, teacher, labels) = (&part.student, &part.teacher, &part.labels);
            let parts = decoupled(student, teacher, labels, temperature, Reduction::Sum)?;
            sum.kd += kd(student, teacher, temperature, Reduction::Sum)?.to_scalar::<f64>()?;
            sum.tckd += parts.tckd.to_scalar::<f64>()?;
            sum.nckd += parts.nckd.to_scalar::<f64>()?;
            images += labels.elem_count();
        }
        let mean = |v: f64| v / images.max(1) as f64;
        Ok(Self { kd: mean(sum.kd), tckd: mean(sum.tckd), nckd: mean(sum.nckd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn said(logits: &[[f32; 3]; 1]) -> Answers {
        Answers { logits: Tensor::new(logits, &Device::Cpu).unwrap(), labels: vec![0], features: Vec::new() }
    }

    #[test]
    fn the_parts_make_the_whole() {
        let (t, s) = ([[2.0_f32, 1.0, -1.0]], [[0.5_f32, -0.5, 0.25]]);
        let found = Divergence::of(&said(&t), &said(&s), Temperature::new(2.0).unwrap()).unwrap();
        let sum: f64 = t[0].iter().map(|v| (f64::from(*v) / 2.0).exp()).sum();
        let p = (f64::from(t[0][0]) / 2.0).exp() / sum;
        assert!((found.kd - found.tckd - (1.0 - p) * found.nckd).abs() < 1e-12, "{found:?}");
        assert!(found.tckd > 0.0 && found.nckd > 0.0);
        let none = Divergence::of(&said(&t), &said(&t), Temperature::FOUR).unwrap();
        assert_eq!(none, Divergence::default());
    }
}
