//! Log-softmax rows and the divergence between two of them: what every logit loss is made of.
use candle_core::{DType, Tensor};

use crate::{Reduction, Result, Temperature};

/// `log softmax(logits / T)` along the last of two dimensions, shape [B, C], in the dtype of `logits`.
///
/// The row maximum is subtracted before the division by T, so that a large common offset costs no digits, and without
/// a gradient, since log-softmax does not depend on it. Finite for all finite logits: the largest term of the inner
/// sum is 1. Values are not looked at: a row with NaN or positive infinity becomes NaN.
///
/// # Errors
/// Only those of candle.
pub fn log_softmax(logits: &Tensor, temperature: Temperature) -> Result<Tensor> {
    let scaled = scaled_below_max(logits, temperature)?;
    let log_sum = log_sum_exp(&scaled)?;
    Ok(scaled.broadcast_sub(&log_sum)?)
}

/// Kullback-Leibler divergence `KL(p || q) = sum_j p_j (log p_j - log q_j)` of rows of log-probabilities, reduced to
/// a scalar. Shapes [B, C]; differentiable in both arguments.
///
/// An element with `p_j = 0` counts 0 as long as its logarithms are finite, which those of [`log_softmax`] are.
///
/// # Errors
/// Only those of candle.
pub fn kl_divergence(log_p: &Tensor, log_q: &Tensor, reduction: Reduction) -> Result<Tensor> {
    let (rows, classes) = log_p.dims2()?;
    Ok((kl_sum(log_p, log_q)? / reduction.divisor(rows, classes))?)
}

/// `sum_j p_j log q_j` of each row of log-probabilities, shape [B, 1]: the negative of a cross-entropy.
pub(crate) fn expected_log(log_p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
    Ok(log_p.exp()?.mul(log_q)?.sum_keepdim(1)?)
}

/// The divergence summed over all rows.
pub(crate) fn kl_sum(log_p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
    Ok(log_p.exp()?.mul(&(log_p - log_q)?)?.sum_all()?)
}

/// `(z - max(z)) / T` of each row, the maximum without gradient.
pub(crate) fn scaled_below_max(logits: &Tensor, temperature: Temperature) -> Result<Tensor> {
    scaled_below(logits, &row_max(logits)?, temperature)
}

/// `(z - offset) / T` with one offset per row, shape [B, 1].
pub(crate) fn scaled_below(logits: &Tensor, offset: &Tensor, temperature: Temperature) -> Result<Tensor> {
    let below = logits.broadcast_sub(offset)?;
    if temperature == Temperature::ONE { Ok(below) } else { Ok((below / temperature.get())?) }
}

/// The maximum of each row, shape [B, 1], as a constant.
pub(crate) fn row_max(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.detach().max_keepdim(1)?)
}

/// `log sum_j exp(x_j)` of each row, shape [B, 1], for rows whose maximum is 0.
pub(crate) fn log_sum_exp(scaled: &Tensor) -> Result<Tensor> {
    Ok(scaled.exp()?.sum_keepdim(1)?.log()?)
}

/// `sqrt(x)` of f64 numbers at least 0, with a finite derivative at 0.
///
/// Where x is a sum of squares, the gradient of each summand at 0 is then 0, not 0 times infinity. The offset vanishes
/// beside any x above 1e-284.
pub(crate) fn sqrt_from_zero(x: &Tensor) -> Result<Tensor> {
    Ok((x + 1e-300)?.sqrt()?)
}

/// The logits in the precision losses are computed in: f64.
///
/// At a large temperature a loss is T² times the difference of nearly equal numbers: at T = 100, f32 would leave an
/// absolute error of about 0.01. The tensors are small (B x C), so the wider arithmetic costs microseconds.
pub(crate) fn widen(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.to_dtype(DType::F64)?)
}

/// A scalar of [`widen`]ed arithmetic times `scale`, back in the precision of the logits: f64 for f64, else f32.
pub(crate) fn narrowed(value: &Tensor, scale: f64, logits: &Tensor) -> Result<Tensor> {
    let dtype = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok((value * scale)?.to_dtype(dtype)?)
}
