//! Mean over all positions of an image, and its gradient.

use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

#[derive(Clone, Copy)]
struct Interior {
    row: usize,
    height: usize,
    width: usize,
    stride: usize,
}

impl Interior {
    fn of(map: &Map) -> Self {
        assert!(map.is_vector() && map.height * map.width > 0, "an image with pixels of whole vectors");
        Self { row: map.row(), height: map.height, width: map.width, stride: map.stride }
    }

    fn factor(&self) -> f32 {
        1.0 / (self.height * self.width) as f32
    }
}

/// # Safety
/// `x` covers the interior; `y` holds one pixel.
#[inline(always)]
unsafe fn forward_body<S: Simd>(x: *const f32, e: Interior, y: *mut f32) {
    // SAFETY: pixels of the interior; c + LANES <= stride.
    unsafe {
        for c in (0..e.stride).step_by(LANES) {
            let mut sum = S::splat(0.0);
            for iy in 0..e.height {
                // A sum per row keeps the rounding error of large images small.
                let mut row = S::splat(0.0);
                for ix in 0..e.width {
                    row = S::add(row, S::load(x.add(iy * e.row + ix * e.stride + c)));
                }
                sum = S::add(sum, row);
            }
            S::store(y.add(c), S::mul(sum, S::splat(e.factor())));
        }
    }
}

simd_kernel!(fn run_forward = forward_body(x: *const f32, e: Interior, y: *mut f32));

/// # Safety
/// `dx` covers the interior; `dy` holds one pixel.
#[inline(always)]
unsafe fn backward_body<S: Simd>(dy: *const f32, dx: *mut f32, e: Interior) {
    // SAFETY: pixels of the interior; c + LANES <= stride.
    unsafe {
        for iy in 0..e.height {
            for ix in 0..e.width {
                let to = dx.add(iy * e.row + ix * e.stride);
                for c in (0..e.stride).step_by(LANES) {
                    S::store(to.add(c), S::mul(S::load(dy.add(c)), S::splat(e.factor())));
                }
            }
        }
    }
}

simd_kernel!(fn run_backward = backward_body(dy: *const f32, dx: *mut f32, e: Interior));

/// Mean over all positions, per channel; `y` has one value for every channel of the layout's stride.
///
/// # Panics
/// If lengths do not fit the layout, or its pixels are not whole vectors.
pub fn global_avg_forward(isa: Isa, x: &[f32], x_map: Map, y: &mut [f32]) {
    let e = Interior::of(&x_map);
    assert!(x.len() == x_map.elements() && y.len() == x_map.stride, "slices as long as the layout says");
    // SAFETY: lengths checked above.
    unsafe { run_forward(isa, x.as_ptr().add(x_map.at(0, 0)), e, y.as_mut_ptr()) }
}

/// Gradient of [`global_avg_forward`]: writes every interior pixel of `dx`.
///
/// # Panics
/// As [`global_avg_forward`].
pub fn global_avg_backward(isa: Isa, dy: &[f32], dx: &mut [f32], x_map: Map) {
    let e = Interior::of(&x_map);
    assert!(dx.len() == x_map.elements() && dy.len() == x_map.stride, "slices as long as the layout says");
    // SAFETY: lengths checked above.
    unsafe { run_backward(isa, dy.as_ptr(), dx.as_mut_ptr().add(x_map.at(0, 0)), e) }
}
