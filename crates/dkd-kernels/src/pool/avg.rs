//! Mean over windows, and its gradient.

use super::axis::{Axis, Window};
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

#[derive(Clone, Copy)]
struct Args {
    from: *const f32,
    from_row: usize,
    to: *mut f32,
    to_row: usize,
    rows: Axis,
    columns: Axis,
    stride: usize,
    count_padding: bool,
}

impl Args {
    /// 1 / the number of values that the window (`oy`, `ox`) averages.
    #[inline(always)]
    fn factor(&self, oy: usize, ox: usize) -> f32 {
        let count = if self.count_padding {
            self.rows.kernel * self.columns.kernel
        } else {
            let (y, x) = (self.rows.inputs(oy), self.columns.inputs(ox));
            (y.1 - y.0) * (x.1 - x.0)
        };
        1.0 / count as f32
    }
}

/// # Safety
/// `from` covers the input that the axes describe, `to` the output.
#[inline(always)]
unsafe fn forward_body<S: Simd>(a: &Args) {
    for oy in 0..a.rows.output {
        let (y0, y1) = a.rows.inputs(oy);
        for ox in 0..a.columns.output {
            let (x0, x1) = a.columns.inputs(ox);
            // SAFETY: `inputs` stays inside the image; c + LANES <= stride.
            unsafe {
                let factor = S::splat(a.factor(oy, ox));
                for c in (0..a.stride).step_by(LANES) {
                    let mut sum = S::splat(0.0);
                    for iy in y0..y1 {
                        for ix in x0..x1 {
                            sum = S::add(sum, S::load(a.from.add(iy * a.from_row + ix * a.stride + c)));
                        }
                    }
                    S::store(a.to.add(oy * a.to_row + ox * a.stride + c), S::mul(sum, factor));
                }
            }
        }
    }
}

simd_kernel!(fn run_forward = forward_body(a: &Args));

/// # Safety
/// `from` covers the output that the axes describe, `to` the input.
#[inline(always)]
unsafe fn backward_body<S: Simd>(a: &Args) {
    for iy in 0..a.rows.input {
        let (y0, y1) = a.rows.outputs(iy);
        for ix in 0..a.columns.input {
            let (x0, x1) = a.columns.outputs(ix);
            for c in (0..a.stride).step_by(LANES) {
                // SAFETY: `outputs` are windows of the output; c + LANES <= stride.
                unsafe {
                    let mut sum = S::splat(0.0);
                    for oy in y0..y1 {
                        for ox in x0..x1 {
                            let dy = S::load(a.from.add(oy * a.from_row + ox * a.stride + c));
                            sum = S::fma(dy, S::splat(a.factor(oy, ox)), sum);
                        }
                    }
                    S::store(a.to.add(iy * a.to_row + ix * a.stride + c), sum);
                }
            }
        }
    }
}

simd_kernel!(fn run_backward = backward_body(a: &Args));

/// Mean of every window. With `count_padding` a window divides by its whole area, otherwise by the number of its
/// positions inside the image (PyTorch's `count_include_pad`).
///
/// # Panics
/// If lengths or layouts do not fit each other and the window.
pub fn avg_pool_forward(
    isa: Isa,
    x: &[f32],
    x_map: Map,
    y: &mut [f32],
    y_map: Map,
    window: Window,
    count_padding: bool,
) {
    let (rows, columns) = window.axes(&x_map, &y_map);
    let a = args((x, x_map), (y, y_map), rows, columns, count_padding);
    // SAFETY: lengths and layouts checked above.
    unsafe { run_forward(isa, &a) }
}

/// Gradient of [`avg_pool_forward`]: writes every interior pixel of `dx`.
///
/// # Panics
/// As [`avg_pool_forward`].
pub fn avg_pool_backward(
    isa: Isa,
    dy: &[f32],
    y_map: Map,
    dx: &mut [f32],
    x_map: Map,
    window: Window,
    count_padding: bool,
) {
    let (rows, columns) = window.axes(&x_map, &y_map);
    let a = args((dy, y_map), (dx, x_map), rows, columns, count_padding);
    // SAFETY: lengths and layouts checked above.
    unsafe { run_backward(isa, &a) }
}

fn args(from: (&[f32], Map), to: (&mut [f32], Map), rows: Axis, columns: Axis, count_padding: bool) -> Args {
    assert!(
        from.0.len() == from.1.elements() && to.0.len() == to.1.elements(),
        "slices as long as their layouts"
    );
    Args {
        // SAFETY: the interior's first pixel is inside the checked slice.
        from: unsafe { from.0.as_ptr().add(from.1.at(0, 0)) },
        from_row: from.1.row(),
        // SAFETY: as above.
        to: unsafe { to.0.as_mut_ptr().add(to.1.at(0, 0)) },
        to_row: to.1.row(),
        rows,
        columns,
        stride: from.1.stride,
        count_padding,
    }
}
