//! Which source pixels every target pixel sums: for the forward pass one grid of targets, for the input gradient of a convolution
//! with strides several, interleaved.

use super::ConvGeometry;
use super::geometry::Run;
use crate::{LANES, Map};

/// One kernel position of a [`Pass`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    /// Offset of the source pixel that the first target pixel reads.
    pub from: usize,
    /// `ky * kernel width + kx`.
    pub index: usize,
}

/// A grid of target pixels that all sum source pixels over the same kernel positions.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub rows: usize,
    pub columns: usize,
    /// Source elements from one target row to the next.
    pub from_row: usize,
    /// Source elements from one target column to the next.
    pub from_step: usize,
    /// Offset of the first target pixel.
    pub to: usize,
    /// Elements from one target row to the next.
    pub to_row: usize,
    /// Elements from one target column to the next.
    pub to_step: usize,
    pub taps: Vec<Tap>,
}

impl Pass {
    /// Output pixels, which read the input.
    pub(super) fn forward(g: &ConvGeometry) -> Self {
        let (kh, kw) = g.kernel;
        let origin = |ky: usize, kx: usize| {
            g.input.at(ky as isize - g.padding.0 as isize, kx as isize - g.padding.1 as isize)
        };
        let taps = (0..kh * kw).map(|t| Tap { from: origin(t / kw, t % kw), index: t }).collect();
        Self {
            rows: g.output.height,
            columns: g.output.width,
            from_row: g.stride.0 * g.input.row(),
            from_step: g.stride.1 * g.input.stride,
            to: g.output.at(0, 0),
            to_row: g.output.row(),
            to_step: g.output.stride,
            taps,
        }
        .checked(&g.input, &g.output)
        .joined()
    }

    /// Pairs of input and output pixels, for the weights' gradient: the targets are the output's gradient.
    pub(super) fn weight_grad(g: &ConvGeometry, gradient: &Map) -> Self {
        Self::forward(&ConvGeometry { output: *gradient, ..*g })
    }

    /// Input pixels, which read the output's gradient: with strides (s, t) there are s x t grids of pixels that see the
    /// same kernel positions. dx\[y\] gets dy\[(y + p - k) / s\] for every k with s | y + p - k.
    pub(super) fn input_grad(g: &ConvGeometry, gradient: &Map, dx: &Map) -> Vec<Self> {
        let (kh, kw) = g.kernel;
        let hit = |start: usize, k: usize, s: usize, p: usize| {
            let distance = (start + p) as isize - k as isize;
            (distance.rem_euclid(s as isize) == 0).then(|| distance.div_euclid(s as isize))
        };
        let mut passes = Vec::new();
        for y0 in 0..g.stride.0.min(dx.height) {
            for x0 in 0..g.stride.1.min(dx.width) {
                let tap = |index: usize| {
                    let y = hit(y0, index / kw, g.stride.0, g.padding.0)?;
                    let x = hit(x0, index % kw, g.stride.1, g.padding.1)?;
                    Some(Tap { from: gradient.at(y, x), index })
                };
                let pass = Self {
                    rows: (dx.height - y0).div_ceil(g.stride.0),
                    columns: (dx.width - x0).div_ceil(g.stride.1),
                    from_row: gradient.row(),
                    from_step: gradient.stride,
                    to: dx.at(y0 as isize, x0 as isize),
                    to_row: g.stride.0 * dx.row(),
                    to_step: g.stride.1 * dx.stride,
                    taps: (0..kh * kw).rev().filter_map(tap).collect(),
                };
                passes.push(pass.checked(gradient, dx).joined());
            }
        }
        passes
    }

    /// What a target pixel multiplies, as runs of `channels` of the source from number `first` on; weights are
    /// `[kernel position][channel][16]`. Neighbouring positions whose elements follow each other are one run.
    pub(super) fn runs(&self, first: usize, channels: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for tap in &self.taps {
            let (x, w) = (tap.from + first, tap.index * channels * LANES);
            match runs.last_mut() {
                Some(run) if x == run.x + run.len && w == run.w + run.len * LANES => run.len += channels,
                _ => runs.push(Run { x, w, len: channels }),
            }
        }
        runs
    }

    /// The same pixels as a single row, if they follow each other in both images.
    fn joined(self) -> Self {
        let follows = |row: usize, step: usize| row == self.columns * step;
        if follows(self.from_row, self.from_step) && follows(self.to_row, self.to_step) {
            return Self { rows: 1, columns: self.rows * self.columns, ..self };
        }
        self
    }

    /// Target pixels.
    pub(super) fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    /// The kernels rely on this: every pixel of the pass lies inside its buffer.
    fn checked(self, from: &Map, to: &Map) -> Self {
        let (rows, columns) = (self.rows - 1, self.columns - 1);
        let reach = rows * self.from_row + columns * self.from_step + from.stride;
        assert!(
            self.taps.iter().all(|tap| tap.from + reach <= from.elements())
                && self.to + rows * self.to_row + columns * self.to_step + to.stride <= to.elements(),
            "a pass stays inside its buffers: {self:?}, {from:?}, {to:?}"
        );
        self
    }
}

/// What a sum over kernel positions is added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Zero,
    /// One value per channel.
    Bias(*const f32),
    /// What the target holds.
    Target,
}

impl Start {
    /// For the outputs from number `channel` on.
    ///
    /// # Safety
    /// There are that many.
    pub(super) unsafe fn at(self, channel: usize) -> Self {
        match self {
            // SAFETY: the caller's contract.
            Self::Bias(bias) => Self::Bias(unsafe { bias.add(channel) }),
            other => other,
        }
    }
}
