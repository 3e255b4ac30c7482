//! dx = convolution of dy with the transposed weights.

use super::forward::{Tiles, pieces_of_vectors};
use super::geometry::{ConvGeometry, Run};
use super::tile::{ForwardTile, forward_fn, max_pixels, max_vectors};
use super::winograd::{Filter, Order, WinogradConv};
use crate::{Isa, LANES, Map};

/// Input pixels (y0 + i * s, x0 + j * s), which all see the same kernel positions.
#[derive(Clone, Debug)]
struct Phase {
    y0: usize,
    x0: usize,
    rows: usize,
    columns: usize,
    /// Offset of the first run's gradient pixel for i = j = 0, as a pixel coordinate that may lie in the border.
    runs: Vec<Run>,
}

/// Input gradient of one image, prepared for a geometry.
#[derive(Clone, Debug)]
pub struct ConvInputGrad {
    geometry: ConvGeometry,
    gradient: Map,
    dx: Map,
    phases: Vec<Phase>,
    winograd: Option<WinogradConv>,
    zeros: Vec<f32>,
}

impl ConvInputGrad {
    /// Prepares the loop. `gradient` is the layout of dy: the output's interior with a border of at least
    /// [`ConvGeometry::gradient_border`]; `dx` is the layout of the result: the input's interior, any border.
    ///
    /// # Panics
    /// If a layout does not fit.
    pub fn new(geometry: ConvGeometry, gradient: Map, dx: Map) -> Self {
        geometry.check();
        assert!(gradient.border >= geometry.gradient_border() && gradient.same_interior(&geometry.output));
        assert!(dx.is_vector() && dx.height == geometry.input.height && dx.width == geometry.input.width);
        assert!(dx.channels == geometry.input.channels);
        let mut phases = Vec::new();
        for y0 in 0..geometry.stride.0.min(dx.height) {
            for x0 in 0..geometry.stride.1.min(dx.width) {
                phases.push(phase(&geometry, &gradient, y0, x0));
            }
        }
        let winograd = Filter::of_convolution(&geometry).map(|filter| {
            let padding = (2 - geometry.padding.0, 2 - geometry.padding.1);
            WinogradConv::new(filter, Order::Mirrored, gradient, dx, padding)
        });
        let zeros = vec![0.0; geometry.input_blocks() * LANES];
        Self { geometry, gradient, dx, phases, winograd, zeros }
    }

    /// Elements of scratch memory that [`ConvInputGrad::run`] needs.
    pub fn scratch_elements(&self) -> usize {
        self.winograd.as_ref().map_or(0, WinogradConv::scratch_elements)
    }

    /// Layout of dy.
    pub fn gradient(&self) -> Map {
        self.gradient
    }

    /// Computes one image: `dx = …`, or `dx += …` with `accumulate`.
    ///
    /// * `dy`: the output's gradient with a border of zeros; `w`: the weights for the backward pass
    ///   ([`super::PackedConv::backward_copy`]); `dx`: the interior is written; `scratch`: at least
    ///   [`ConvInputGrad::scratch_elements`].
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn run(
        &self,
        isa: Isa,
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        if let Some(winograd) = &self.winograd {
            return winograd.run(isa, dy, w, &self.zeros, dx, accumulate, scratch);
        }
        let g = &self.geometry;
        let outputs = g.output.channels;
        let w_block = g.taps() * outputs * LANES;
        assert_eq!(dy.len(), self.gradient.elements());
        assert_eq!(w.len(), g.input_blocks() * w_block);
        assert_eq!(dx.len(), self.dx.elements());
        for (block, vectors) in pieces_of_vectors(g.input_blocks(), max_vectors(isa)) {
            for phase in &self.phases {
                if accumulate && phase.runs.is_empty() {
                    continue;
                }
                let tiles = Tiles::new(phase.columns, max_pixels(isa, vectors));
                for i in 0..phase.rows {
                    let y = phase.y0 + i * g.stride.0;
                    for (j, pixels) in tiles.iter() {
                        let x = phase.x0 + j * g.stride.1;
                        let at = self.dx.at(y as isize, x as isize) + block * LANES;
                        let y_step = g.stride.1 * self.dx.stride;
                        // SAFETY: pixel (y, x) of dx, whose length was checked.
                        let to = unsafe { dx.as_mut_ptr().add(at) };
                        let tile = ForwardTile {
                            // SAFETY: the runs' offsets, added in the tile, start at the buffer's first element, and
                            // the border holds every row and column that a phase reads (`gradient_border`).
                            x: unsafe { dy.as_ptr().add(i * self.gradient.row() + j * self.gradient.stride) },
                            x_step: self.gradient.stride,
                            runs: phase.runs.as_ptr(),
                            run_count: phase.runs.len(),
                            // SAFETY: block + vectors <= input_blocks.
                            w: unsafe { w.as_ptr().add(block * w_block) },
                            w_block,
                            init: if accumulate {
                                to.cast_const()
                            } else {
                                self.zeros[block * LANES..].as_ptr()
                            },
                            init_step: if accumulate { y_step } else { 0 },
                            y: to,
                            y_step,
                        };
                        // SAFETY: pixels j..j + pixels of this phase lie in row y.
                        unsafe { forward_fn(isa, pixels, vectors)(&tile) }
                    }
                }
            }
        }
    }
}

/// The pixels (y0, x0) modulo the stride and the kernel positions that reach them:
/// dx[y] gets dy[(y + p - k) / s] for every k with s | y + p - k.
fn phase(g: &ConvGeometry, gradient: &Map, y0: usize, x0: usize) -> Phase {
    let (kh, kw) = g.kernel;
    let outputs = g.output.channels;
    let hits = |k: usize, s: usize, p: usize, start: usize| {
        let distance = (start + p) as isize - k as isize;
        (distance.rem_euclid(s as isize) == 0).then(|| distance.div_euclid(s as isize))
    };
    let mut runs: Vec<Run> = Vec::new();
    for ky in (0..kh).rev() {
        let Some(i) = hits(ky, g.stride.0, g.padding.0, y0) else { continue };
        for kx in (0..kw).rev() {
            let Some(j) = hits(kx, g.stride.1, g.padding.1, x0) else { continue };
            runs.push(Run { x: gradient.at(i, j), w: (ky * kw + kx) * outputs * LANES, len: outputs });
        }
    }
    Phase {
        y0,
        x0,
        rows: (g.input.height - y0).div_ceil(g.stride.0),
        columns: (g.input.width - x0).div_ceil(g.stride.1),
        runs,
    }
}
