//! The forward convolution, and the input gradient, which is one too.

use super::grid::{Grid, Patches};
use super::transform::{Outputs, Steps, Transformed, input_tiles, output_tiles};
use super::{POSITIONS, position_stride};
use crate::conv2d::geometry::{Run, pieces};
use crate::conv2d::pieces_of_vectors;
use crate::conv2d::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use crate::{Isa, LANES, Map};

/// Elements of transformed input that a strip of tiles may have: they stay in the second-level cache while all output
/// channels are computed from them.
const STRIP_ELEMENTS: usize = 64 * 1024;

/// Elements of one position of the products of a register tile, at most.
const PRODUCT: usize = position_stride(16 * 2 * LANES);

/// y = conv(x) with a 3x3 kernel, for one image.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct WinogradConv {
    patches: Patches,
    output: Map,
    grid: Grid,
    /// Tiles of a strip, at most.
    strip: usize,
}

impl WinogradConv {
    /// `padding` rows and columns of zeros around `input`, which are in its border.
    pub fn new(input: Map, output: Map, padding: (usize, usize)) -> Self {
        let grid = Grid::new(&output);
        let strip = (STRIP_ELEMENTS / (POSITIONS * input.stride)).clamp(16, grid.count().max(16));
        Self { patches: Patches { map: input, shift: padding, size: 4 }, output, grid, strip }
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        POSITIONS * (self.position() + PRODUCT) + self.patches.elements()
    }

    fn position(&self) -> usize {
        position_stride(self.strip * self.patches.map.stride)
    }

    /// Computes one image from transformed kernels `u`, `[output blocks][16 positions][inputs][16]`.
    pub fn run(
        &self,
        isa: Isa,
        x: &[f32],
        u: &[f32],
        bias: &[f32],
        y: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let input = &self.patches.map;
        let blocks = self.output.channels.div_ceil(LANES);
        let u_block = POSITIONS * input.channels * LANES;
        assert_eq!(x.len(), input.elements());
        assert_eq!(u.len(), blocks * u_block);
        assert_eq!(bias.len(), blocks * LANES);
        assert_eq!(y.len(), self.output.elements());
        let position = self.position();
        let (v, rest) = scratch.split_at_mut(POSITIONS * position);
        let (m, patch) = rest.split_at_mut(POSITIONS * PRODUCT);
        let runs = [Run { x: 0, w: 0, len: input.channels }];
        for (first, count) in pieces(self.grid.count(), self.strip) {
            let shape = Transformed { position, tile: input.stride };
            transform_inputs(isa, &self.patches, &self.grid, first, count, x, v, shape, patch);
            for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
                for (tile, tiles) in pieces(count, max_pixels(isa, vectors)) {
                    let kernel = forward_fn(isa, tiles, vectors);
                    for p in 0..POSITIONS {
                        let product = ForwardTile {
                            x: v[p * position + tile * input.stride..].as_ptr(),
                            x_step: input.stride,
                            runs: runs.as_ptr(),
                            run_count: 1,
                            w: u[block * u_block + p * input.channels * LANES..].as_ptr(),
                            w_block: u_block,
                            init: ZEROS.as_ptr(),
                            init_step: 0,
                            y: m[p * PRODUCT..].as_mut_ptr(),
                            y_step: vectors * LANES,
                        };
                        // SAFETY: `tiles` tiles of `input.channels` elements lie in position p of v, the kernels of
                        // `vectors` blocks in u, and 16 x 2 vectors in a position of m.
                        unsafe { kernel(&product) }
                    }
                    let shape = Transformed { position: PRODUCT, tile: vectors * LANES };
                    for run in self.grid.runs(first + tile..first + tile + tiles) {
                        let at = self.output.at(run.y as isize, run.x as isize) + block * LANES;
                        let to = Outputs {
                            y: y[at..].as_mut_ptr(),
                            steps: Steps { row: self.output.row(), column: self.output.stride },
                            rows: run.rows,
                            columns: run.columns,
                            accumulate,
                        };
                        let from = m[(run.first - first - tile) * vectors * LANES..].as_ptr();
                        // SAFETY: the run's pixels are inside the image, its products inside m.
                        unsafe {
                            output_tiles(
                                isa,
                                from,
                                shape,
                                run.count,
                                vectors,
                                bias[block * LANES..].as_ptr(),
                                to,
                            );
                        }
                    }
                }
            }
        }
    }
}

static ZEROS: [f32; 2 * LANES] = [0.0; 2 * LANES];

/// V of the tiles `first..first + count`.
#[allow(clippy::too_many_arguments)]
pub(super) fn transform_inputs(
    isa: Isa,
    patches: &Patches,
    grid: &Grid,
    first: usize,
    count: usize,
    x: &[f32],
    v: &mut [f32],
    shape: Transformed,
    patch: &mut [f32],
) {
    let vectors = patches.map.stride / LANES;
    assert!(v.len() >= (POSITIONS - 1) * shape.position + count * shape.tile);
    let inside = Steps { row: patches.map.row(), column: patches.map.stride };
    let alone = Steps { row: patches.size * patches.map.stride, column: patches.map.stride };
    for run in grid.runs(first..first + count) {
        let to = |v: &mut [f32], i: usize| v[(run.first - first + i) * shape.tile..].as_mut_ptr();
        let whole = patches.inside(&run);
        if whole > 0 {
            let from = x[patches.at(run.y, run.x)..].as_ptr();
            // SAFETY: the patches are inside x, the tiles inside v.
            unsafe { input_tiles(isa, from, inside, whole, vectors, to(v, 0), shape) }
        }
        for i in whole..run.count {
            patches.copy(x, run.y, run.x + 2 * i, patch);
            // SAFETY: a patch on its own; the tile is inside v.
            unsafe { input_tiles(isa, patch.as_ptr(), alone, 1, vectors, to(v, i), shape) }
        }
    }
}
