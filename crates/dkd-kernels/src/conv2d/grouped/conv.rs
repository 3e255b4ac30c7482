//! Grouped convolution of one image: forward, input gradient, weight gradient.

use super::super::ConvGeometry;
use super::super::pass::Pass;
use super::banded::Banded;
use super::depthwise::Depthwise;
use crate::{Isa, Map, padded_channels};

/// The weights' order and the loops that go with it.
#[derive(Clone, Debug)]
enum Kind {
    Depthwise(Depthwise),
    Banded(Banded),
}

/// Convolution in `groups` groups: with a and b channels per group, output channel o reads the input channels
/// `o / b * a..(o / b + 1) * a`.
///
/// Packed weights are `[tap][channel]`, channels padded to whole vectors, if every group has one input and one output
/// channel, else `[block of 16 outputs][tap][inputs that one of them reads][16]`. Elements of a packed weight that
/// [`GroupedConv::for_each`] does not name must be zero; their gradient is zero.
#[derive(Clone, Debug)]
pub struct GroupedConv {
    geometry: ConvGeometry,
    gradient: Map,
    dx: Map,
    kind: Kind,
    forward: Pass,
    input_grad: Vec<Pass>,
    weight_grad: Pass,
}

impl GroupedConv {
    /// Prepares the loops.
    ///
    /// * `gradient`: layout of dy: the output's interior with a border of at least
    ///   [`ConvGeometry::gradient_border`]; `dx`: layout of the input's gradient: the input's interior, any border.
    ///
    /// # Panics
    /// If a layout does not fit, pixels are not padded to whole vectors, or `groups` does not divide both channel
    /// counts.
    pub fn new(geometry: ConvGeometry, groups: usize, gradient: Map, dx: Map) -> Self {
        geometry.check();
        let (inputs, outputs) = (geometry.input.channels, geometry.output.channels);
        assert!(
            groups > 0 && inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups),
            "{groups} groups divide {inputs} inputs and {outputs} outputs"
        );
        assert!(
            [geometry.input, geometry.output, gradient, dx]
                .iter()
                .all(|map| map.stride == padded_channels(map.channels)),
            "pixels are padded to whole vectors"
        );
        assert!(gradient.border >= geometry.gradient_border(), "the gradient's border holds what dx reads");
        assert!(gradient.same_interior(&geometry.output) && gradient.channels == outputs);
        assert!(dx.same_interior(&geometry.input) && dx.channels == inputs);
        let (taps, forward) = (geometry.taps(), Pass::forward(&geometry));
        let input_grad = Pass::input_grad(&geometry, &gradient, &dx);
        let kind = if groups == inputs && groups == outputs {
            Kind::Depthwise(Depthwise::new(groups, taps))
        } else {
            let (a, b) = (inputs / groups, outputs / groups);
            Kind::Banded(Banded::new(groups, a, b, taps, &forward, &input_grad))
        };
        let weight_grad = Pass::weight_grad(&geometry, &gradient);
        Self { geometry, gradient, dx, kind, forward, input_grad, weight_grad }
    }

    /// Elements of the packed weight.
    pub fn weight_elements(&self) -> usize {
        match &self.kind {
            Kind::Depthwise(k) => k.weight_elements(),
            Kind::Banded(k) => k.weight_elements(),
        }
    }

    /// Calls `f(torch index, packed index)` for every weight; PyTorch's order is `[out, in / groups, kh, kw]`.
    pub fn for_each(&self, f: impl FnMut(usize, usize)) {
        match &self.kind {
            Kind::Depthwise(k) => k.for_each(f),
            Kind::Banded(k) => k.for_each(f),
        }
    }

    /// Elements of the copy of the weights that the input gradient reads; none where it reads the packed weights themselves.
    pub fn backward_elements(&self) -> Option<usize> {
        match &self.kind {
            Kind::Depthwise(_) => None,
            Kind::Banded(k) => Some(k.backward_elements()),
        }
    }

    /// Writes that copy.
    ///
    /// # Panics
    /// If a slice has the wrong length, or there is no such copy.
    pub fn backward_copy(&self, packed: &[f32], to: &mut [f32]) {
        let Kind::Banded(k) = &self.kind else { panic!("depthwise convolutions have no such copy") };
        k.backward_copy(packed, to);
    }

    /// y = conv(x) + bias for one image.
    ///
    /// * `x`: the input, with its border (zeros); `w`: packed weights; `bias`: one value per output channel, padded
    ///   with zeros to whole vectors; `y`: the output, of which the interior is written.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn forward(&self, isa: Isa, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), self.geometry.input.elements());
        assert_eq!(w.len(), self.weight_elements());
        assert_eq!(bias.len(), self.geometry.output.stride);
        assert_eq!(y.len(), self.geometry.output.elements());
        match &self.kind {
            // SAFETY: the passes are checked against the layouts (`Pass::checked`), the lengths above.
            Kind::Depthwise(k) => unsafe { k.forward(isa, &self.forward, x, w, bias, y) },
            // SAFETY: as above.
            Kind::Banded(k) => unsafe { k.forward(isa, &self.forward, x, w, bias, y) },
        }
    }

    /// Gradient of the input of one image: `dx = …`, or `dx += …` with `accumulate`.
    ///
    /// * `dy`: the output's gradient with a border of zeros; `w`: the copy of the weights ([`GroupedConv::backward_copy`]), packed
    ///   weights where there is none; `dx`: the interior is written.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn input_grad(&self, isa: Isa, dy: &[f32], w: &[f32], dx: &mut [f32], accumulate: bool) {
        assert_eq!(dy.len(), self.gradient.elements());
        assert_eq!(w.len(), self.backward_elements().unwrap_or(self.weight_elements()));
        assert_eq!(dx.len(), self.dx.elements());
        match &self.kind {
            // SAFETY: the passes are checked against the layouts (`Pass::checked`), the lengths above.
            Kind::Depthwise(k) => unsafe { k.input_grad(isa, &self.input_grad, dy, w, dx, accumulate) },
            Kind::Banded(k) => {
                let idle = |pass: &Pass| accumulate && pass.taps.is_empty();
                for (index, pass) in self.input_grad.iter().enumerate().filter(|(_, pass)| !idle(pass)) {
                    // SAFETY: as above.
                    unsafe { k.input_grad(isa, index, pass, dy, w, dx, accumulate) }
                }
            }
        }
    }

    /// Gradient of the weights of one image: `dw = …`, or `dw += …` with `accumulate`; `dw` is in packed order.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn weight_grad(&self, isa: Isa, x: &[f32], dy: &[f32], dw: &mut [f32], accumulate: bool) {
        assert_eq!(x.len(), self.geometry.input.elements());
        assert_eq!(dy.len(), self.gradient.elements());
        assert_eq!(dw.len(), self.weight_elements());
        match &self.kind {
            // SAFETY: the pass is checked against the layouts (`Pass::checked`), the lengths above.
            Kind::Depthwise(k) => unsafe { k.weight_grad(isa, &self.weight_grad, x, dy, dw, accumulate) },
            // SAFETY: as above.
            Kind::Banded(k) => unsafe { k.weight_grad(isa, &self.weight_grad, x, dy, dw, accumulate) },
        }
    }
}
