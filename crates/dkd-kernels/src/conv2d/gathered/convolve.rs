//! The forward convolution, and the input gradient's passes.

use super::segments;
use crate::conv2d::forward::pieces_of_vectors;
use crate::conv2d::geometry::{Run, pieces};
use crate::conv2d::images::Images;
use crate::conv2d::pass::{Pass, Start};
use crate::conv2d::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use crate::{Isa, LANES, flat};

/// Elements of the matrix: with one block's weights it should stay in the second-level cache.
const MATRIX_ELEMENTS: usize = 128 * 1024;

/// Pixels of a register tile, at most, and its vectors.
const TILE_PIXELS: usize = 16;
const TILE_VECTORS: usize = 2;

/// Sums over the kernel positions of a pass, for several images.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct Gathered {
    pass: Pass,
    /// From the image to a row of the matrix.
    sources: Vec<Run>,
    /// From a row of the matrix to the weights.
    runs: Vec<Run>,
    /// Elements of a row.
    row: usize,
    /// Rows of the matrix.
    rows: usize,
}

impl Gathered {
    /// Prepares a pass over pixels of `channels` channels.
    pub fn new(pass: Pass, channels: usize) -> Self {
        let sources = pass.runs(0, channels);
        let mut length = 0;
        let runs = sources.iter().map(|run| {
            length += run.len;
            Run { x: length - run.len, w: run.w, len: run.len }
        });
        let runs = runs.collect();
        // A vector more, so that rows do not fall into the same sets of the cache.
        let row = length.next_multiple_of(LANES) + LANES;
        let rows = (MATRIX_ELEMENTS / row).max(2 * TILE_PIXELS);
        Self { pass, sources, runs, row, rows }
    }

    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        self.rows * self.row + TILE_PIXELS * TILE_VECTORS * LANES
    }

    /// Computes some images from weights of `w_block` elements for each block of 16 outputs.
    ///
    /// # Safety
    /// The pass lies inside every image of `x` and `y`; a bias has 16 values for each block.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run(
        &self,
        isa: Isa,
        images: Images,
        x: &[f32],
        w: &[f32],
        w_block: usize,
        start: Start,
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        static ZEROS: [f32; TILE_VECTORS * LANES] = [0.0; TILE_VECTORS * LANES];
        let (matrix, sums) = scratch.split_at_mut(self.rows * self.row);
        assert!(sums.len() >= TILE_PIXELS * TILE_VECTORS * LANES);
        let total = images.count * self.pass.pixels();
        for (first, count) in pieces(total, self.rows) {
            self.gather(images, x, first, count, matrix);
            for (block, vectors) in pieces_of_vectors(w.len() / w_block, max_vectors(isa)) {
                // SAFETY: block + vectors is at most the number of blocks.
                let init = match unsafe { start.at(block * LANES) } {
                    Start::Bias(bias) => bias,
                    Start::Zero | Start::Target => ZEROS.as_ptr(),
                };
                for (from, pixels) in pieces(count, max_pixels(isa, vectors)) {
                    let tile = ForwardTile {
                        x: matrix[from * self.row..(from + pixels) * self.row].as_ptr(),
                        x_step: self.row,
                        runs: self.runs.as_ptr(),
                        run_count: self.runs.len(),
                        w: w[block * w_block..(block + vectors) * w_block].as_ptr(),
                        w_block,
                        init,
                        init_step: 0,
                        y: sums.as_mut_ptr(),
                        y_step: vectors * LANES,
                    };
                    // SAFETY: the rows of the matrix, the blocks' weights and the sums were checked above.
                    unsafe { forward_fn(isa, pixels, vectors)(&tile) }
                    let add = matches!(start, Start::Target);
                    self.scatter(isa, images, sums, first + from, pixels, block, vectors, y, add);
                }
            }
        }
    }

    /// Rows of the matrix for the pixels from number `first` on.
    fn gather(&self, images: Images, x: &[f32], first: usize, count: usize, matrix: &mut [f32]) {
        let step = self.pass.from_step;
        for s in segments(&self.pass, first..first + count) {
            let start = s.image * images.from + s.row * self.pass.from_row + s.column * step;
            for p in 0..s.count {
                let (x, row) = (&x[start + p * step..], &mut matrix[(s.first + p) * self.row..][..self.row]);
                for (source, run) in self.sources.iter().zip(&self.runs) {
                    row[run.x..run.x + run.len].copy_from_slice(&x[source.x..source.x + run.len]);
                }
            }
        }
    }

    /// From a tile's sums to the pixels.
    #[allow(clippy::too_many_arguments)]
    fn scatter(
        &self,
        isa: Isa,
        images: Images,
        sums: &[f32],
        first: usize,
        pixels: usize,
        block: usize,
        vectors: usize,
        y: &mut [f32],
        add: bool,
    ) {
        let width = vectors * LANES;
        let pass = &self.pass;
        for s in segments(pass, first..first + pixels) {
            let start = s.image * images.to + pass.to + s.row * pass.to_row + s.column * pass.to_step;
            for p in 0..s.count {
                let to = &mut y[start + p * pass.to_step + block * LANES..][..width];
                let sums = &sums[(s.first + p) * width..][..width];
                if add {
                    flat::accumulate(isa, to, sums);
                } else {
                    to.copy_from_slice(sums);
                }
            }
        }
    }
}
