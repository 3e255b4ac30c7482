//! Grouped convolution of one image: forward, input gradient, weight gradient.

use super::super::ConvGeometry;
use super::depthwise::Depthwise;
use super::general::General;
use super::pass::Pass;
use crate::{Isa, Map, padded_channels};

/// The weights' order and the loops that go with it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Depthwise(Depthwise),
    General(General),
}

/// Convolution in `groups` groups: with a and b channels per group, output channel o reads the input channels
/// `o / b * a..(o / b + 1) * a`.
///
/// Packed weights are `[tap][channel]`, channels padded to whole vectors, if every group has one input and one output
/// channel, else `[group][block of 16 of the group's outputs][tap][input of the group][16]`. Elements of a packed
/// weight that [`GroupedConv::for_each`] does not name must be zero; their gradient is zero.
#[derive(Clone, Debug)]
pub struct GroupedConv {
    geometry: ConvGeometry,
    gradient: Map,
    dx: Map,
    kind: Kind,
    forward: Pass,
    input_grad: Vec<Pass>,
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
        let kind = if groups == inputs && groups == outputs {
            Kind::Depthwise(Depthwise::new(groups, geometry.taps()))
        } else {
            Kind::General(General::new(groups, inputs / groups, outputs / groups, geometry.taps()))
        };
        Self {
            geometry,
            gradient,
            dx,
            kind,
            forward: Pass::forward(&geometry),
            input_grad: Pass::input_grad(&geometry, &gradient, &dx),
        }
    }

    /// Elements of the packed weight.
    pub fn weight_elements(&self) -> usize {
        match &self.kind {
            Kind::Depthwise(k) => k.weight_elements(),
            Kind::General(k) => k.weight_elements(),
        }
    }

    /// Calls `f(torch index, packed index)` for every weight; PyTorch's order is `[out, in / groups, kh, kw]`.
    pub fn for_each(&self, f: impl FnMut(usize, usize)) {
        match &self.kind {
            Kind::Depthwise(k) => k.for_each(f),
            Kind::General(k) => k.for_each(f),
        }
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
            Kind::General(k) => {
                clear_padding(&self.geometry.output, y);
                // SAFETY: as above.
                unsafe { k.forward(isa, &self.forward, x, w, bias, y) }
            }
        }
    }

    /// Gradient of the input of one image: `dx = …`, or `dx += …` with `accumulate`.
    ///
    /// * `dy`: the output's gradient with a border of zeros; `w`: packed weights; `dx`: the interior is written.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn input_grad(&self, isa: Isa, dy: &[f32], w: &[f32], dx: &mut [f32], accumulate: bool) {
        assert_eq!(dy.len(), self.gradient.elements());
        assert_eq!(w.len(), self.weight_elements());
        assert_eq!(dx.len(), self.dx.elements());
        if !accumulate && matches!(self.kind, Kind::General(_)) {
            clear_padding(&self.dx, dx);
        }
        for pass in self.input_grad.iter().filter(|pass| !accumulate || !pass.taps.is_empty()) {
            match &self.kind {
                // SAFETY: the passes are checked against the layouts (`Pass::checked`), the lengths above.
                Kind::Depthwise(k) => unsafe { k.input_grad(isa, pass, dy, w, dx, accumulate) },
                // SAFETY: as above.
                Kind::General(k) => unsafe { k.input_grad(isa, pass, dy, w, dx, accumulate) },
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
            // SAFETY: the pass is checked against the input (`Pass::checked`), and its grid is the output's interior,
            // which the gradient shares; the lengths are checked above.
            Kind::Depthwise(k) => unsafe {
                k.weight_grad(isa, &self.forward, x, dy, &self.gradient, dw, accumulate);
            },
            // SAFETY: as above.
            Kind::General(k) => unsafe {
                k.weight_grad(isa, &self.forward, x, dy, &self.gradient, dw, accumulate);
            },
        }
    }
}

/// Zeroes the padding channels of the interior.
fn clear_padding(map: &Map, image: &mut [f32]) {
    if map.stride > map.channels {
        for y in 0..map.height as isize {
            for pixel in image[map.at(y, 0)..][..map.row_elements()].chunks_exact_mut(map.stride) {
                pixel[map.channels..].fill(0.0);
            }
        }
    }
}
