//! Batch normalisation with the statistics of the batch itself.

use super::batch::{Batch, Operand, planes, vector};
use super::call::Call;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType};

/// PyTorch's `batch_norm` in training: `y = (x − mean) / √(var + eps) · weight + bias`, with the mean and the biased variance of
/// each channel over images and pixels. Running statistics are not kept.
///
/// `x`: `[B, C, H, W]`, any strides; `weight` and `bias`: `[C]`; all f32 or all f64. The result has the shape of x and is
/// contiguous. Sums are formed in f64.
///
/// # Errors
/// A shape or type that does not fit, an empty dimension, a single value per channel, an `eps` that is not a positive number.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let others = [("weight", Some(weight)), ("bias", Some(bias))];
    let call = Call::new("batch_norm", x, others, format!("eps {eps}"));
    let [batch, channels, height, width] = call.images()?;
    call.vector("weight", Some(weight), channels)?;
    call.vector("bias", Some(bias), channels)?;
    if !(eps > 0.0 && eps.is_finite()) {
        return call.expected("a positive eps");
    }
    if batch * height * width == 1 {
        return call.expected("more than one value per channel, whose variance would be 0");
    }
    x.apply_op3(weight, bias, BatchNorm { eps })
}

pub(super) struct BatchNorm {
    pub eps: f64,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "dkd-batch-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match s1 {
            CpuStorage::F32(_) => normalized::<f32>((s1, l1), (s2, l2), (s3, l3), self.eps),
            _ => normalized::<f64>((s1, l1), (s2, l2), (s3, l3), self.eps),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let all = x.apply_op3_no_bwd(weight, grad, &Gradients { eps: self.eps })?;
        let (n, channels) = (x.elem_count(), weight.elem_count());
        Ok((
            Some(all.narrow(0, 0, n)?.reshape(x.shape())?),
            Some(all.narrow(0, n, channels)?),
            Some(all.narrow(0, n + channels, channels)?),
        ))
    }
}

/// The gradients of x, weight and bias one after the other, from x, the weight and the gradient of the result.
struct Gradients {
    eps: f64,
}

impl CustomOp3 for Gradients {
    fn name(&self) -> &'static str {
        "dkd-batch-norm-gradients"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match s1 {
            CpuStorage::F32(_) => gradients::<f32>((s1, l1), (s2, l2), (s3, l3), self.eps),
            _ => gradients::<f64>((s1, l1), (s2, l2), (s3, l3), self.eps),
        }
    }
}

/// A channel's statistics.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    mean: f64,
    /// 1 / √(var + eps).
    inverse: f64,
}

/// Statistics of the channels of a contiguous batch, in two passes, as differences from the mean do not cancel.
fn moments<T: WithDType>(x: &[T], channels: usize, plane: usize, eps: f64) -> Vec<Moments> {
    let count = (x.len() / channels) as f64;
    let mut all = vec![Moments::default(); channels];
    for (c, plane) in planes(x, channels, plane) {
        all[c].mean += plane.iter().map(|v| v.to_f64()).sum::<f64>();
    }
    all.iter_mut().for_each(|m| m.mean /= count);
    for (c, plane) in planes(x, channels, plane) {
        let mean = all[c].mean;
        all[c].inverse += plane.iter().map(|v| (v.to_f64() - mean).powi(2)).sum::<f64>();
    }
    all.iter_mut().for_each(|m| m.inverse = 1.0 / (m.inverse / count + eps).sqrt());
    all
}

fn normalized<T: WithDType>(
    x: Operand,
    weight: Operand,
    bias: Operand,
    eps: f64,
) -> Result<(CpuStorage, Shape)> {
    let (batch, weight, bias) = (Batch::<T>::new(x)?, vector::<T>(weight)?, vector::<T>(bias)?);
    let (x, channels, n) = (batch.contiguous(), batch.dims[1], batch.plane());
    let moments = moments(&x, channels, n, eps);
    let mut y = Vec::with_capacity(x.len());
    for (c, plane) in planes(&x, channels, n) {
        let (mean, scale, bias) =
            (moments[c].mean, moments[c].inverse * weight[c].to_f64(), bias[c].to_f64());
        y.extend(plane.iter().map(|v| T::from_f64((v.to_f64() - mean) * scale + bias)));
    }
    Ok((T::to_cpu_storage_owned(y), Shape::from(&batch.dims[..])))
}

/// With x̂ = (x − mean) / √(var + eps) and g the gradient of y: dbias = Σ g, dweight = Σ g x̂ and
/// dx = weight / √(var + eps) · (g − mean(g) − x̂ mean(g x̂)).
fn gradients<T: WithDType>(
    x: Operand,
    weight: Operand,
    grad: Operand,
    eps: f64,
) -> Result<(CpuStorage, Shape)> {
    let (batch, weight, grad) = (Batch::<T>::new(x)?, vector::<T>(weight)?, Batch::<T>::new(grad)?);
    let (x, grad, channels, n) = (batch.contiguous(), grad.contiguous(), batch.dims[1], batch.plane());
    let moments = moments(&x, channels, n, eps);
    let pairs = || planes(&x, channels, n).zip(grad.chunks_exact(n));
    let (mut of_weight, mut of_bias) = (vec![0.0; channels], vec![0.0; channels]);
    for ((c, x), grad) in pairs() {
        let Moments { mean, inverse } = moments[c];
        let products = x.iter().zip(grad).map(|(x, g)| (x.to_f64() - mean) * g.to_f64());
        of_weight[c] += inverse * products.sum::<f64>();
        of_bias[c] += grad.iter().map(|g| g.to_f64()).sum::<f64>();
    }
    let count = (x.len() / channels) as f64;
    let mut all = Vec::with_capacity(x.len() + 2 * channels);
    for ((c, x), grad) in pairs() {
        let Moments { mean, inverse } = moments[c];
        let (scale, mean_g, slope) =
            (inverse * weight[c].to_f64(), of_bias[c] / count, inverse * of_weight[c] / count);
        let dx = |x: &T, g: &T| scale * (g.to_f64() - mean_g - (x.to_f64() - mean) * slope);
        all.extend(x.iter().zip(grad).map(|(x, g)| T::from_f64(dx(x, g))));
    }
    all.extend(of_weight.into_iter().chain(of_bias).map(T::from_f64));
    let shape = Shape::from(all.len());
    Ok((T::to_cpu_storage_owned(all), shape))
}
