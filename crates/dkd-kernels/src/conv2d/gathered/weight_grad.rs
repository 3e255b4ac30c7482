//! The weights' gradient.

use super::segments;
use crate::conv2d::ConvGeometry;
use crate::conv2d::forward::pieces_of_vectors;
use crate::conv2d::geometry::{Run, pieces};
use crate::conv2d::images::Images;
use crate::conv2d::pass::Pass;
use crate::conv2d::tile::{WeightTile, max_inputs, max_vectors, weight_fn};
use crate::{Isa, LANES, Map};

/// Pixels of a panel, at most: a panel of inputs and one of gradients stay in the first-level cache.
const PANEL_PIXELS: usize = 192;

/// Elements of all panels of gradients: they should stay in the second-level cache.
const GRADIENT_ELEMENTS: usize = 192 * 1024;

/// Inputs of a panel: those of the largest register tile.
const PANEL_INPUTS: usize = 2 * LANES;

/// Vectors of gradients in a panel.
const PANEL_VECTORS: usize = 2;

/// dw, for several images.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct GatheredWeightGrad {
    pass: Pass,
    runs: Vec<Run>,
    gradient: Map,
    /// Elements of one block's weights.
    block: usize,
    /// Pixels of a panel.
    pixels: usize,
}

impl GatheredWeightGrad {
    pub fn new(geometry: &ConvGeometry, gradient: Map) -> Self {
        let pass = Pass::weight_grad(geometry, &gradient);
        let runs = pass.runs(0, geometry.input.channels);
        let pixels = (GRADIENT_ELEMENTS / gradient.stride).clamp(2 * LANES, PANEL_PIXELS);
        Self { pass, runs, gradient, block: geometry.taps() * geometry.input.channels * LANES, pixels }
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        let blocks = self.gradient.stride / LANES;
        self.pixels * (PANEL_INPUTS + blocks.next_multiple_of(PANEL_VECTORS) * LANES)
    }

    /// `dw = …`, or `dw += …` with `accumulate`.
    #[allow(clippy::too_many_arguments)]
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
        let blocks = self.gradient.stride / LANES;
        assert_eq!(dw.len(), blocks * self.block);
        let total = images.count * self.pass.pixels();
        let (inputs_panel, gradients) = scratch.split_at_mut(self.pixels * PANEL_INPUTS);
        let most = max_vectors(isa).min(blocks);
        for (piece, (first, count)) in pieces(total, self.pixels).enumerate() {
            self.gather_gradients(images, dy, first, count, most, gradients);
            for run in &self.runs {
                for (input, inputs) in pieces(run.len, max_inputs(isa, most)) {
                    let width = inputs.next_multiple_of(LANES);
                    self.gather_inputs(images, x, first, count, run.x + input, inputs, inputs_panel);
                    for (block, vectors) in pieces_of_vectors(blocks, most) {
                        let at = block * self.block + run.w + input * LANES;
                        let tile = WeightTile {
                            x: inputs_panel[..count * width].as_ptr(),
                            x_row: 0,
                            x_step: width,
                            g: gradients[self.pixels * block * LANES..][..count * vectors * LANES].as_ptr(),
                            g_row: 0,
                            g_step: vectors * LANES,
                            rows: 1,
                            columns: count,
                            dw: dw[at..].as_mut_ptr(),
                            w_block: self.block,
                            accumulate: accumulate || piece > 0,
                        };
                        assert!(at + (vectors - 1) * self.block + inputs * LANES <= dw.len());
                        // SAFETY: the panels and the place in dw are as long as the tile needs: checked above.
                        unsafe { weight_fn(isa, inputs, vectors)(&tile) }
                    }
                }
            }
        }
    }

    /// The gradients of some pixels, `[group of blocks][pixel][its outputs]`.
    fn gather_gradients(
        &self,
        images: Images,
        dy: &[f32],
        first: usize,
        count: usize,
        most: usize,
        gradients: &mut [f32],
    ) {
        let (map, pass) = (&self.gradient, &self.pass);
        for s in segments(pass, first..first + count) {
            let start = s.image * images.to + pass.to + s.row * pass.to_row + s.column * pass.to_step;
            for p in 0..s.count {
                let dy = &dy[start + p * map.stride..][..map.stride];
                for (block, vectors) in pieces_of_vectors(map.stride / LANES, most) {
                    let width = vectors * LANES;
                    let at = self.pixels * block * LANES + (s.first + p) * width;
                    gradients[at..at + width].copy_from_slice(&dy[block * LANES..][..width]);
                }
            }
        }
    }

    /// `inputs` inputs of some pixels, `[pixel][input]`, inputs padded to whole vectors; `offset` is that of the first pixel's
    /// first.
    #[allow(clippy::too_many_arguments)]
    fn gather_inputs(
        &self,
        images: Images,
        x: &[f32],
        first: usize,
        count: usize,
        offset: usize,
        inputs: usize,
        panel: &mut [f32],
    ) {
        let (width, step) = (inputs.next_multiple_of(LANES), self.pass.from_step);
        for s in segments(&self.pass, first..first + count) {
            let start = s.image * images.from + s.row * self.pass.from_row + s.column * step + offset;
            for p in 0..s.count {
                let at = start + p * step;
                let to = &mut panel[(s.first + p) * width..][..width];
                if let Some(from) = x.get(at..at + width) {
                    // Whole vectors: what is beyond the inputs is not read.
                    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
                        to.copy_from_slice(from);
                    }
                } else {
                    to[..inputs].copy_from_slice(&x[at..at + inputs]);
                }
            }
        }
    }
}
