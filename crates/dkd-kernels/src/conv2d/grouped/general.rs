//! Any number of inputs and outputs per group: vectors of one group's outputs.

use super::general_tiles::{run_forward, run_input, run_weights};
use super::pass::Pass;
use crate::{Isa, LANES, Map, padded_channels};

/// Grouped convolution; packed weights are `[group][block of 16 of its outputs][tap][input of the group][16]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct General {
    pub groups: usize,
    /// Per group.
    pub inputs: usize,
    /// Per group.
    outputs: usize,
    taps: usize,
}

/// Up to 16 outputs of one group as lanes of a vector that lies inside one pixel. Where the outputs do not fill the
/// vector, its other lanes belong to neighbouring groups or to the padding, and no kernel lets them through.
pub(super) struct Block {
    /// First channel of the vector.
    pub start: usize,
    /// The lane of the block's first output.
    pub first: usize,
    /// Number of outputs.
    pub lanes: usize,
    /// Offset of the block's weights.
    pub weights: usize,
}

impl General {
    pub(super) fn new(groups: usize, inputs: usize, outputs: usize, taps: usize) -> Self {
        Self { groups, inputs, outputs, taps }
    }

    /// Blocks of a group.
    pub(super) fn blocks(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    fn block_elements(&self) -> usize {
        self.taps * self.inputs * LANES
    }

    pub(super) fn block(&self, group: usize, block: usize) -> Block {
        let channel = group * self.outputs + block * LANES;
        let start = channel.min(padded_channels(self.groups * self.outputs) - LANES);
        Block {
            start,
            first: channel - start,
            lanes: LANES.min(self.outputs - block * LANES),
            weights: (group * self.blocks() + block) * self.block_elements(),
        }
    }

    pub(super) fn weight_elements(&self) -> usize {
        self.groups * self.blocks() * self.block_elements()
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for o in 0..self.groups * self.outputs {
            let within = o % self.outputs;
            let block = self.block(o / self.outputs, within / LANES);
            for i in 0..self.inputs {
                for t in 0..self.taps {
                    let vector = block.weights + (t * self.inputs + i) * LANES;
                    f((o * self.inputs + i) * self.taps + t, vector + block.first + within % LANES);
                }
            }
        }
    }

    /// # Safety
    /// The pass lies inside `x` and `y`; `w` and `bias` are as long as the packing says.
    pub(super) unsafe fn forward(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        w: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) {
        // SAFETY: the caller's contract.
        unsafe { run_forward(isa, self, pass, x.as_ptr(), w.as_ptr(), bias.as_ptr(), y.as_mut_ptr()) }
    }

    /// # Safety
    /// The pass lies inside `dy` and `dx`; `w` is as long as the packing says.
    pub(super) unsafe fn input_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        // SAFETY: the caller's contract.
        unsafe { run_input(isa, self, pass, dy.as_ptr(), w.as_ptr(), dx.as_mut_ptr(), accumulate) }
    }

    /// # Safety
    /// The pass lies inside `x`, and its grid inside the interior of `dy`; `dw` is as long as the packing says.
    pub(super) unsafe fn weight_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        dy: &[f32],
        gradient: &Map,
        dw: &mut [f32],
        accumulate: bool,
    ) {
        // SAFETY: the interior's first pixel lies inside dy; the rest is the caller's contract.
        unsafe {
            let dy = dy.as_ptr().add(gradient.at(0, 0));
            run_weights(isa, self, pass, x.as_ptr(), dy, gradient, dw.as_mut_ptr(), accumulate);
        }
    }
}
