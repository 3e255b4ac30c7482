//! One input and one output channel per group: vectors of channels, multiplied element by element.

use super::super::pass::{Pass, Start};
use super::super::pieces;
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, padded_channels};
use std::ops::Range;

/// Most accumulators of a weight gradient's tile: a 3 x 3 kernel in one go where the registers suffice.
const MAX_WEIGHTS: usize = 9;

/// Calls `$tile::<S, N>(arguments)` for a number of accumulators N that is known at run time.
macro_rules! with_count {
    ($n:expr, $tile:ident::<$s:ident>$args:tt, [$($count:literal),*]) => {
        match $n {
            $($count => $tile::<$s, $count>$args,)*
            n => unreachable!("{n} accumulators"),
        }
    };
}

/// Depthwise convolution; packed weights are `[tap][channel]`, channels padded to whole vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depthwise {
    channels: usize,
    taps: usize,
}

impl Depthwise {
    pub(super) fn new(channels: usize, taps: usize) -> Self {
        Self { channels, taps }
    }

    pub(super) fn weight_elements(&self) -> usize {
        self.taps * padded_channels(self.channels)
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for c in 0..self.channels {
            for t in 0..self.taps {
                f(c * self.taps + t, t * padded_channels(self.channels) + c);
            }
        }
    }

    /// # Safety
    /// The pass lies inside `x` and `y`; `w` and `bias` are as long as the packing says.
    pub(super) unsafe fn forward(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        w: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) {
        let start = Start::Bias(bias.as_ptr());
        // SAFETY: the caller's contract.
        unsafe { self.sum(isa, pass, 0..pass.rows, x, w, y, start) }
    }

    /// # Safety
    /// The passes lie inside `dy` and `dx`; `w` is as long as the packing says.
    pub(super) unsafe fn input_grad(
        &self,
        isa: Isa,
        passes: &[Pass],
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        let start = if accumulate { Start::Target } else { Start::Zero };
        if let [pass] = passes {
            // SAFETY: the caller's contract.
            return unsafe { self.sum(isa, pass, 0..pass.rows, dy, w, dx, start) };
        }
        // The passes' pixels alternate: row by row, so that a row's lines come from memory once.
        for row in 0..passes.iter().map(|pass| pass.rows).max().unwrap_or(0) {
            let idle = |pass: &Pass| row >= pass.rows || accumulate && pass.taps.is_empty();
            for pass in passes.iter().filter(|pass| !idle(pass)) {
                // SAFETY: the caller's contract; the row exists.
                unsafe { self.sum(isa, pass, row..row + 1, dy, w, dx, start) }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    unsafe fn sum(
        &self,
        isa: Isa,
        pass: &Pass,
        rows: Range<usize>,
        from: &[f32],
        w: &[f32],
        to: &mut [f32],
        start: Start,
    ) {
        let channels = padded_channels(self.channels);
        let args =
            Sum { pass, rows, from: from.as_ptr(), w: w.as_ptr(), to: to.as_mut_ptr(), start, channels };
        // SAFETY: the caller's contract.
        unsafe { run_sum(isa, &args) }
    }

    /// # Safety
    /// The pass ([`Pass::weight_grad`]) lies inside `x` and `dy`; `dw` is as long as the packing says.
    pub(super) unsafe fn weight_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
        accumulate: bool,
    ) {
        let args = Weights {
            pass,
            x: x.as_ptr(),
            // SAFETY: the pass's first pixel lies inside dy.
            dy: unsafe { dy.as_ptr().add(pass.to) },
            dw: dw.as_mut_ptr(),
            channels: padded_channels(self.channels),
            accumulate,
        };
        // SAFETY: the caller's contract.
        unsafe { run_weights(isa, &args) }
    }
}

struct Sum<'a> {
    pass: &'a Pass,
    rows: Range<usize>,
    from: *const f32,
    w: *const f32,
    to: *mut f32,
    start: Start,
    channels: usize,
}

/// # Safety
/// As [`Depthwise::forward`].
#[inline(always)]
unsafe fn sum_body<S: Simd>(a: &Sum<'_>) {
    for row in a.rows.clone() {
        for c in (0..a.channels).step_by(LANES) {
            let mut q = 0;
            while q < a.pass.columns {
                let left = a.pass.columns - q;
                // SAFETY: the tile's pixels are in the row, c + LANES <= channels.
                unsafe {
                    q += if left >= 8 && S::ACCUMULATORS >= 8 {
                        sum_tile::<S, 8>(a, row, q, c)
                    } else if left >= 4 {
                        sum_tile::<S, 4>(a, row, q, c)
                    } else if left >= 2 {
                        sum_tile::<S, 2>(a, row, q, c)
                    } else {
                        sum_tile::<S, 1>(a, row, q, c)
                    };
                }
            }
        }
    }
}

/// Computes the pixels `q..q + N` of a row for the vector of channels from `c`, and returns N.
///
/// # Safety
/// As [`Depthwise::forward`]; the pixels and channels exist.
#[inline(always)]
unsafe fn sum_tile<S: Simd, const N: usize>(a: &Sum<'_>, row: usize, q: usize, c: usize) -> usize {
    let p = a.pass;
    // SAFETY: all offsets are those of existing pixels and channels.
    unsafe {
        let to = a.to.add(p.to + row * p.to_row + q * p.to_step + c);
        let mut sums = [S::splat(0.0); N];
        match a.start {
            Start::Zero => {}
            Start::Bias(bias) => sums = [S::load(bias.add(c)); N],
            Start::Target => {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(to.add(n * p.to_step));
                }
            }
        }
        for tap in &p.taps {
            let w = S::load(a.w.add(tap.index * a.channels + c));
            let from = a.from.add(tap.from + row * p.from_row + q * p.from_step + c);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::load(from.add(n * p.from_step)), w, *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            S::store(to.add(n * p.to_step), sum);
        }
    }
    N
}

simd_kernel!(fn run_sum = sum_body(a: &Sum<'_>));

struct Weights<'a> {
    pass: &'a Pass,
    x: *const f32,
    dy: *const f32,
    dw: *mut f32,
    channels: usize,
    accumulate: bool,
}

/// # Safety
/// As [`Depthwise::weight_grad`].
#[inline(always)]
unsafe fn weights_body<S: Simd>(a: &Weights<'_>) {
    for c in (0..a.channels).step_by(LANES) {
        for (first, count) in pieces(a.pass.taps.len(), MAX_WEIGHTS.min(S::ACCUMULATORS)) {
            // SAFETY: the taps exist, c + LANES <= channels.
            unsafe { with_count!(count, weights_tile::<S>(a, first, c), [1, 2, 3, 4, 5, 6, 7, 8, 9]) }
        }
    }
}

/// The gradients of the taps `first..first + N` for the vector of channels from `c`.
///
/// # Safety
/// As [`Depthwise::weight_grad`]; the taps and channels exist.
#[inline(always)]
unsafe fn weights_tile<S: Simd, const N: usize>(a: &Weights<'_>, first: usize, c: usize) {
    let p = a.pass;
    // SAFETY: all offsets are those of existing pixels, taps and channels.
    unsafe {
        let offsets: [usize; N] = std::array::from_fn(|n| p.taps[first + n].from + c);
        let mut sums = [S::splat(0.0); N];
        for row in 0..p.rows {
            let (mut x, mut dy) = (a.x.add(row * p.from_row), a.dy.add(row * p.to_row + c));
            for _ in 0..p.columns {
                let d = S::load(dy);
                for (sum, &offset) in sums.iter_mut().zip(&offsets) {
                    *sum = S::fma(S::load(x.add(offset)), d, *sum);
                }
                // Beyond the last pixel the pointers are not used.
                (x, dy) = (x.wrapping_add(p.from_step), dy.wrapping_add(p.to_step));
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let dw = a.dw.add(p.taps[first + n].index * a.channels + c);
            S::store(dw, if a.accumulate { S::add(S::load(dw), sum) } else { sum });
        }
    }
}

simd_kernel!(fn run_weights = weights_body(a: &Weights<'_>));
