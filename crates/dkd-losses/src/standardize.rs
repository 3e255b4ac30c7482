//! Logit standardisation: every row to mean 0 and standard deviation 1.
use candle_core::Tensor;

use crate::check::logits_shape;
use crate::softmax::{sqrt_from_zero, widen};
use crate::{Outputs, Result, View};

/// Added to the standard deviation that a row is divided by.
const EPSILON: f64 = 1e-7;

/// `z_i = (x_i - mean(x_i)) / (1e-7 + std(x_i))` of each row of `logits` [B, C], in the same dtype.
///
/// Sun, Ren, Li, Wang, Cao: *Logit standardization in knowledge distillation* (CVPR 2024). Applied to both networks it frees
/// the student from matching the size of the teacher's logits: a softmax temperature then acts on the same scale for each.
/// The standard deviation is the unbiased one (divided by C - 1), as in the authors' program. A constant row becomes 0, and
/// its gradient is finite (up to 1e7 times that of z). Computed in f64. Costs O(B C).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless `logits` is [B, C] with B, C >= 1. Values are not looked at.
pub fn standardized(logits: &Tensor) -> Result<Tensor> {
    z_score("logits", logits)
}

/// [`standardized`], `name` being for the message about a shape.
fn z_score(name: &str, logits: &Tensor) -> Result<Tensor> {
    let (_, classes) = logits_shape(name, logits, 1)?;
    let wide = widen(logits)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(1)?)?;
    let freedom = classes.saturating_sub(1).max(1) as f64;
    let deviation = sqrt_from_zero(&(centred.sqr()?.sum_keepdim(1)? / freedom)?)?;
    Ok(centred.broadcast_div(&(deviation + EPSILON)?)?.to_dtype(logits.dtype())?)
}

impl View {
    /// The same view with [`standardized`] logits of student and teacher.
    pub(crate) fn standardized(&self) -> Result<Self> {
        let of = |name, outputs: &Outputs| -> Result<Outputs> {
            Ok(Outputs { logits: z_score(name, &outputs.logits)?, taps: outputs.taps.clone() })
        };
        let teacher = self.teacher.as_ref().map(|teacher| of("teacher logits", teacher));
        Ok(Self { student: of("student logits", &self.student)?, teacher: teacher.transpose()? })
    }
}
