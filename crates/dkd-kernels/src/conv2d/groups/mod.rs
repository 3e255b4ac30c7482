//! Convolutions with several groups, depthwise ones among them.
//!
//! Weights are packed as `[tap][input channel of the group][output channel, padded]`, so that the loop over output channels
//! is the innermost one: output channel o reads input channel `source(o) + i`, where `source(o)` is the first of its group.
//! Depthwise convolutions read consecutive channels there, which the compiler makes vectors of.

mod loops;

#[cfg(test)]
mod tests;

use super::ConvGeometry;
use crate::{Isa, LANES, Map, padded_channels};
use loops::{Sizes, forward, input_grad, weight_grad};

/// A grouped convolution of one image, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct GroupedConv {
    geometry: ConvGeometry,
    gradient: Map,
    dx: Map,
    sizes: Sizes,
}

impl GroupedConv {
    /// Prepares the loops. `gradient` is the layout of dy: the output's interior, any border; `dx` the layout of the input's
    /// gradient: the input's interior, any border.
    ///
    /// # Panics
    /// If the groups do not divide the channels or a layout does not fit.
    pub fn new(geometry: ConvGeometry, groups: usize, gradient: Map, dx: Map) -> Self {
        geometry.check();
        let (inputs, outputs) = (geometry.input.channels, geometry.output.channels);
        assert!(groups > 0 && inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups));
        assert!(geometry.input.is_vector() && gradient.same_interior(&geometry.output));
        assert!(dx.is_vector() && dx.same_interior(&geometry.input));
        let (inputs, per_group) = (inputs / groups, outputs / groups);
        let source =
            (0..padded_channels(outputs)).map(|o| if o < outputs { o / per_group * inputs } else { 0 });
        let sizes = Sizes { inputs, source: source.collect(), depthwise: inputs == 1 && per_group == 1 };
        Self { geometry, gradient, dx, sizes }
    }

    /// Elements of the packed weight.
    pub fn weight_elements(&self) -> usize {
        self.geometry.taps() * self.sizes.inputs * self.sizes.source.len()
    }

    /// Calls `f(PyTorch index, packed index)` for every weight.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let (taps, inputs, padded) = (self.geometry.taps(), self.sizes.inputs, self.sizes.source.len());
        for o in 0..self.geometry.output.channels {
            for i in 0..inputs {
                for t in 0..taps {
                    f((o * inputs + i) * taps + t, (t * inputs + i) * padded + o);
                }
            }
        }
    }

    /// y = conv(x) + bias.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn forward(&self, isa: Isa, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
        let g = &self.geometry;
        assert!(x.len() == g.input.elements() && y.len() == g.output.elements());
        assert!(w.len() == self.weight_elements() && bias.len() == g.output_blocks() * LANES);
        // SAFETY: the loops index slices.
        unsafe { forward(isa, g, &self.sizes, x, w, bias, y) }
    }

    /// dx = the input's gradient, or added to it with `accumulate`. `w` is packed as in [`GroupedConv::forward`].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn input_grad(&self, isa: Isa, dy: &[f32], w: &[f32], dx: &mut [f32], accumulate: bool) {
        assert!(dy.len() == self.gradient.elements() && dx.len() == self.dx.elements());
        assert_eq!(w.len(), self.weight_elements());
        if !accumulate {
            for row in 0..self.dx.height {
                dx[self.dx.at(row as isize, 0)..][..self.dx.row_elements()].fill(0.0);
            }
        }
        // SAFETY: the loops index slices.
        unsafe { input_grad(isa, &self.geometry, &self.sizes, (dy, self.gradient), w, dx, self.dx) }
    }

    /// dw = the weight's gradient of this image, or added to it with `accumulate`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn weight_grad(&self, isa: Isa, x: &[f32], dy: &[f32], dw: &mut [f32], accumulate: bool) {
        assert!(x.len() == self.geometry.input.elements() && dy.len() == self.gradient.elements());
        assert_eq!(dw.len(), self.weight_elements());
        if !accumulate {
            dw.fill(0.0);
        }
        // SAFETY: the loops index slices.
        unsafe { weight_grad(isa, &self.geometry, &self.sizes, x, (dy, self.gradient), dw) }
    }
}
