//! y = conv(x) + bias.

use super::geometry::{ConvGeometry, Run, pieces};
use super::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use super::winograd::{Filter, Order, WinogradConv};
use crate::{Isa, LANES};

/// Forward convolution of one image, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct ConvForward {
    geometry: ConvGeometry,
    runs: Vec<Run>,
    winograd: Option<WinogradConv>,
}

impl ConvForward {
    /// Prepares the loop.
    ///
    /// # Panics
    /// If the input's border is smaller than the padding, or the output's pixels are not whole vectors.
    pub fn new(geometry: ConvGeometry) -> Self {
        geometry.check();
        let winograd = Filter::of_convolution(&geometry)
            .map(|f| WinogradConv::new(f, Order::Forward, geometry.input, geometry.output, geometry.padding));
        Self { geometry, runs: runs(&geometry), winograd }
    }

    /// Elements of scratch memory that [`ConvForward::run`] needs.
    pub fn scratch_elements(&self) -> usize {
        self.winograd.as_ref().map_or(0, WinogradConv::scratch_elements)
    }

    /// Computes one image.
    ///
    /// * `x`: the input, with its border (zeros); `w`: the weights for the forward pass
    ///   ([`super::PackedConv::forward_copy`], packed weights where there is none); `bias`: one value per output channel,
    ///   padded with zeros to whole vectors; `y`: the output, of which the interior is written; `scratch`: at least
    ///   [`ConvForward::scratch_elements`].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn run(&self, isa: Isa, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32], scratch: &mut [f32]) {
        if let Some(winograd) = &self.winograd {
            return winograd.run(isa, x, w, bias, y, false, scratch);
        }
        let g = &self.geometry;
        assert_eq!(x.len(), g.input.elements());
        assert_eq!(w.len(), g.weight_elements());
        assert_eq!(bias.len(), g.output_blocks() * LANES);
        assert_eq!(y.len(), g.output.elements());
        let (row, step) = (g.stride.0 * g.input.row(), g.stride.1 * g.input.stride);
        // With the padding inside the border, output pixel (0, 0) reads from input pixel (-padding, -padding).
        let origin = g.input.at(-(g.padding.0 as isize), -(g.padding.1 as isize));
        let w_block = g.taps() * g.input.channels * LANES;
        for (block, vectors) in pieces_of_vectors(g.output_blocks(), max_vectors(isa)) {
            let tiles: Tiles = Tiles::new(g.output.width, max_pixels(isa, vectors));
            for r in 0..g.output.height {
                for (q, pixels) in tiles.iter() {
                    let tile = ForwardTile {
                        // SAFETY: geometry.check: every window lies inside the padded input, whose length was checked.
                        x: unsafe { x.as_ptr().add(origin + r * row + q * step) },
                        x_step: step,
                        runs: self.runs.as_ptr(),
                        run_count: self.runs.len(),
                        // SAFETY: block + vectors <= output_blocks, and w holds w_block elements for each.
                        w: unsafe { w.as_ptr().add(block * w_block) },
                        w_block,
                        // SAFETY: bias holds one vector per block.
                        init: unsafe { bias.as_ptr().add(block * LANES) },
                        init_step: 0,
                        // SAFETY: pixel (r, q) of the output, whose length was checked.
                        y: unsafe { y.as_mut_ptr().add(g.output.at(r as isize, q as isize) + block * LANES) },
                        y_step: g.output.stride,
                    };
                    // SAFETY: pixels q..q + pixels lie in row r; runs stay inside the window of each pixel.
                    unsafe { forward_fn(isa, pixels, vectors)(&tile) }
                }
            }
        }
    }
}

/// Blocks of output channels in groups of at most `max`: (first block, number of blocks).
pub(crate) fn pieces_of_vectors(blocks: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..blocks).step_by(max).map(move |b| (b, max.min(blocks - b)))
}

/// A row of pixels cut into tiles of nearly equal size.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    width: usize,
    max: usize,
}

impl Tiles {
    pub(super) fn new(width: usize, max: usize) -> Self {
        Self { width, max }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        pieces(self.width, self.max)
    }
}

/// Kernel positions as runs of input elements; a kernel row is a single run where pixels are contiguous.
fn runs(g: &ConvGeometry) -> Vec<Run> {
    let (kh, kw) = g.kernel;
    let c = g.input.channels;
    let merge = g.input.stride == c;
    let mut runs = Vec::new();
    for ky in 0..kh {
        if merge {
            runs.push(Run { x: ky * g.input.row(), w: ky * kw * c * LANES, len: kw * c });
        } else {
            for kx in 0..kw {
                let x = ky * g.input.row() + kx * g.input.stride;
                runs.push(Run { x, w: (ky * kw + kx) * c * LANES, len: c });
            }
        }
    }
    runs
}
