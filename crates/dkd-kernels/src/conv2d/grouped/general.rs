//! Any number of inputs and outputs per group: vectors of one group's outputs.

use super::super::pieces;
use super::pass::{MAX_WEIGHTS, Pass, mask, with_count};
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map, padded_channels};

/// Grouped convolution; packed weights are `[group][block of 16 of its outputs][tap][input of the group][16]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct General {
    groups: usize,
    /// Per group.
    inputs: usize,
    /// Per group.
    outputs: usize,
    taps: usize,
}

/// Up to 16 outputs of one group as lanes of a vector that lies inside one pixel. Where the outputs do not fill the
/// vector, its other lanes belong to neighbouring groups or to the padding, and no kernel lets them through.
struct Block {
    /// First channel of the vector.
    start: usize,
    /// The lane of the block's first output.
    first: usize,
    /// Number of outputs.
    lanes: usize,
    /// Offset of the block's weights.
    weights: usize,
}

impl General {
    pub(super) fn new(groups: usize, inputs: usize, outputs: usize, taps: usize) -> Self {
        Self { groups, inputs, outputs, taps }
    }

    fn blocks(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    fn block_elements(&self) -> usize {
        self.taps * self.inputs * LANES
    }

    fn block(&self, group: usize, block: usize) -> Block {
        let channel = group * self.outputs + block * LANES;
        let start = channel.min(padded_channels(self.groups * self.outputs) - LANES);
        Block {
            start,
            first: channel - start,
            lanes: LANES.min(self.outputs - block * LANES),
            weights: (group * self.blocks() + block) * self.block_elements(),
        }
    }

    pub(super) fn weight_elements(&self) -> usize {
        self.groups * self.blocks() * self.block_elements()
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for o in 0..self.groups * self.outputs {
            let within = o % self.outputs;
            let block = self.block(o / self.outputs, within / LANES);
            for i in 0..self.inputs {
                for t in 0..self.taps {
                    let vector = block.weights + (t * self.inputs + i) * LANES;
                    f((o * self.inputs + i) * self.taps + t, vector + block.first + within % LANES);
                }
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
        // SAFETY: the caller's contract.
        unsafe { run_forward(isa, self, pass, x.as_ptr(), w.as_ptr(), bias.as_ptr(), y.as_mut_ptr()) }
    }

    /// # Safety
    /// The pass lies inside `dy` and `dx`; `w` is as long as the packing says.
    pub(super) unsafe fn input_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        dy: &[f32],
        w: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        // SAFETY: the caller's contract.
        unsafe { run_input(isa, self, pass, dy.as_ptr(), w.as_ptr(), dx.as_mut_ptr(), accumulate) }
    }

    /// # Safety
    /// The pass lies inside `x`, and its grid inside the interior of `dy`; `dw` is as long as the packing says.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn weight_grad(
        &self,
        isa: Isa,
        pass: &Pass,
        x: &[f32],
        dy: &[f32],
        gradient: &Map,
        dw: &mut [f32],
        accumulate: bool,
    ) {
        // SAFETY: the interior's first pixel lies inside dy; the rest is the caller's contract.
        unsafe {
            let dy = dy.as_ptr().add(gradient.at(0, 0));
            run_weights(isa, self, pass, x.as_ptr(), dy, gradient, dw.as_mut_ptr(), accumulate);
        }
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
        let (x, w, bias, y) = unsafe {
            (x.add(group * k.inputs), w.add(b.weights), bias.add(b.start), y.add(p.to + b.start))
        };
        for row in 0..p.rows {
            let mut q = 0;
            while q < p.columns {
                // SAFETY: the tile's pixels are in the row.
                unsafe {
                    let (x, y) = (x.add(row * p.from_row + q * p.from_step), y.add(row * p.to_row + q * p.to_step));
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
        let own = mask(b.first, b.lanes);
        let others = own.map(|lane| 1.0 - lane);
        for (n, sum) in sums.into_iter().enumerate() {
            let to = y.add(n * p.to_step);
            let kept = S::where_positive(S::load(others.as_ptr()), S::load(to));
            S::store(to, S::add(S::where_positive(S::load(own.as_ptr()), sum), kept));
        }
    }
    N
}

simd_kernel!(fn run_forward = forward_body(
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
                    with_count!(count, input_tile::<S>(k, p, group, dy, w.add(first * LANES), dx, accumulate), 1 2 3 4);
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
            let own = S::load(mask(b.first, b.lanes).as_ptr());
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

simd_kernel!(fn run_input = input_body(
    k: &General, p: &Pass, dy: *const f32, w: *const f32, dx: *mut f32, accumulate: bool,
));
