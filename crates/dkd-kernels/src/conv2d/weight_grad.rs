//! dw = sum over pixels of x times dy.

use super::forward::pieces_of_vectors;
use super::gathered::GatheredWeightGrad;
use super::geometry::{ConvGeometry, pieces};
use super::images::Images;
use super::tile::{WeightTile, max_inputs, max_vectors, weight_fn};
use super::winograd::{Filter, WinogradWeightGrad};
use crate::{Isa, LANES, Map};

/// Bytes of input and gradient that a tile may touch in one strip of rows, so that neighbouring tiles find them in the
/// first-level cache; a longer strip means fewer loads and stores of the accumulators.
const STRIP_BYTES: usize = 24 * 1024;

/// Weight gradient, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct ConvWeightGrad {
    geometry: ConvGeometry,
    gradient: Map,
    way: Way,
}

/// How it is computed.
#[derive(Clone, Debug)]
enum Way {
    /// In strips of so many rows.
    Direct(usize),
    Gathered(GatheredWeightGrad),
    Winograd(WinogradWeightGrad),
}

impl ConvWeightGrad {
    /// Prepares the loop; `gradient` is the layout of dy: the output's interior, any border.
    ///
    /// # Panics
    /// If a layout does not fit.
    pub fn new(geometry: ConvGeometry, gradient: Map) -> Self {
        let g = &geometry;
        g.check();
        assert!(gradient.same_interior(&g.output));
        let way = if let Some(filter) = Filter::of_weight_gradient(g) {
            Way::Winograd(WinogradWeightGrad::new(filter, g.input, gradient, g.padding))
        } else if g.takes_many() {
            Way::Gathered(GatheredWeightGrad::new(g, gradient))
        } else {
            // What one tile touches of a pixel: a line or two of the input, one or two vectors of the gradient.
            let input_bytes = 4 * (g.stride.1 * g.input.stride).min(2 * LANES);
            let row_bytes = g.output.width * (input_bytes + 4 * gradient.stride.min(2 * LANES));
            Way::Direct((STRIP_BYTES / row_bytes).clamp(1, g.output.height))
        };
        Self { geometry, gradient, way }
    }

    /// Elements of scratch memory that [`ConvWeightGrad::run`] needs.
    pub fn scratch_elements(&self) -> usize {
        match &self.way {
            Way::Direct(_) => 0,
            Way::Gathered(gathered) => gathered.scratch_elements(),
            Way::Winograd(winograd) => winograd.scratch_elements(),
        }
    }

    /// Sums over some images: `dw = …`, or `dw += …` with `accumulate`; `dw` is in packed order; `scratch`: at least
    /// [`ConvWeightGrad::scratch_elements`]. `images.to` is the distance of the gradients.
    ///
    /// # Panics
    /// If a slice has the wrong length, or there is no image.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        images: Images,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        let g = &self.geometry;
        assert!(images.count > 0);
        assert!(x.len() >= images.end(images.from, g.input.elements()));
        assert!(dy.len() >= images.end(images.to, self.gradient.elements()));
        assert_eq!(dw.len(), g.weight_elements());
        match &self.way {
            Way::Winograd(winograd) => winograd.run(isa, images, x, dy, dw, accumulate, scratch),
            Way::Gathered(gathered) => gathered.run(isa, images, x, dy, dw, accumulate, scratch),
            Way::Direct(strip) => {
                for i in 0..images.count {
                    let (x, dy) = (&x[i * images.from..], &dy[i * images.to..]);
                    for first in (0..g.output.height).step_by(*strip) {
                        let rows = *strip.min(&(g.output.height - first));
                        self.strip(isa, x, dy, dw, first, rows, accumulate || i + first > 0);
                    }
                }
            }
        }
    }

    /// Output rows `first..first + rows`.
    #[allow(clippy::too_many_arguments)]
    fn strip(
        &self,
        isa: Isa,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        first: usize,
        rows: usize,
        accumulate: bool,
    ) {
        let g = &self.geometry;
        let (kh, kw) = g.kernel;
        let c = g.input.channels;
        // Contiguous pixels make a whole kernel row one run of inputs.
        let merge = g.input.stride == c;
        let (positions, len) = if merge { (1, kw * c) } else { (kw, c) };
        let w_block = g.taps() * c * LANES;
        let origin =
            g.input.at((first * g.stride.0) as isize - g.padding.0 as isize, -(g.padding.1 as isize));
        for (block, vectors) in pieces_of_vectors(g.output_blocks(), max_vectors(isa)) {
            for ky in 0..kh {
                for kx in 0..positions {
                    for (input, inputs) in pieces(len, max_inputs(isa, vectors)) {
                        let from = origin + ky * g.input.row() + kx * g.input.stride + input;
                        let to = block * w_block + ((ky * kw + kx) * c + input) * LANES;
                        let tile = WeightTile {
                            // SAFETY: geometry.check: every window lies inside the padded input.
                            x: unsafe { x.as_ptr().add(from) },
                            x_row: g.stride.0 * g.input.row(),
                            x_step: g.stride.1 * g.input.stride,
                            // SAFETY: row `first` of the gradient, block < output_blocks.
                            g: unsafe {
                                dy.as_ptr().add(self.gradient.at(first as isize, 0) + block * LANES)
                            },
                            g_row: self.gradient.row(),
                            g_step: self.gradient.stride,
                            rows,
                            columns: g.output.width,
                            // SAFETY: `to` plus `inputs` vectors lies inside block `block` of the packed weight.
                            dw: unsafe { dw.as_mut_ptr().add(to) },
                            w_block,
                            accumulate,
                        };
                        // SAFETY: as above, for `rows` rows of `columns` pixels, all inside the checked slices.
                        unsafe { weight_fn(isa, inputs, vectors)(&tile) }
                    }
                }
            }
        }
    }
}
