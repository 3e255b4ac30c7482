//! dx = convolution of dy with the transposed weights.

use super::forward::all_blocks;
use super::gathered::Gathered;
use super::geometry::{ConvGeometry, Run};
use super::images::Images;
use super::pass::{Pass, Start};
use super::winograd::{Filter, Order, WinogradConv};
use crate::{Isa, LANES, Map};

/// Input gradient, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct ConvInputGrad {
    geometry: ConvGeometry,
    gradient: Map,
    dx: Map,
    way: Way,
}

/// How it is computed: with strides there are several interleaved grids of input pixels.
#[derive(Clone, Debug)]
enum Way {
    Direct(Vec<(Pass, Vec<Run>)>),
    Gathered(Vec<Gathered>),
    Winograd(WinogradConv, Vec<f32>),
}

impl ConvInputGrad {
    /// Prepares the loop. `gradient` is the layout of dy: the output's interior with a border of at least
    /// [`ConvGeometry::gradient_border`]; `dx` is the layout of the result: the input's interior, any border.
    ///
    /// # Panics
    /// If a layout does not fit.
    pub fn new(geometry: ConvGeometry, gradient: Map, dx: Map) -> Self {
        let g = &geometry;
        g.check();
        assert!(gradient.border >= g.gradient_border() && gradient.same_interior(&g.output));
        assert!(dx.is_vector() && dx.height == g.input.height && dx.width == g.input.width);
        assert!(dx.channels == g.input.channels);
        let outputs = g.output.channels;
        let passes = Pass::input_grad(g, &gradient, &dx).into_iter();
        let way = if let Some(filter) = Filter::of_convolution(g) {
            let padding = (2 - g.padding.0, 2 - g.padding.1);
            let many = g.takes_many();
            let winograd = WinogradConv::new(filter, Order::Mirrored, gradient, dx, padding, many);
            Way::Winograd(winograd, vec![0.0; g.input_blocks() * LANES])
        } else if g.takes_many() {
            Way::Gathered(passes.map(|pass| Gathered::new(pass, outputs)).collect())
        } else {
            let with_runs = |pass: Pass| {
                let runs = pass.runs(0, outputs);
                (pass, runs)
            };
            Way::Direct(passes.map(with_runs).collect())
        };
        Self { geometry, gradient, dx, way }
    }

    /// Elements of scratch memory that [`ConvInputGrad::run`] needs.
    pub fn scratch_elements(&self) -> usize {
        match &self.way {
            Way::Direct(_) => 0,
            Way::Gathered(passes) => passes.iter().map(Gathered::scratch_elements).max().unwrap_or(0),
            Way::Winograd(winograd, _) => winograd.scratch_elements(),
        }
    }

    /// Layout of dy.
    pub fn gradient(&self) -> Map {
        self.gradient
    }

    /// Computes some images: `dx = …`, or `dx += …` with `accumulate`.
    ///
    /// * `dy`: the output's gradient with a border of zeros; `w`: the weights for the backward pass
    ///   ([`super::PackedConv::backward_copy`]); `dx`: the interior is written; `scratch`: at least
    ///   [`ConvInputGrad::scratch_elements`].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        images: Images,
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let g = &self.geometry;
        assert!(dy.len() >= images.end(images.from, self.gradient.elements()));
        assert!(dx.len() >= images.end(images.to, self.dx.elements()));
        let w_block = g.taps() * g.output.channels * LANES;
        let start = if accumulate { Start::Target } else { Start::Zero };
        let idle = |pass: &Pass| accumulate && pass.taps.is_empty();
        match &self.way {
            Way::Winograd(winograd, zeros) => {
                winograd.run(isa, images, dy, w, zeros, dx, accumulate, scratch);
            }
            Way::Gathered(passes) => {
                assert_eq!(w.len(), g.input_blocks() * w_block);
                for gathered in passes.iter().filter(|gathered| !idle(gathered.pass())) {
                    // SAFETY: the passes are checked against the layouts, the lengths above.
                    unsafe { gathered.run(isa, images, dy, w, w_block, start, dx, scratch) }
                }
            }
            Way::Direct(passes) => {
                assert_eq!(w.len(), g.input_blocks() * w_block);
                for i in 0..images.count {
                    for (pass, runs) in passes.iter().filter(|(pass, _)| !idle(pass)) {
                        // SAFETY: as above.
                        unsafe {
                            let dy = dy.as_ptr().add(i * images.from);
                            let dx = dx.as_mut_ptr().add(i * images.to);
                            all_blocks(isa, pass, runs, dy, w.as_ptr(), w_block, g.input_blocks(), start, dx);
                        }
                    }
                }
            }
        }
    }
}
