//! y = conv(x) + bias.

use super::direct::{Outputs, rows};
use super::gathered::Gathered;
use super::geometry::{ConvGeometry, Run};
use super::images::Images;
use super::pass::{Pass, Start};
use super::tile::max_vectors;
use super::winograd::{Filter, Order, WinogradConv};
use crate::{Isa, LANES};

/// Forward convolution, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct ConvForward {
    geometry: ConvGeometry,
    way: Way,
}

/// How it is computed.
#[derive(Clone, Debug)]
enum Way {
    Direct(Pass, Vec<Run>),
    Gathered(Gathered),
    Winograd(WinogradConv),
}

impl ConvForward {
    /// Prepares the loop.
    ///
    /// # Panics
    /// If the input's border is smaller than the padding, or the output's pixels are not whole vectors.
    pub fn new(geometry: ConvGeometry) -> Self {
        let g = &geometry;
        g.check();
        let way = if let Some(filter) = Filter::of_convolution(g) {
            let many = g.takes_many();
            Way::Winograd(WinogradConv::new(filter, Order::Forward, g.input, g.output, g.padding, many))
        } else if g.takes_many() {
            Way::Gathered(Gathered::new(Pass::forward(g), g.input.channels))
        } else {
            let pass = Pass::forward(g);
            let runs = pass.runs(0, g.input.channels);
            Way::Direct(pass, runs)
        };
        Self { geometry, way }
    }

    /// Elements of scratch memory that [`ConvForward::run`] needs.
    pub fn scratch_elements(&self) -> usize {
        match &self.way {
            Way::Direct(..) => 0,
            Way::Gathered(gathered) => gathered.scratch_elements(),
            Way::Winograd(winograd) => winograd.scratch_elements(),
        }
    }

    /// Computes some images.
    ///
    /// * `x`: the input, with its border (zeros); `w`: the weights for the forward pass
    ///   ([`super::PackedConv::forward_copy`], packed weights where there is none); `bias`: one value per output channel,
    ///   padded with zeros to whole vectors; `y`: the output, of which the interior is written; `scratch`: at least
    ///   [`ConvForward::scratch_elements`].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        images: Images,
        x: &[f32],
        w: &[f32],
        bias: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        let g = &self.geometry;
        assert!(x.len() >= images.end(images.from, g.input.elements()));
        assert!(y.len() >= images.end(images.to, g.output.elements()));
        assert_eq!(bias.len(), g.output_blocks() * LANES);
        let start = Start::Bias(bias.as_ptr());
        let w_block = g.taps() * g.input.channels * LANES;
        match &self.way {
            Way::Winograd(winograd) => winograd.run(isa, images, x, w, bias, y, false, scratch),
            Way::Gathered(gathered) => {
                assert_eq!(w.len(), g.weight_elements());
                // SAFETY: the pass is checked against the layouts, the lengths above.
                unsafe { gathered.run(isa, images, x, w, w_block, start, y, scratch) }
            }
            Way::Direct(pass, runs) => {
                assert_eq!(w.len(), g.weight_elements());
                for i in 0..images.count {
                    // SAFETY: as above.
                    unsafe {
                        let (x, y) = (x.as_ptr().add(i * images.from), y.as_mut_ptr().add(i * images.to));
                        all_blocks(isa, pass, runs, x, w.as_ptr(), w_block, g.output_blocks(), start, y);
                    }
                }
            }
        }
    }
}

/// All blocks of outputs of a pass; `y` is the target's image.
///
/// # Safety
/// As [`rows`]; `w` has `w_block` elements for each block, a bias 16.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn all_blocks(
    isa: Isa,
    pass: &Pass,
    runs: &[Run],
    x: *const f32,
    w: *const f32,
    w_block: usize,
    blocks: usize,
    start: Start,
    y: *mut f32,
) {
    for (block, vectors) in pieces_of_vectors(blocks, max_vectors(isa)) {
        // SAFETY: block + vectors <= blocks.
        unsafe {
            let start = start.at(block * LANES);
            let y = y.add(pass.to + block * LANES);
            let to = Outputs { w: w.add(block * w_block), w_block, vectors, y, start };
            rows(isa, pass, runs, x, &to);
        }
    }
}

/// Blocks of output channels in groups of at most `max`: (first block, number of blocks).
pub(crate) fn pieces_of_vectors(blocks: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..blocks).step_by(max).map(move |b| (b, max.min(blocks - b)))
}
