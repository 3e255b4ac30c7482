//! Resizing by repeating or leaving out pixels.

use super::pool::means;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// PyTorch's `interpolate(x, size, mode="nearest")`: pixel (r, q) of the result is pixel (⌊r·H/h⌋, ⌊q·W/w⌋) of x, where the products
/// are rounded to f32 as in PyTorch, for f64 tensors too.
///
/// `x`: `[B, C, H, W]`, f32 or f64, any strides; `size`: (h, w). The result is `[B, C, h, w]`, contiguous; where that is the shape
/// of x, it is x itself. Gradients are summed in f64.
///
/// # Errors
/// x has another number of dimensions or another type; an empty dimension, or one of `size` is 0.
pub fn resize_nearest2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    means("resize_nearest2d", x, size, nearest)
}

fn nearest(from: usize, to: usize, i: usize) -> Range<usize> {
    let scale = from as f32 / to as f32;
    let source = ((i as f32 * scale) as usize).min(from - 1);
    source..source + 1
}
