//! The transposed convolution, which enlarges: the input gradient of a convolution as a function of its own.

use super::call::Call;
use super::convolution::{Convolution, Of};
use super::sizes::Sizes;
use crate::{Cpu, padded_channels};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// PyTorch's `conv_transpose2d` with one group and no output padding: every pixel `x[b, i, r, q]` adds
/// `weight[i, o, u, v] · x[b, i, r, q]` to `y[b, o, r·stride + u − padding, q·stride + v − padding]`, and `bias[o]` is added once.
///
/// `x`: `[B, Cin, H, W]`, any strides; `weight`: `[Cin, Cout, kh, kw]`; `bias`: `[Cout]`; all f32 or all f64. The result is
/// `[B, Cout, (H − 1)·stride + kh − 2·padding, (W − 1)·stride + kw − 2·padding]`, contiguous. Images are shared among the
/// threads of `cpu`; f64 takes plain loops on one thread.
///
/// # Errors
/// A shape or type that does not fit, an empty dimension, a stride of 0, a padding that leaves nothing of the result.
pub fn conv_transpose2d(
    cpu: &Arc<Cpu>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let settings = format!("stride {stride}, padding {padding}");
    let call = Call::new("conv_transpose2d", x, [("weight", Some(weight)), ("bias", bias)], settings);
    let [batch, channels, height, width] = call.images()?;
    let [outputs, kh, kw] = match *weight.dims() {
        [inputs, outputs, kh, kw] if inputs == channels => [outputs, kh, kw],
        _ => {
            return call
                .expected(format_args!("weight of shape [{channels}, outputs, kernel rows, columns]"));
        }
    };
    call.vector("bias", bias, outputs)?;
    if stride == 0 {
        return call.expected("a stride of at least 1");
    }
    let full = |n: usize, k: usize| (n - 1).saturating_mul(stride).saturating_add(k);
    let (full_rows, full_columns) = (full(height, kh), full(width, kw));
    call.fits("an image of the result", &[padded_channels(outputs), full_rows, full_columns])?;
    let inside = |n: usize| n.checked_sub(padding.saturating_mul(2)).filter(|n| *n > 0);
    let (Some(rows), Some(columns)) = (inside(full_rows), inside(full_columns)) else {
        return call.expected(format_args!(
            "a padding that leaves something of the {full_rows} rows and {full_columns} columns, of which it takes {padding} \
             on each side"
        ));
    };
    // The convolution of which this is the input gradient goes from the result's size to that of x.
    let sizes = Sizes {
        batch,
        input: [outputs, rows, columns],
        output: [channels, height, width],
        kernel: (kh, kw),
        stride,
        padding,
    };
    Convolution::new(cpu, sizes.checked(&call)?, Of::Input).apply(x, weight, bias)
}
