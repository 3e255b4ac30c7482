//! The kernel's gradient.

use super::convolve::transform_inputs;
use super::grid::{Grid, Patches};
use super::transform::{Steps, Transformed, gradient_tiles, kernel_gradient};
use super::{POSITIONS, position_stride};
use crate::conv2d::geometry::pieces;
use crate::conv2d::pieces_of_vectors;
use crate::conv2d::tile::{WeightTile, max_inputs, max_vectors, weight_fn};
use crate::{Isa, LANES, Map, flat};

/// Elements of transformed input and gradient that a strip of tiles may have: most of the second-level cache.
const STRIP_ELEMENTS: usize = 160 * 1024;

/// Elements of one position of the sums of a register tile, at most.
const SUM: usize = 28 * LANES;

/// dw of a 3x3 kernel, for one image.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct WinogradWeightGrad {
    inputs: Patches,
    gradients: Patches,
    grid: Grid,
    strip: usize,
}

impl WinogradWeightGrad {
    /// `padding` rows and columns of zeros are in the input's border.
    pub fn new(input: Map, gradient: Map, padding: (usize, usize)) -> Self {
        let grid = Grid::new(&gradient);
        let tile = POSITIONS * (input.stride + gradient.stride);
        Self {
            inputs: Patches { map: input, shift: padding, size: 4 },
            gradients: Patches { map: gradient, shift: (0, 0), size: 2 },
            grid,
            strip: (STRIP_ELEMENTS / tile).clamp(16, grid.count().max(16)),
        }
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        let position = |p: &Patches| position_stride(self.strip * p.map.stride);
        POSITIONS * (position(&self.inputs) + position(&self.gradients) + SUM)
            + self.inputs.elements().max(self.gradients.elements())
    }

    /// Computes one image: `dw = …`, or `dw += …` with `accumulate`; `dw` is in packed order.
    pub fn run(
        &self,
        isa: Isa,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let (x_map, g_map) = (&self.inputs.map, &self.gradients.map);
        let (channels, blocks) = (x_map.channels, g_map.channels.div_ceil(LANES));
        let block_elements = 9 * channels * LANES;
        assert_eq!(x.len(), x_map.elements());
        assert_eq!(dy.len(), g_map.elements());
        assert_eq!(dw.len(), blocks * block_elements);
        let v_shape =
            Transformed { position: position_stride(self.strip * x_map.stride), tile: x_map.stride };
        let q_shape =
            Transformed { position: position_stride(self.strip * g_map.stride), tile: g_map.stride };
        let (v, rest) = scratch.split_at_mut(POSITIONS * v_shape.position);
        let (q, rest) = rest.split_at_mut(POSITIONS * q_shape.position);
        let (sums, patch) = rest.split_at_mut(POSITIONS * SUM);
        for (strip, (first, count)) in pieces(self.grid.count(), self.strip).enumerate() {
            transform_inputs(isa, &self.inputs, &self.grid, first, count, x, v, v_shape, patch);
            self.transform_gradients(isa, first, count, dy, q, q_shape, patch);
            for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
                for (input, inputs) in pieces(channels, max_inputs(isa, vectors)) {
                    let kernel = weight_fn(isa, inputs, vectors);
                    for p in 0..POSITIONS {
                        let tile = WeightTile {
                            x: v[p * v_shape.position + input..].as_ptr(),
                            x_row: 0,
                            x_step: v_shape.tile,
                            g: q[p * q_shape.position + block * LANES..].as_ptr(),
                            g_row: 0,
                            g_step: q_shape.tile,
                            rows: 1,
                            columns: count,
                            dw: sums[p * SUM..].as_mut_ptr(),
                            w_block: inputs * LANES,
                            accumulate: false,
                        };
                        // SAFETY: `count` tiles lie in position p of v and q, and at most 28 vectors in one of the sums.
                        unsafe { kernel(&tile) }
                    }
                    // SAFETY: as many vectors of every position.
                    unsafe { kernel_gradient(isa, sums.as_mut_ptr(), SUM, vectors * inputs) }
                    for b in 0..vectors {
                        for tap in 0..9 {
                            let from = &sums[tap * SUM + b * inputs * LANES..][..inputs * LANES];
                            let at = (block + b) * block_elements + (tap * channels + input) * LANES;
                            let to = &mut dw[at..at + inputs * LANES];
                            if accumulate || strip > 0 {
                                flat::accumulate(isa, to, from);
                            } else {
                                to.copy_from_slice(from);
                            }
                        }
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn transform_gradients(
        &self,
        isa: Isa,
        first: usize,
        count: usize,
        dy: &[f32],
        q: &mut [f32],
        shape: Transformed,
        patch: &mut [f32],
    ) {
        let map = &self.gradients.map;
        let vectors = map.stride / LANES;
        assert!(q.len() >= (POSITIONS - 1) * shape.position + count * shape.tile);
        let inside = Steps { row: map.row(), column: map.stride };
        let alone = Steps { row: 2 * map.stride, column: map.stride };
        for run in self.grid.runs(first..first + count) {
            let to = |q: &mut [f32], i: usize| q[(run.first - first + i) * shape.tile..].as_mut_ptr();
            if run.rows == 2 && run.columns == 2 {
                let from = dy[self.gradients.at(run.y, run.x)..].as_ptr();
                // SAFETY: whole tiles are inside dy, and inside q.
                unsafe { gradient_tiles(isa, from, inside, run.count, vectors, to(q, 0), shape) }
                continue;
            }
            for i in 0..run.count {
                self.gradients.copy(dy, run.y, run.x + 2 * i, patch);
                // SAFETY: a patch on its own; the tile is inside q.
                unsafe { gradient_tiles(isa, patch.as_ptr(), alone, 1, vectors, to(q, i), shape) }
            }
        }
    }
}
