//! Weights in the kernels' order, and back.

use super::ConvGeometry;
use super::winograd::{Filter, kernel_transform};
use crate::{Isa, LANES};
use std::ops::Range;

/// Converts between PyTorch's `[out, in, kh, kw]` and the packed order `[out / 16][kh][kw][in][16]`, and makes the copies
/// that the passes of a geometry read.
///
/// The lanes of output channels beyond the last are zero in packed weights, and stay so under any optimizer whose
/// update of a zero weight with a zero gradient is zero.
#[derive(Clone, Copy, Debug)]
pub struct PackedConv {
    outputs: usize,
    inputs: usize,
    taps: usize,
    /// How kernels are transformed, if they are ([`super::winograd`]).
    filter: Option<Filter>,
}

impl PackedConv {
    /// The packing for a geometry.
    pub fn new(geometry: &ConvGeometry) -> Self {
        Self {
            outputs: geometry.output.channels,
            inputs: geometry.input.channels,
            taps: geometry.taps(),
            filter: Filter::of_convolution(geometry),
        }
    }

    /// Positions of a kernel in the copies.
    fn positions(&self) -> usize {
        self.filter.map_or(self.taps, Filter::positions)
    }

    /// Elements of the packed weight.
    pub fn elements(&self) -> usize {
        self.outputs.div_ceil(LANES) * self.taps * self.inputs * LANES
    }

    /// Calls `f(torch index, packed index)` for every weight.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for o in 0..self.outputs {
            for i in 0..self.inputs {
                for t in 0..self.taps {
                    let packed = ((o / LANES * self.taps + t) * self.inputs + i) * LANES + o % LANES;
                    f((o * self.inputs + i) * self.taps + t, packed);
                }
            }
        }
    }

    /// Pieces of the copy that the forward pass reads: one per 16 outputs, each of as many elements as given; none where
    /// the forward pass reads the packed weights themselves.
    pub fn forward_pieces(&self) -> Option<(usize, usize)> {
        let filter = self.filter?;
        Some((self.outputs.div_ceil(LANES), filter.positions() * self.inputs * LANES))
    }

    /// Writes piece `piece` of the forward copy.
    ///
    /// # Panics
    /// If a slice has the wrong length, or there is no such copy.
    pub fn forward_copy(&self, isa: Isa, packed: &[f32], piece: usize, to: &mut [f32]) {
        assert_eq!(packed.len(), self.elements());
        let n = self.taps * self.inputs * LANES;
        let filter = self.filter.expect("there is a forward copy");
        kernel_transform(filter, isa, self.inputs, &packed[piece * n..(piece + 1) * n], to);
    }

    /// Pieces of the copy that the input gradient reads: one per 16 inputs, each of as many elements as given.
    pub fn backward_pieces(&self) -> (usize, usize) {
        let taps = self.positions();
        (self.inputs.div_ceil(LANES), taps * self.outputs * LANES)
    }

    /// Writes piece `piece` of the backward copy, `[in / 16][kh][kw][out][16]`: `from` is the forward copy if there is one,
    /// else the packed weight.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn backward_copy(&self, from: &[f32], piece: usize, to: &mut [f32]) {
        let taps = self.positions();
        assert_eq!(from.len(), self.outputs.div_ceil(LANES) * taps * self.inputs * LANES);
        assert_eq!(to.len(), taps * self.outputs * LANES);
        let inputs: Range<usize> = piece * LANES..self.inputs.min((piece + 1) * LANES);
        for t in 0..taps {
            for o in 0..self.outputs {
                let from = &from[(o / LANES * taps + t) * self.inputs * LANES + o % LANES..];
                let to = &mut to[(t * self.outputs + o) * LANES..][..LANES];
                for (i, to) in inputs.clone().zip(to) {
                    *to = from[i * LANES];
                }
            }
        }
    }
}
