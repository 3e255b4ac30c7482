//! The forward convolution, and the input gradient, which is one too.

use super::filter::Filter;
use super::grid::{Grid, Patches, TileRun};
use super::position_stride;
use super::transform::{Outputs, Steps, Transformed, input_tiles, output_tiles};
use crate::conv2d::geometry::{Run, pieces};
use crate::conv2d::images::Images;
use crate::conv2d::pieces_of_vectors;
use crate::conv2d::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use crate::{Isa, LANES, Map};

/// Elements of transformed input that a strip of tiles may have: they stay in the second-level cache while all output
/// channels are computed from them.
const STRIP_ELEMENTS: usize = 64 * 1024;

/// Tiles of a strip that spans several images, at most.
const STRIP_TILES: usize = 64;

/// Inputs from which on a position's kernels are read from the second-level cache: several register tiles share them.
const MANY_INPUTS: usize = 128;

/// Tiles whose products are made before they are transformed. With few inputs, as many as one register tile has and the
/// first-level cache holds for all positions; with many, the products are few beside the multiplications.
const fn most_tiles(filter: Filter, inputs: usize) -> usize {
    match filter {
        _ if inputs >= MANY_INPUTS => 32,
        Filter::F2 => 16,
        Filter::F4 => 8,
    }
}

/// In which order the pixels of patches and tiles are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::conv2d) enum Order {
    /// As they lie in memory.
    Forward,
    /// From the last to the first.
    Mirrored,
}

/// y = conv(x) with a 3x3 kernel.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct WinogradConv {
    filter: Filter,
    order: Order,
    patches: Patches,
    output: Map,
    grid: Grid,
    /// Tiles of a strip, at most.
    strip: usize,
}

impl WinogradConv {
    /// `padding` rows and columns of zeros around `input`, which are in its border; `many`: whether a call gets several images.
    pub fn new(
        filter: Filter,
        order: Order,
        input: Map,
        output: Map,
        padding: (usize, usize),
        many: bool,
    ) -> Self {
        let grid = Grid::new(&output, filter.tile());
        let most = if many { STRIP_TILES } else { grid.count().max(16) };
        let strip = (STRIP_ELEMENTS / (filter.positions() * input.stride)).clamp(16, most);
        let patches = Patches { map: input, shift: padding, size: filter.patch(), tile: filter.tile() };
        Self { filter, order, patches, output, grid, strip }
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        self.filter.positions() * (self.position() + self.product()) + self.patches.elements()
    }

    /// Elements from one position of the transformed input to the next.
    fn position(&self) -> usize {
        position_stride(self.strip * self.patches.map.stride)
    }

    /// Elements from one position of the products of a register tile to the next.
    fn product(&self) -> usize {
        position_stride(self.most_tiles() * 2 * LANES)
    }

    fn most_tiles(&self) -> usize {
        most_tiles(self.filter, self.patches.map.channels)
    }

    /// Computes some images from transformed kernels `u`, `[output blocks][positions][inputs][16]`.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        images: Images,
        x: &[f32],
        u: &[f32],
        bias: &[f32],
        y: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let (input, positions) = (&self.patches.map, self.filter.positions());
        let blocks = self.output.channels.div_ceil(LANES);
        let u_block = positions * input.channels * LANES;
        assert_eq!(u.len(), blocks * u_block);
        assert_eq!(bias.len(), blocks * LANES);
        let (position, product) = (self.position(), self.product());
        let (v, rest) = scratch.split_at_mut(positions * position);
        let (m, patch) = rest.split_at_mut(positions * product);
        let runs = [Run { x: 0, w: 0, len: input.channels }];
        let transform = InputTransform {
            filter: self.filter,
            order: self.order,
            patches: &self.patches,
            grid: self.grid,
            position,
        };
        for (first, count) in pieces(self.grid.count() * images.count, self.strip) {
            transform.run(isa, first, count, x, images.from, v, patch);
            for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
                let most = max_pixels(isa, vectors);
                for (chunk, tiles) in pieces(count, self.most_tiles()) {
                    for p in 0..positions {
                        for (tile, rows) in pieces(tiles, most) {
                            let arguments = ForwardTile {
                                x: v[p * position + (chunk + tile) * input.stride..].as_ptr(),
                                x_step: input.stride,
                                runs: runs.as_ptr(),
                                run_count: 1,
                                w: u[block * u_block + p * input.channels * LANES..].as_ptr(),
                                w_block: u_block,
                                init: ZEROS.as_ptr(),
                                init_step: 0,
                                y: m[p * product + tile * vectors * LANES..].as_mut_ptr(),
                                y_step: vectors * LANES,
                            };
                            // SAFETY: `rows` tiles of `input.channels` elements lie in position p of v, the kernels of
                            // `vectors` blocks in u, and as many vectors in a position of m.
                            unsafe { forward_fn(isa, rows, vectors)(&arguments) }
                        }
                    }
                    for (image, run) in self.grid.runs(first + chunk..first + chunk + tiles) {
                        let m = &m[(run.first - first - chunk) * vectors * LANES..];
                        let y = &mut y[image * images.to..];
                        self.outputs(isa, &run, m, block, vectors, bias, y, accumulate);
                    }
                }
            }
        }
    }

    /// Transforms the products `m` of a run of tiles to `vectors` blocks of outputs from `block` on.
    #[allow(clippy::too_many_arguments)]
    fn outputs(
        &self,
        isa: Isa,
        run: &TileRun,
        m: &[f32],
        block: usize,
        vectors: usize,
        bias: &[f32],
        y: &mut [f32],
        accumulate: bool,
    ) {
        let (size, tile) = (self.filter.tile(), vectors * LANES);
        let steps = Steps { row: self.output.row() as isize, column: self.output.stride as isize };
        let first = self.output.at(run.y as isize, run.x as isize) + block * LANES;
        let start = y[first..].as_mut_ptr();
        assert!(m.len() >= (self.filter.positions() - 1) * self.product() + run.count * tile);
        let (m, tile, to) = match self.order {
            Order::Forward => {
                let (rows, columns) = ((0, run.rows), (0, run.columns));
                (m.as_ptr(), tile as isize, Outputs { y: start, steps, rows, columns, accumulate })
            }
            Order::Mirrored => {
                let last = (size as isize - 1) * steps.row + (size * run.count) as isize * steps.column
                    - steps.column;
                let (rows, columns) = ((size - run.rows, size), (size - run.columns, size));
                let to = Outputs {
                    y: start.wrapping_offset(last),
                    steps: steps.mirrored(),
                    rows,
                    columns,
                    accumulate,
                };
                (m[(run.count - 1) * tile..].as_ptr(), -(tile as isize), to)
            }
        };
        let shape = Transformed { position: self.product(), tile };
        // SAFETY: the run's pixels are inside the image, its products inside m, bias has a vector per block.
        unsafe {
            output_tiles(self.filter, isa, m, shape, run.count, vectors, bias[block * LANES..].as_ptr(), to);
        }
    }
}

static ZEROS: [f32; 2 * LANES] = [0.0; 2 * LANES];

/// From pixels to V.
pub(super) struct InputTransform<'a> {
    pub filter: Filter,
    pub order: Order,
    pub patches: &'a Patches,
    pub grid: Grid,
    /// Elements from one position of V to the next.
    pub position: usize,
}

impl InputTransform<'_> {
    /// V of the tiles `first..first + count` of images that are `step` elements apart, of which each takes as many elements as a
    /// pixel; `patch` holds one patch.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        first: usize,
        count: usize,
        x: &[f32],
        step: usize,
        v: &mut [f32],
        patch: &mut [f32],
    ) {
        let map = &self.patches.map;
        assert!(v.len() >= (self.filter.positions() - 1) * self.position + count * map.stride);
        for (image, run) in self.grid.runs(first..first + count) {
            let x = &x[image * step..];
            let whole = self.patches.inside(&run);
            let v = &mut v[(run.first - first) * map.stride..];
            if whole > 0 {
                self.tiles(isa, &x[self.patches.at(run.y, run.x)..], map.row(), whole, v);
            }
            for i in whole..run.count {
                self.patches.copy(x, run.y, run.x + self.patches.tile * i, patch);
                self.tiles(isa, patch, self.patches.size * map.stride, 1, &mut v[i * map.stride..]);
            }
        }
    }

    /// `count` neighbouring patches, of which the first begins at the start of `x`.
    fn tiles(&self, isa: Isa, x: &[f32], row: usize, count: usize, v: &mut [f32]) {
        let (stride, end) = (self.patches.map.stride, self.patches.size - 1);
        let vectors = stride / LANES;
        let steps = Steps { row: row as isize, column: stride as isize };
        let last = end * row + (end + (count - 1) * self.patches.tile) * stride;
        assert!(x.len() >= last + stride);
        let (from, steps, to, tile) = match self.order {
            Order::Forward => (x.as_ptr(), steps, v.as_mut_ptr(), stride as isize),
            Order::Mirrored => {
                let to = v[(count - 1) * stride..].as_mut_ptr();
                (x[last..].as_ptr(), steps.mirrored(), to, -(stride as isize))
            }
        };
        let shape = Transformed { position: self.position, tile };
        // SAFETY: the last pixel of the last patch is inside x, the tiles are inside v (checked by the caller).
        unsafe { input_tiles(self.filter, isa, from, steps, count, vectors, to, shape) }
    }
}
