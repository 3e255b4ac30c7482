//! The kernel's gradient.

use super::convolve::{InputTransform, Order};
use super::filter::Filter;
use super::grid::{Grid, Patches};
use super::position_stride;
use super::transform::{Steps, Transformed, gradient_tiles, kernel_gradient};
use crate::conv2d::geometry::pieces;
use crate::conv2d::images::Images;
use crate::conv2d::pieces_of_vectors;
use crate::conv2d::tile::{WeightTile, max_inputs, max_vectors, weight_fn};
use crate::{Isa, LANES, Map, flat};

/// Elements of transformed input and gradient that a strip of tiles may have: most of the second-level cache.
const STRIP_ELEMENTS: usize = 176 * 1024;

/// Tiles of a strip that spans several images, at most.
const STRIP_TILES: usize = 64;

/// Vectors of a register tile, at most: the sums of all positions should stay in the first-level cache.
const fn most_vectors(filter: Filter) -> usize {
    match filter {
        Filter::F2 => 28,
        Filter::F4 => 16,
    }
}

/// dw of a 3x3 kernel.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct WinogradWeightGrad {
    filter: Filter,
    inputs: Patches,
    gradients: Patches,
    grid: Grid,
    strip: usize,
}

impl WinogradWeightGrad {
    /// `padding` rows and columns of zeros are in the input's border.
    pub fn new(filter: Filter, input: Map, gradient: Map, padding: (usize, usize)) -> Self {
        let grid = Grid::new(&gradient, filter.tile());
        let elements = filter.positions() * (input.stride + gradient.stride);
        let tile = filter.tile();
        Self {
            filter,
            inputs: Patches { map: input, shift: padding, size: filter.patch(), tile },
            gradients: Patches { map: gradient, shift: (0, 0), size: tile, tile },
            grid,
            strip: (STRIP_ELEMENTS / elements).clamp(32, grid.count().max(STRIP_TILES)),
        }
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        self.filter.positions() * (self.position(&self.inputs) + self.position(&self.gradients) + self.sum())
            + self.inputs.elements().max(self.gradients.elements())
    }

    /// Elements from one position of transformed tiles to the next.
    fn position(&self, patches: &Patches) -> usize {
        position_stride(self.strip * patches.map.stride)
    }

    /// Elements from one position of the sums of a register tile to the next.
    fn sum(&self) -> usize {
        position_stride(most_vectors(self.filter) * LANES)
    }

    /// Sums over some images: `dw = …`, or `dw += …` with `accumulate`; `dw` is in packed order.
    pub fn run(
        &self,
        isa: Isa,
        images: Images,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let (x_map, g_map) = (&self.inputs.map, &self.gradients.map);
        let (channels, blocks) = (x_map.channels, g_map.channels.div_ceil(LANES));
        let block_elements = 9 * channels * LANES;
        assert_eq!(dw.len(), blocks * block_elements);
        let (filter, sum) = (self.filter, self.sum());
        let (v_position, q_position) = (self.position(&self.inputs), self.position(&self.gradients));
        let (v, rest) = scratch.split_at_mut(filter.positions() * v_position);
        let (q, rest) = rest.split_at_mut(filter.positions() * q_position);
        let (sums, patch) = rest.split_at_mut(filter.positions() * sum);
        let inputs_transform = InputTransform {
            filter,
            order: Order::Forward,
            patches: &self.inputs,
            grid: self.grid,
            position: v_position,
        };
        for (strip, (first, count)) in pieces(self.grid.count() * images.count, self.strip).enumerate() {
            inputs_transform.run(isa, first, count, x, images.from, v, patch);
            self.transform_gradients(isa, first, count, dy, images.to, q, q_position, patch);
            for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
                let most = max_inputs(isa, vectors).min(most_vectors(filter) / vectors);
                for (input, inputs) in pieces(channels, most) {
                    let kernel = weight_fn(isa, inputs, vectors);
                    for p in 0..filter.positions() {
                        let tile = WeightTile {
                            x: v[p * v_position + input..].as_ptr(),
                            x_row: 0,
                            x_step: x_map.stride,
                            g: q[p * q_position + block * LANES..].as_ptr(),
                            g_row: 0,
                            g_step: g_map.stride,
                            rows: 1,
                            columns: count,
                            dw: sums[p * sum..].as_mut_ptr(),
                            w_block: inputs * LANES,
                            accumulate: false,
                        };
                        // SAFETY: `count` tiles lie in position p of v and q, and at most `most_vectors` in one of the sums.
                        unsafe { kernel(&tile) }
                    }
                    // SAFETY: as many vectors of every position.
                    unsafe { kernel_gradient(filter, isa, sums.as_mut_ptr(), sum, vectors * inputs) }
                    for b in 0..vectors {
                        for tap in 0..9 {
                            let from = &sums[tap * sum + b * inputs * LANES..][..inputs * LANES];
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
        step: usize,
        q: &mut [f32],
        position: usize,
        patch: &mut [f32],
    ) {
        let (map, size) = (&self.gradients.map, self.filter.tile());
        let (vectors, column) = (map.stride / LANES, map.stride as isize);
        assert!(q.len() >= (self.filter.positions() - 1) * position + count * map.stride);
        let shape = Transformed { position, tile: column };
        let inside = Steps { row: map.row() as isize, column };
        let alone = Steps { row: (size * map.stride) as isize, column };
        for (image, run) in self.grid.runs(first..first + count) {
            let dy = &dy[image * step..];
            let to = |q: &mut [f32], i: usize| q[(run.first - first + i) * map.stride..].as_mut_ptr();
            if run.rows == size && run.columns == size {
                let from = dy[self.gradients.at(run.y, run.x)..].as_ptr();
                // SAFETY: whole tiles are inside dy, and inside q.
                unsafe {
                    gradient_tiles(self.filter, isa, from, inside, run.count, vectors, to(q, 0), shape);
                }
                continue;
            }
            for i in 0..run.count {
                self.gradients.copy(dy, run.y, run.x + size * i, patch);
                // SAFETY: a patch on its own; the tile is inside q.
                unsafe {
                    gradient_tiles(self.filter, isa, patch.as_ptr(), alone, 1, vectors, to(q, i), shape);
                }
            }
        }
    }
}
