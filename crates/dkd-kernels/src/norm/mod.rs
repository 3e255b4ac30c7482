//! Batch normalisation and the pointwise operations fused with it, one image at a time.
//!
//! Forward, with per-channel `scale` and `shift` (from batch or running statistics):
//! `y = scale * z + shift`, then plus an addend, then ReLU. Backward, with g the gradient of the normalised value:
//! `dz = c1 * g + c2 * z + c3`, whose coefficients need only the sums of g and of g * z over the batch
//! ([`Coefficients`]); both sums are gathered while g is completed ([`complete_gradient`]).

mod apply;
mod backward;
mod statistics;

#[cfg(test)]
mod tests;

pub use apply::{Addend, normalize};
pub use backward::{Mask, complete_gradient, normalize_backward};
pub use statistics::{Coefficients, Forward, channel_moments};

use crate::{LANES, Map};

/// Blocks of channels handled in one pass over the pixels: their coefficients stay in registers.
const BLOCKS: usize = 4;

/// Splits `blocks` into passes of 4, 2 and 1: calls `f(first block, size)`.
#[inline(always)]
fn passes(blocks: usize, mut f: impl FnMut(usize, usize)) {
    let mut first = 0;
    while first < blocks {
        let size = match blocks - first {
            n if n >= BLOCKS => BLOCKS,
            n if n >= 2 => 2,
            _ => 1,
        };
        f(first, size);
        first += size;
    }
}

/// One image and its layout, as the unsafe loops see it.
#[derive(Clone, Copy)]
struct Plane {
    start: *const f32,
    row: usize,
}

impl Plane {
    /// The interior of an image.
    fn new(image: &[f32], map: Map) -> Self {
        assert_eq!(image.len(), map.elements());
        assert!(map.is_vector());
        // SAFETY: the interior's first pixel is inside the checked slice.
        Self { start: unsafe { image.as_ptr().add(map.at(0, 0)) }, row: map.row() }
    }

    /// A plane that is never read.
    fn none() -> Self {
        Self { start: std::ptr::NonNull::dangling().as_ptr(), row: 0 }
    }
}

/// The interior of an image that is written.
#[derive(Clone, Copy)]
struct PlaneMut {
    start: *mut f32,
    row: usize,
}

impl PlaneMut {
    fn new(image: &mut [f32], map: Map) -> Self {
        assert_eq!(image.len(), map.elements());
        assert!(map.is_vector());
        // SAFETY: the interior's first pixel is inside the checked slice.
        Self { start: unsafe { image.as_mut_ptr().add(map.at(0, 0)) }, row: map.row() }
    }
}

/// Rows, columns and vectors per pixel of an interior.
#[derive(Clone, Copy)]
struct Extent {
    height: usize,
    width: usize,
    stride: usize,
}

impl Extent {
    fn of(map: Map) -> Self {
        Self { height: map.height, width: map.width, stride: map.stride }
    }

    fn blocks(self) -> usize {
        self.stride / LANES
    }
}
