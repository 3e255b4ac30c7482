//! Register tiles along the rows of a grid of pixels, straight from the image.

use super::geometry::{Run, pieces};
use super::pass::{Pass, Start};
use super::tile::{ForwardTile, forward_fn, max_pixels};
use crate::{Isa, LANES};

/// Neighbouring blocks of 16 outputs of a pass.
pub(super) struct Outputs {
    /// The first block's weights, and the elements from one block's weights to the next one's.
    pub w: *const f32,
    pub w_block: usize,
    /// Number of blocks.
    pub vectors: usize,
    /// First lane of the first target pixel.
    pub y: *mut f32,
    /// What the sums are added to: values for these blocks.
    pub start: Start,
}

/// Computes blocks of outputs of every pixel of the grid from the image `x`.
///
/// # Safety
/// The pass lies inside `x` and the target, the runs are those of the pass ([`Pass::runs`]) for the weights `w`, and the blocks
/// are vectors of a target pixel.
pub(super) unsafe fn rows(isa: Isa, pass: &Pass, runs: &[Run], x: *const f32, to: &Outputs) {
    static ZEROS: [f32; 2 * LANES] = [0.0; 2 * LANES];
    for row in 0..pass.rows {
        for (q, pixels) in pieces(pass.columns, max_pixels(isa, to.vectors)) {
            // SAFETY: pixels q..q + pixels lie in the row.
            unsafe {
                let y = to.y.add(row * pass.to_row + q * pass.to_step);
                let (init, init_step) = match to.start {
                    Start::Zero => (ZEROS.as_ptr(), 0),
                    Start::Bias(bias) => (bias, 0),
                    Start::Target => (y.cast_const(), pass.to_step),
                };
                let tile = ForwardTile {
                    x: x.add(row * pass.from_row + q * pass.from_step),
                    x_step: pass.from_step,
                    runs: runs.as_ptr(),
                    run_count: runs.len(),
                    w: to.w,
                    w_block: to.w_block,
                    init,
                    init_step,
                    y,
                    y_step: pass.to_step,
                };
                forward_fn(isa, pixels, to.vectors)(&tile);
            }
        }
    }
}
