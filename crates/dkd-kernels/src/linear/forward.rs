//! y = x W^T + b.

use super::Rows;
use crate::conv2d::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use crate::conv2d::{Run, pieces, pieces_of_vectors};
use crate::{Isa, LANES};

/// Computes `y[r] = W x[r] + b` for every row.
///
/// * `x`: rows of `inputs` features; `w`: packed, `outputs / 16 x inputs x 16`; `bias`: one value per output, padded;
///   `y`: rows `y_stride` apart, each written up to whole vectors.
///
/// # Panics
/// If a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn linear(
    isa: Isa,
    x: Rows<'_>,
    inputs: usize,
    outputs: usize,
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
    y_stride: usize,
) {
    let blocks = outputs.div_ceil(LANES);
    x.check(inputs);
    assert!(w.len() == blocks * inputs * LANES && bias.len() == blocks * LANES);
    assert!(x.count == 0 || (x.count - 1) * y_stride + blocks * LANES <= y.len());
    let run = Run { x: 0, w: 0, len: inputs };
    for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
        for (row, rows) in pieces(x.count, max_pixels(isa, vectors)) {
            let tile = ForwardTile {
                // SAFETY: rows row..row + rows lie in x (`check`).
                x: unsafe { x.data.as_ptr().add(row * x.stride) },
                x_step: x.stride,
                runs: &raw const run,
                run_count: 1,
                // SAFETY: block + vectors <= blocks.
                w: unsafe { w.as_ptr().add(block * inputs * LANES) },
                w_block: inputs * LANES,
                // SAFETY: as above.
                init: unsafe { bias.as_ptr().add(block * LANES) },
                init_step: 0,
                // SAFETY: rows row..row + rows lie in y.
                y: unsafe { y.as_mut_ptr().add(row * y_stride + block * LANES) },
                y_step: y_stride,
            };
            // SAFETY: as above.
            unsafe { forward_fn(isa, rows, vectors)(&tile) }
        }
    }
}
