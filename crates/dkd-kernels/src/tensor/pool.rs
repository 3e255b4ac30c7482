//! Average pooling to a given size.

use super::call::Call;
use super::windows::WindowMeans;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// PyTorch's `adaptive_avg_pool2d`: pixel (r, q) of the result is the mean of the rows ⌊r·H/h⌋ up to ⌈(r + 1)·H/h⌉ and of the
/// columns alike. The result may also be larger than x.
///
/// `x`: `[B, C, H, W]`, f32 or f64, any strides; `size`: (h, w). The result is `[B, C, h, w]`, contiguous; where that is the shape
/// of x, it is x itself. Sums are formed in f64.
///
/// # Errors
/// x has another number of dimensions or another type; an empty dimension, or one of `size` is 0.
pub fn adaptive_avg_pool2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    means("adaptive_avg_pool2d", x, size, window)
}

fn window(from: usize, to: usize, i: usize) -> Range<usize> {
    // Products of two sizes may be beyond 64 bits.
    let (wide_from, wide_to, wide_i) = (from as u128, to as u128, i as u128);
    (wide_i * wide_from / wide_to) as usize..((wide_i + 1) * wide_from).div_ceil(wide_to) as usize
}

/// Means over the windows of a function: also what resizing is.
pub(super) fn means(
    function: &'static str,
    x: &Tensor,
    size: (usize, usize),
    window: impl Fn(usize, usize, usize) -> Range<usize>,
) -> Result<Tensor> {
    let call = Call::new(function, x, [], format!("size [{}, {}]", size.0, size.1));
    let [batch, channels, height, width] = call.images()?;
    if size.0 == 0 || size.1 == 0 {
        return call.expected("a size of at least 1 x 1");
    }
    if size == (height, width) {
        return Ok(x.clone());
    }
    call.fits("the result", &[batch, channels, size.0, size.1])?;
    x.apply_op1(WindowMeans::new((height, width), size, window))
}
