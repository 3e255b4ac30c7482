//! Any number of inputs and outputs per group, as bands of a dense convolution.
//!
//! The outputs of one vector of channels belong to one group or to a few neighbouring ones, whose inputs are neighbours too: a
//! vector reads one range of inputs, with weights of zero where an output does not read an input. The loops are those of the dense
//! convolution, and groups need not be whole vectors. Lanes of different groups share a multiplication: an infinite input of one
//! group is NaN in its neighbours' lanes of the same vector.

use super::super::direct::{Outputs, rows};
use super::super::geometry::{Run, pieces};
use super::super::pass::{Pass, Start};
use super::super::tile::{WeightTile, max_inputs, max_vectors, weight_fn};
use crate::{Isa, LANES};
use std::ops::Range;

/// What one vector of targets reads.
#[derive(Clone, Debug)]
struct Band {
    /// Source channels.
    sources: Range<usize>,
    /// Offset of its weights: `[kernel position][source][16]`.
    weights: usize,
}

/// The bands of one direction.
#[derive(Clone, Debug)]
struct Bands {
    taps: usize,
    bands: Vec<Band>,
    elements: usize,
}

impl Bands {
    /// Every group has `from` source channels and `to` target channels.
    fn new(groups: usize, from: usize, to: usize, taps: usize) -> Self {
        let (targets, mut elements) = (groups * to, 0);
        let bands = (0..targets).step_by(LANES).map(|first| {
            let last = targets.min(first + LANES) - 1;
            let sources = first / to * from..(last / to + 1) * from;
            let weights = elements;
            elements += taps * sources.len() * LANES;
            Band { sources, weights }
        });
        let bands = bands.collect();
        Self { taps, bands, elements }
    }

    /// Where the weight of a pair of channels lies.
    fn at(&self, source: usize, target: usize, tap: usize) -> usize {
        let band = &self.bands[target / LANES];
        let source = tap * band.sources.len() + source - band.sources.start;
        band.weights + source * LANES + target % LANES
    }

    fn runs(&self, pass: &Pass) -> Vec<Vec<Run>> {
        self.bands.iter().map(|b| pass.runs(b.sources.start, b.sources.len())).collect()
    }

    /// # Safety
    /// The pass lies inside `x` and `y`, whose channels are those of the bands; a bias has a value for each target.
    unsafe fn run(
        &self,
        isa: Isa,
        pass: &Pass,
        runs: &[Vec<Run>],
        x: &[f32],
        w: &[f32],
        y: &mut [f32],
        start: Start,
    ) {
        assert_eq!(w.len(), self.elements);
        for (block, vectors) in self.alike(max_vectors(isa)) {
            let band = &self.bands[block];
            // SAFETY: the bands' weights, their vectors of a pixel, and the caller's contract.
            unsafe {
                let w = w.as_ptr().add(band.weights);
                let y = y.as_mut_ptr().add(pass.to + block * LANES);
                let w_block = self.block_elements(band);
                let to = Outputs { w, w_block, vectors, y, start: start.at(block * LANES) };
                rows(isa, pass, &runs[block], x.as_ptr(), &to);
            }
        }
    }

    /// Elements from the weights of a band to those of the next one.
    fn block_elements(&self, band: &Band) -> usize {
        self.taps * band.sources.len() * LANES
    }

    /// Neighbouring bands, at most `max`, that read the same sources: (first band, number of bands).
    fn alike(&self, max: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let block = next;
            let sources = &self.bands.get(block)?.sources;
            let alike = self.bands[block..].iter().take(max).take_while(|b| b.sources == *sources).count();
            next += alike;
            Some((block, alike))
        })
    }
}

/// Grouped convolution; packed weights are those of the forward bands.
#[derive(Clone, Debug)]
pub(super) struct Banded {
    groups: usize,
    /// Per group.
    inputs: usize,
    /// Per group.
    outputs: usize,
    taps: usize,
    forward: Bands,
    backward: Bands,
    forward_runs: Vec<Vec<Run>>,
    /// For each pass of the input gradient.
    backward_runs: Vec<Vec<Vec<Run>>>,
}

impl Banded {
    pub(super) fn new(
        groups: usize,
        inputs: usize,
        outputs: usize,
        taps: usize,
        forward_pass: &Pass,
        backward_passes: &[Pass],
    ) -> Self {
        let forward = Bands::new(groups, inputs, outputs, taps);
        let backward = Bands::new(groups, outputs, inputs, taps);
        let forward_runs = forward.runs(forward_pass);
        let backward_runs = backward_passes.iter().map(|pass| backward.runs(pass)).collect();
        Self { groups, inputs, outputs, taps, forward, backward, forward_runs, backward_runs }
    }

    pub(super) fn weight_elements(&self) -> usize {
        self.forward.elements
    }

    /// Elements of the copy that the input gradient reads.
    pub(super) fn backward_elements(&self) -> usize {
        self.backward.elements
    }

    /// Calls `f(output, input, kernel position)` for every weight, in PyTorch's order.
    fn weights(&self, mut f: impl FnMut(usize, usize, usize)) {
        for o in 0..self.groups * self.outputs {
            let first = o / self.outputs * self.inputs;
            for input in first..first + self.inputs {
                (0..self.taps).for_each(|t| f(o, input, t));
            }
        }
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let mut torch = 0;
        self.weights(|o, input, t| {
            f(torch, self.forward.at(input, o, t));
            torch += 1;
        });
    }

    /// Writes the copy that the input gradient reads.
    pub(super) fn backward_copy(&self, packed: &[f32], to: &mut [f32]) {
        to.fill(0.0);
        self.weights(|o, input, t| {
            to[self.backward.at(o, input, t)] = packed[self.forward.at(input, o, t)];
        });
    }

    /// # Safety
    /// The forward pass lies inside `x` and `y`; `bias` has a value for each lane.
    pub(super) unsafe fn forward(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        w: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) {
        let start = Start::Bias(bias.as_ptr());
        // SAFETY: the caller's contract.
        unsafe { self.forward.run(isa, pass, &self.forward_runs, x, w, y, start) }
    }

    /// Pass number `index` of the input gradient, from the copy `w`.
    ///
    /// # Safety
    /// The pass lies inside `dy` and `dx`.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn input_grad(
        &self,
        isa: Isa,
        index: usize,
        pass: &Pass,
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        let start = if accumulate { Start::Target } else { Start::Zero };
        // SAFETY: the caller's contract.
        unsafe { self.backward.run(isa, pass, &self.backward_runs[index], dy, w, dx, start) }
    }

    /// # Safety
    /// The pass ([`Pass::weight_grad`]) lies inside `x` and `dy`.
    pub(super) unsafe fn weight_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        accumulate: bool,
    ) {
        assert_eq!(dw.len(), self.forward.elements);
        for (block, vectors) in self.forward.alike(max_vectors(isa)) {
            let (band, runs) = (&self.forward.bands[block], &self.forward_runs[block]);
            for run in runs {
                for (input, inputs) in pieces(run.len, max_inputs(isa, vectors)) {
                    // SAFETY: the run's inputs, vectors of a pixel's gradient, the bands' weights; the caller's contract.
                    unsafe {
                        let tile = WeightTile {
                            x: x.as_ptr().add(run.x + input),
                            x_row: pass.from_row,
                            x_step: pass.from_step,
                            g: dy.as_ptr().add(pass.to + block * LANES),
                            g_row: pass.to_row,
                            g_step: pass.to_step,
                            rows: pass.rows,
                            columns: pass.columns,
                            dw: dw.as_mut_ptr().add(band.weights + run.w + input * LANES),
                            w_block: self.forward.block_elements(band),
                            accumulate,
                        };
                        weight_fn(isa, inputs, vectors)(&tile);
                    }
                }
            }
            (block..block + vectors).for_each(|block| self.clear(block, dw));
        }
    }

    /// Zeroes what is no weight in the gradients of a vector of outputs.
    fn clear(&self, block: usize, dw: &mut [f32]) {
        let band = &self.forward.bands[block];
        let n = band.sources.len();
        if n == self.inputs && (block + 1) * LANES <= self.groups * self.outputs {
            return;
        }
        let first = block * LANES;
        let weights = &mut dw[band.weights..][..self.taps * n * LANES];
        for (source, lanes) in weights.chunks_exact_mut(LANES).enumerate() {
            let output = (band.sources.start + source % n) / self.inputs * self.outputs;
            let lane = |output: usize| output.saturating_sub(first).min(LANES);
            lanes[..lane(output)].fill(0.0);
            lanes[lane(output + self.outputs)..].fill(0.0);
        }
    }
}
