//! DKD as the public reference implementation computes it, so that its NaN can be shown and explained.
use candle_core::Tensor;

use crate::check::{label_values, pair_shape};
use crate::softmax::{log_softmax, scaled_below_max};
use crate::{Batch, Decoupled, DkdWeights, Objective, Reduction, Result, Temperature, Term, Warmup};

/// What the reference subtracts from the label's scaled logit to push it out of the softmax.
const MASK: f64 = 1000.0;

/// TCKD and NCKD with the reference implementation's arithmetic, in the dtype of the logits (f32 in training).
///
/// Equal to [`decoupled`](crate::decoupled) in exact arithmetic on ordinary logits, with three defects, in margins
/// between the label's logit and the others, for f32:
/// - the binary distribution is summed from softmax probabilities and then taken the logarithm of: from a margin of
///   104 T one of them is 0 and the value is infinite or NaN (`0 * -inf`; then also with alpha = 0, as 0 times that);
/// - a little earlier, from about 91 T, the value is still right but the gradient `p / q` overflows;
/// - the label is left out of NCKD by subtracting 1000 from `z_y / T`: from 990 T on it is no longer left out.
///
/// Not for training: use [`decoupled`](crate::decoupled). Sums are divided by B.
///
/// # Errors
/// As for [`decoupled`](crate::decoupled), but values are not looked at: NaN in gives NaN out.
pub fn decoupled_reference(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
) -> Result<Decoupled> {
    let (rows, classes) = pair_shape(student, teacher, 2)?;
    let labels = label_values(labels, rows, classes)?;
    let target: Vec<u8> =
        labels.iter().flat_map(|&y| (0..classes as u32).map(move |j| u8::from(j == y))).collect();
    let target = Tensor::from_vec(target, (rows, classes), student.device())?.to_dtype(student.dtype())?;
    let others = (1.0 - &target)?;
    let teacher = teacher.detach().to_dtype(student.dtype())?;
    let scale = temperature.squared() / Reduction::BatchMean.divisor(rows, classes);

    let binary = |logits: &Tensor| -> Result<Tensor> {
        let p = softmax(&scaled_below_max(logits, temperature)?)?;
        let (p_y, rest) = ((&p * &target)?.sum_keepdim(1)?, (&p * &others)?.sum_keepdim(1)?);
        Ok(Tensor::cat(&[&p_y, &rest], 1)?)
    };
    let masked =
        |logits: &Tensor| -> Result<Tensor> { Ok(((logits / temperature.get())? - (&target * MASK)?)?) };
    let tckd = cross_sum(&binary(&teacher)?, &binary(student)?.log()?)?;
    let p = softmax(&scaled_below_max(&masked(&teacher)?, Temperature::ONE)?)?;
    let nckd = cross_sum(&p, &log_softmax(&masked(student)?, Temperature::ONE)?)?;
    Ok(Decoupled { tckd: (tckd * scale)?, nckd: (nckd * scale)? })
}

/// Softmax of rows whose maximum is 0.
fn softmax(scaled: &Tensor) -> Result<Tensor> {
    let e = scaled.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(1)?)?)
}

/// `sum p log p - p log q` over all elements, the first product 0 where p is 0, the second not.
fn cross_sum(p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
    // The smallest positive f32: p log p is then 0 at p = 0 and unchanged elsewhere.
    let log_p = p.maximum(f64::from(f32::from_bits(1)))?.log()?;
    Ok(((p * log_p)? - (p * log_q)?)?.sum_all()?)
}

/// The objective made of [`decoupled_reference`]: the terms of [`Dkd`](crate::Dkd), with the reference's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DkdReference {
    /// Weights of the two parts.
    pub weights: DkdWeights,
    /// Softmax temperature T.
    pub temperature: Temperature,
    /// Growth of both weights over the first epochs.
    pub warmup: Warmup,
}

impl Objective for DkdReference {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("dkd_reference")?);
        let parts = decoupled_reference(student, teacher, batch.labels, self.temperature)?;
        let factor = self.warmup.factor(batch.epoch);
        Ok(vec![
            Term::new("tckd", parts.tckd, self.weights.alpha * factor),
            Term::new("nckd", parts.nckd, self.weights.beta * factor),
        ])
    }
}
