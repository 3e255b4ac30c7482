//! dx = dy W, and dW = dy^T x.

use super::Rows;
use crate::conv2d::tile::{
    ForwardTile, WeightTile, forward_fn, max_inputs, max_pixels, max_vectors, weight_fn,
};
use crate::conv2d::{Run, pieces, pieces_of_vectors};
use crate::{Isa, LANES};
use std::ops::Range;

/// Computes `dx[r] = W^T dy[r]` for every row, or `dx[r] +=` with `accumulate`.
///
/// * `dy`: rows of `outputs` values; `w`: transposed weights, `inputs / 16 x outputs x 16`; `dx`: rows `dx_stride` apart.
///
/// # Panics
/// If a slice is too short or `inputs` is not a multiple of 16.
#[allow(clippy::too_many_arguments)]
pub fn linear_input_grad(
    isa: Isa,
    dy: Rows<'_>,
    inputs: usize,
    outputs: usize,
    w: &[f32],
    dx: &mut [f32],
    dx_stride: usize,
    accumulate: bool,
) {
    static ZEROS: [f32; 2 * LANES] = [0.0; 2 * LANES];
    let blocks = inputs / LANES;
    dy.check(outputs);
    assert!(inputs.is_multiple_of(LANES) && w.len() == inputs * outputs);
    assert!(dy.count == 0 || (dy.count - 1) * dx_stride + inputs <= dx.len());
    let run = Run { x: 0, w: 0, len: outputs };
    // Few rows of very many inputs: all rows of one block of inputs at a time, so that weights are read once.
    for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
        for (row, rows) in pieces(dy.count, max_pixels(isa, vectors)) {
            // SAFETY: rows row..row + rows lie in dx.
            let to = unsafe { dx.as_mut_ptr().add(row * dx_stride + block * LANES) };
            let tile = ForwardTile {
                // SAFETY: as above, in dy.
                x: unsafe { dy.data.as_ptr().add(row * dy.stride) },
                x_step: dy.stride,
                runs: &raw const run,
                run_count: 1,
                // SAFETY: block + vectors <= blocks.
                w: unsafe { w.as_ptr().add(block * outputs * LANES) },
                w_block: outputs * LANES,
                init: if accumulate { to.cast_const() } else { ZEROS.as_ptr() },
                init_step: if accumulate { dx_stride } else { 0 },
                y: to,
                y_step: dx_stride,
            };
            // SAFETY: as above.
            unsafe { forward_fn(isa, rows, vectors)(&tile) }
        }
    }
}

/// Adds the weight gradient of some rows for the inputs `part`: `dw[o][i] (+)= sum over rows of x[r][i] * dy[r][o]`.
///
/// `dw` is the packed gradient of these inputs only: `outputs / 16 x part x 16`.
///
/// # Panics
/// If a slice is too short or the row counts differ.
pub fn linear_weight_grad(
    isa: Isa,
    x: Rows<'_>,
    dy: Rows<'_>,
    part: Range<usize>,
    outputs: usize,
    dw: &mut [f32],
    accumulate: bool,
) {
    let (blocks, len) = (outputs.div_ceil(LANES), part.len());
    x.check(part.end);
    dy.check(blocks * LANES);
    assert!(x.count == dy.count && dw.len() == blocks * len * LANES);
    for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
        for (input, inputs) in pieces(len, max_inputs(isa, vectors)) {
            let tile = WeightTile {
                // SAFETY: features part.start + input.. of every row lie in x (`check`).
                x: unsafe { x.data.as_ptr().add(part.start + input) },
                x_row: 0,
                x_step: x.stride,
                // SAFETY: block < blocks.
                g: unsafe { dy.data.as_ptr().add(block * LANES) },
                g_row: 0,
                g_step: dy.stride,
                rows: 1,
                columns: x.count,
                // SAFETY: input + inputs <= len.
                dw: unsafe { dw.as_mut_ptr().add((block * len + input) * LANES) },
                w_block: len * LANES,
                accumulate,
            };
            // SAFETY: as above.
            unsafe { weight_fn(isa, inputs, vectors)(&tile) }
        }
    }
}
