//! The loops of `General`.

use super::super::pieces;
use super::general::{Block, General};
use super::pass::{MAX_WEIGHTS, Pass, with_count};
use crate::simd::{Simd, simd_kernel};
use crate::{LANES, Map};

/// 1 in the block's lanes, 0 in the others.
#[inline(always)]
unsafe fn own_lanes<S: Simd>(b: &Block) -> S::V {
    /// Ones between zeros, one vector each: a vector loaded from the right place has any number of ones at either end.
    static ONES: [f32; 3 * LANES] = {
        let mut ones = [0.0; 3 * LANES];
        let mut l = LANES;
        while l < 2 * LANES {
            ones[l] = 1.0;
            l += 1;
        }
        ones
    };
    // SAFETY: first + lanes <= LANES.
    unsafe {
        let from_first = S::load(ONES.as_ptr().add(LANES - b.first));
        let up_to_last = S::load(ONES.as_ptr().add(2 * LANES - b.first - b.lanes));
        S::mul(from_first, up_to_last)
    }
}

/// # Safety
/// As [`General::forward`].
#[inline(always)]
unsafe fn forward_body<S: Simd>(
    k: &General,
    p: &Pass,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    y: *mut f32,
) {
    for (group, block) in (0..k.groups).flat_map(|g| (0..k.blocks()).map(move |b| (g, b))) {
        let b = k.block(group, block);
        // SAFETY: the group's inputs, its block of weights, and a vector inside a pixel.
        let (x, w, bias, y) =
            unsafe { (x.add(group * k.inputs), w.add(b.weights), bias.add(b.start), y.add(p.to + b.start)) };
        for row in 0..p.rows {
            let mut q = 0;
            while q < p.columns {
                // SAFETY: the tile's pixels are in the row.
                unsafe {
                    let (x, y) =
                        (x.add(row * p.from_row + q * p.from_step), y.add(row * p.to_row + q * p.to_step));
                    q += if p.columns - q >= 4 {
                        forward_tile::<S, 4>(k, p, &b, x, w, bias, y)
                    } else if p.columns - q >= 2 {
                        forward_tile::<S, 2>(k, p, &b, x, w, bias, y)
                    } else {
                        forward_tile::<S, 1>(k, p, &b, x, w, bias, y)
                    };
                }
            }
        }
    }
}

/// Computes N pixels of a block of outputs, and returns N.
///
/// # Safety
/// The pointers are those of the first pixel, of the group's first input and of the block's weights and lanes.
#[inline(always)]
unsafe fn forward_tile<S: Simd, const N: usize>(
    k: &General,
    p: &Pass,
    b: &Block,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    y: *mut f32,
) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [S::load(bias); N];
        for tap in &p.taps {
            let (x, w) = (x.add(tap.from), w.add(tap.index * k.inputs * LANES));
            for i in 0..k.inputs {
                let w = S::load(w.add(i * LANES));
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::splat(*x.add(n * p.from_step + i)), w, *sum);
                }
            }
        }
        let own = own_lanes::<S>(b);
        let others = S::fma(own, S::splat(-1.0), S::splat(1.0));
        for (n, sum) in sums.into_iter().enumerate() {
            let to = y.add(n * p.to_step);
            let kept = S::where_positive(others, S::load(to));
            S::store(to, S::add(S::where_positive(own, sum), kept));
        }
    }
    N
}

simd_kernel!(pub(super) fn run_forward = forward_body(
    k: &General, p: &Pass, x: *const f32, w: *const f32, bias: *const f32, y: *mut f32,
));

/// # Safety
/// As [`General::input_grad`].
#[inline(always)]
unsafe fn input_body<S: Simd>(
    k: &General,
    p: &Pass,
    dy: *const f32,
    w: *const f32,
    dx: *mut f32,
    accumulate: bool,
) {
    for group in 0..k.groups {
        for (row, q) in (0..p.rows).flat_map(|r| (0..p.columns).map(move |q| (r, q))) {
            for (first, count) in pieces(k.inputs, 4) {
                // SAFETY: an existing pixel; first + count <= inputs.
                unsafe {
                    let dy = dy.add(row * p.from_row + q * p.from_step);
                    let dx = dx.add(p.to + row * p.to_row + q * p.to_step + group * k.inputs + first);
                    with_count!(
                        count,
                        input_tile::<S>(k, p, group, dy, w.add(first * LANES), dx, accumulate),
                        [1, 2, 3, 4]
                    );
                }
            }
        }
    }
}

/// The gradients of N inputs of one pixel.
///
/// # Safety
/// `dy` and `dx` are the pixel's, `w` and `dx` start at the first of the inputs.
#[inline(always)]
unsafe fn input_tile<S: Simd, const N: usize>(
    k: &General,
    p: &Pass,
    group: usize,
    dy: *const f32,
    w: *const f32,
    dx: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the caller's contract; a block's vector lies inside a pixel.
    unsafe {
        let mut sums = [S::splat(0.0); N];
        for block in 0..k.blocks() {
            let b = k.block(group, block);
            let own = own_lanes::<S>(&b);
            for tap in &p.taps {
                let d = S::where_positive(own, S::load(dy.add(tap.from + b.start)));
                let w = w.add(b.weights + tap.index * k.inputs * LANES);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(d, S::load(w.add(n * LANES)), *sum);
                }
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0_f32; LANES];
            S::store(lanes.as_mut_ptr(), sum);
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    lanes[l] += lanes[l + half];
                }
            }
            let to = dx.add(n);
            *to = if accumulate { *to + lanes[0] } else { lanes[0] };
        }
    }
}

simd_kernel!(pub(super) fn run_input = input_body(
    k: &General, p: &Pass, dy: *const f32, w: *const f32, dx: *mut f32, accumulate: bool,
));

/// # Safety
/// As [`General::weight_grad`]; `dy` is the interior's first pixel.
#[inline(always)]
unsafe fn weights_body<S: Simd>(
    k: &General,
    p: &Pass,
    x: *const f32,
    dy: *const f32,
    gradient: &Map,
    dw: *mut f32,
    accumulate: bool,
) {
    for (group, block) in (0..k.groups).flat_map(|g| (0..k.blocks()).map(move |b| (g, b))) {
        let b = k.block(group, block);
        for (first, count) in pieces(p.taps.len() * k.inputs, MAX_WEIGHTS.min(S::ACCUMULATORS)) {
            // SAFETY: the group's inputs, a vector inside a pixel, the block's weights.
            unsafe {
                let (x, dy, dw) = (x.add(group * k.inputs), dy.add(b.start), dw.add(b.weights));
                with_count!(
                    count,
                    weights_tile::<S>(k, p, &b, first, x, dy, gradient, dw, accumulate),
                    [1, 2, 3, 4, 5, 6, 7, 8, 9]
                );
            }
        }
    }
}

/// The gradients of N consecutive vectors of a block's weights, from number `first`.
///
/// # Safety
/// `x` is the group's first input, `dy` the first pixel's vector of the block, `dw` the block's weights.
#[inline(always)]
unsafe fn weights_tile<S: Simd, const N: usize>(
    k: &General,
    p: &Pass,
    b: &Block,
    first: usize,
    x: *const f32,
    dy: *const f32,
    gradient: &Map,
    dw: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the caller's contract. The forward pass has every tap, in order, so vector v belongs to tap v / inputs.
    unsafe {
        let offsets: [usize; N] = std::array::from_fn(|n| {
            let (tap, input) = ((first + n) / k.inputs, (first + n) % k.inputs);
            p.taps[tap].from + input
        });
        let own = own_lanes::<S>(b);
        let mut sums = [S::splat(0.0); N];
        for row in 0..p.rows {
            let (mut x, mut dy) = (x.add(row * p.from_row), dy.add(row * gradient.row()));
            for _ in 0..p.columns {
                let d = S::where_positive(own, S::load(dy));
                for (sum, &offset) in sums.iter_mut().zip(&offsets) {
                    *sum = S::fma(S::splat(*x.add(offset)), d, *sum);
                }
                // Beyond the last pixel the pointers are not used.
                (x, dy) = (x.wrapping_add(p.from_step), dy.wrapping_add(gradient.stride));
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let to = dw.add((first + n) * LANES);
            // An infinite input times a masked gradient of 0 is NaN.
            let sum = S::where_positive(own, sum);
            S::store(to, if accumulate { S::add(S::load(to), sum) } else { sum });
        }
    }
}

simd_kernel!(pub(super) fn run_weights = weights_body(
    k: &General, p: &Pass, x: *const f32, dy: *const f32, gradient: &Map, dw: *mut f32, accumulate: bool,
));
