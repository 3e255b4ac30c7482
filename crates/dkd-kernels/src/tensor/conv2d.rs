//! y = conv(x, weight) + bias.

use super::call::Call;
use super::convolution::{Convolution, Of};
use super::sizes::Sizes;
use crate::{Cpu, padded_channels};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// PyTorch's `conv2d` with one group: `y[b, o, r, q] = bias[o] + Σ_{i, u, v} weight[o, i, u, v] · x[b, i, r·stride + u − padding,
/// q·stride + v − padding]`, pixels outside x being 0.
///
/// `x`: `[B, Cin, H, W]`, any strides; `weight`: `[Cout, Cin, kh, kw]`; `bias`: `[Cout]`; all f32 or all f64. The result is
/// `[B, Cout, (H + 2·padding − kh) / stride + 1, (W + 2·padding − kw) / stride + 1]`, contiguous. Images are shared among
/// the threads of `cpu`; f64 takes plain loops on one thread. In f32, kernels of 3x3 with stride 1 may take Winograd's minimal filtering
/// ([`crate::conv2d`]).
///
/// # Errors
/// A shape or type that does not fit, an empty dimension, a stride of 0, a kernel larger than the padded image.
pub fn conv2d(
    cpu: &Arc<Cpu>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let settings = format!("stride {stride}, padding {padding}");
    let call = Call::new("conv2d", x, [("weight", Some(weight)), ("bias", bias)], settings);
    let [batch, channels, height, width] = call.images()?;
    let [outputs, kh, kw] = match *weight.dims() {
        [outputs, inputs, kh, kw] if inputs == channels => [outputs, kh, kw],
        _ => {
            return call
                .expected(format_args!("weight of shape [outputs, {channels}, kernel rows, columns]"));
        }
    };
    call.vector("bias", bias, outputs)?;
    if stride == 0 {
        return call.expected("a stride of at least 1");
    }
    let padded = |n: usize| n.saturating_add(padding.saturating_mul(2));
    call.fits("a padded image", &[padded_channels(channels), padded(height), padded(width)])?;
    let size = |n: usize, k: usize| Some(padded(n).checked_sub(k)? / stride + 1);
    let (Some(rows), Some(columns)) = (size(height, kh), size(width, kw)) else {
        return call.expected("a kernel no larger than the padded image");
    };
    let sizes = Sizes {
        batch,
        input: [channels, height, width],
        output: [outputs, rows, columns],
        kernel: (kh, kw),
        stride,
        padding,
    };
    Convolution::new(cpu, sizes.checked(&call)?, Of::Output).apply(x, weight, bias)
}
