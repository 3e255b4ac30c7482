//! Weights in the kernels' order, and back.

use super::ConvGeometry;
use crate::LANES;

/// Converts between PyTorch's `[out, in, kh, kw]` and the packed order `[out / 16][kh][kw][in][16]`.
///
/// The lanes of output channels beyond the last are zero in packed weights, and stay so under any optimizer whose
/// update of a zero weight with a zero gradient is zero.
#[derive(Clone, Copy, Debug)]
pub struct PackedConv {
    outputs: usize,
    inputs: usize,
    taps: usize,
}

impl PackedConv {
    /// The packing for a geometry.
    pub fn new(geometry: &ConvGeometry) -> Self {
        Self { outputs: geometry.output.channels, inputs: geometry.input.channels, taps: geometry.taps() }
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

    /// Elements of the transposed weight.
    pub fn transposed_elements(&self) -> usize {
        self.inputs.div_ceil(LANES) * self.taps * self.outputs * LANES
    }

    /// Writes `[in / 16][kh][kw][out][16]`, the order that the input gradient reads, from the packed order.
    pub fn transpose(&self, packed: &[f32], transposed: &mut [f32]) {
        assert_eq!(packed.len(), self.elements());
        assert_eq!(transposed.len(), self.transposed_elements());
        for o in 0..self.outputs {
            let (block, lane) = (o / LANES, o % LANES);
            for t in 0..self.taps {
                let from = (block * self.taps + t) * self.inputs * LANES + lane;
                for i in 0..self.inputs {
                    transposed[((i / LANES * self.taps + t) * self.outputs + o) * LANES + i % LANES] =
                        packed[from + i * LANES];
                }
            }
        }
    }
}
