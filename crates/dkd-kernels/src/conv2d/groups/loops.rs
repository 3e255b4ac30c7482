//! The loops over output pixels, kernel positions and channels; safe code that is compiled for each instruction set.

use crate::Map;
use crate::conv2d::ConvGeometry;
use crate::simd::{Simd, simd_kernel};

/// Which input channels an output channel reads.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Input channels of a group.
    pub inputs: usize,
    /// First input channel of each (padded) output channel.
    pub source: Vec<usize>,
    /// Whether output channel o reads input channel o only.
    pub depthwise: bool,
}

/// Calls `f(output row, output column, kernel row, kernel column)` in a fixed order.
#[inline(always)]
fn positions(g: &ConvGeometry, mut f: impl FnMut(usize, usize, usize, usize)) {
    for oy in 0..g.output.height {
        for ox in 0..g.output.width {
            for ky in 0..g.kernel.0 {
                for kx in 0..g.kernel.1 {
                    f(oy, ox, ky, kx);
                }
            }
        }
    }
}

/// Row and column of the input that a kernel position sees; may lie in the padding.
#[inline(always)]
fn seen(g: &ConvGeometry, oy: usize, ox: usize, ky: usize, kx: usize) -> (isize, isize) {
    let at = |o: usize, s: usize, k: usize, p: usize| (o * s + k) as isize - p as isize;
    (at(oy, g.stride.0, ky, g.padding.0), at(ox, g.stride.1, kx, g.padding.1))
}

/// # Safety
/// None beyond the instruction set's.
#[inline(always)]
unsafe fn forward_body<S: Simd>(
    g: &ConvGeometry,
    s: &Sizes,
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let n = s.source.len();
    positions(g, |oy, ox, ky, kx| {
        let at = g.output.at(oy as isize, ox as isize);
        let out = &mut y[at..at + n];
        if ky == 0 && kx == 0 {
            out.copy_from_slice(bias);
        }
        let (iy, ix) = seen(g, oy, ox, ky, kx);
        let pixel = &x[g.input.at(iy, ix)..][..g.input.stride];
        for i in 0..s.inputs {
            let weights = &w[((ky * g.kernel.1 + kx) * s.inputs + i) * n..][..n];
            if s.depthwise {
                for ((o, w), x) in out.iter_mut().zip(weights).zip(pixel) {
                    *o += w * x;
                }
            } else {
                for ((o, w), source) in out.iter_mut().zip(weights).zip(&s.source) {
                    *o += w * pixel[source + i];
                }
            }
        }
    });
}

/// # Safety
/// None beyond the instruction set's.
#[inline(always)]
unsafe fn input_grad_body<S: Simd>(
    g: &ConvGeometry,
    s: &Sizes,
    (dy, dy_map): (&[f32], Map),
    w: &[f32],
    dx: &mut [f32],
    dx_map: Map,
) {
    let n = s.source.len();
    positions(g, |oy, ox, ky, kx| {
        let (iy, ix) = seen(g, oy, ox, ky, kx);
        let inside = |v: isize, size: usize| usize::try_from(v).is_ok_and(|v| v < size);
        if !inside(iy, dx_map.height) || !inside(ix, dx_map.width) {
            return;
        }
        let gradient = &dy[dy_map.at(oy as isize, ox as isize)..][..n];
        let pixel = &mut dx[dx_map.at(iy, ix)..][..dx_map.stride];
        for i in 0..s.inputs {
            let weights = &w[((ky * g.kernel.1 + kx) * s.inputs + i) * n..][..n];
            if s.depthwise {
                for ((x, w), g) in pixel.iter_mut().zip(weights).zip(gradient) {
                    *x += w * g;
                }
            } else {
                for ((g, w), source) in gradient.iter().zip(weights).zip(&s.source) {
                    pixel[source + i] += w * g;
                }
            }
        }
    });
}

/// # Safety
/// None beyond the instruction set's.
#[inline(always)]
unsafe fn weight_grad_body<S: Simd>(
    g: &ConvGeometry,
    s: &Sizes,
    x: &[f32],
    (dy, dy_map): (&[f32], Map),
    dw: &mut [f32],
) {
    let n = s.source.len();
    positions(g, |oy, ox, ky, kx| {
        let (iy, ix) = seen(g, oy, ox, ky, kx);
        let gradient = &dy[dy_map.at(oy as isize, ox as isize)..][..n];
        let pixel = &x[g.input.at(iy, ix)..][..g.input.stride];
        for i in 0..s.inputs {
            let to = &mut dw[((ky * g.kernel.1 + kx) * s.inputs + i) * n..][..n];
            if s.depthwise {
                for ((w, g), x) in to.iter_mut().zip(gradient).zip(pixel) {
                    *w += g * x;
                }
            } else {
                for ((w, g), source) in to.iter_mut().zip(gradient).zip(&s.source) {
                    *w += g * pixel[source + i];
                }
            }
        }
    });
}

simd_kernel!(pub(super) fn forward = forward_body(g: &ConvGeometry, s: &Sizes, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]));
simd_kernel!(pub(super) fn input_grad = input_grad_body(g: &ConvGeometry, s: &Sizes, dy: (&[f32], Map), w: &[f32], dx: &mut [f32], dx_map: Map));
simd_kernel!(pub(super) fn weight_grad = weight_grad_body(g: &ConvGeometry, s: &Sizes, x: &[f32], dy: (&[f32], Map), dw: &mut [f32]));
