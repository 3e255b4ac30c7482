//! Sums over pixels, and what becomes of them.

use super::{BLOCKS, Extent, Plane, passes};
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

/// # Safety
/// `z` covers `e`; `sum` and `square` hold `e.stride` elements.
#[inline(always)]
unsafe fn moments_pass<S: Simd, const V: usize>(
    z: Plane,
    e: Extent,
    first: usize,
    sum: *mut f32,
    square: *mut f32,
) {
    // SAFETY: offsets stay inside the extent.
    unsafe {
        let (mut total, mut total_square) = ([S::splat(0.0); V], [S::splat(0.0); V]);
        for y in 0..e.height {
            // Sums of a row, then sums of rows: rounding errors grow with the longest chain of additions. Two sets of
            // accumulators, for even and odd pixels: one chain would wait for its own latency.
            let mut s = [[S::splat(0.0); V]; 2];
            let mut q = [[S::splat(0.0); V]; 2];
            let row = z.start.add(y * z.row + first * LANES);
            let mut x = 0;
            while x < e.width {
                for odd in 0..2.min(e.width - x) {
                    for v in 0..V {
                        let value = S::load(row.add((x + odd) * e.stride + v * LANES));
                        s[odd][v] = S::add(s[odd][v], value);
                        q[odd][v] = S::fma(value, value, q[odd][v]);
                    }
                }
                x += 2;
            }
            for v in 0..V {
                total[v] = S::add(total[v], S::add(s[0][v], s[1][v]));
                total_square[v] = S::add(total_square[v], S::add(q[0][v], q[1][v]));
            }
        }
        for v in 0..V {
            S::store(sum.add((first + v) * LANES), total[v]);
            S::store(square.add((first + v) * LANES), total_square[v]);
        }
    }
}

/// # Safety
/// As [`moments_pass`].
#[inline(always)]
unsafe fn moments<S: Simd>(z: Plane, e: Extent, sum: *mut f32, square: *mut f32) {
    passes(e.blocks(), |first, size| {
        // SAFETY: `passes` stays inside the blocks.
        unsafe {
            match size {
                BLOCKS => moments_pass::<S, BLOCKS>(z, e, first, sum, square),
                2 => moments_pass::<S, 2>(z, e, first, sum, square),
                _ => moments_pass::<S, 1>(z, e, first, sum, square),
            }
        }
    });
}

simd_kernel!(fn run_moments = moments(z: Plane, e: Extent, sum: *mut f32, square: *mut f32));

/// Per channel, the sum and the sum of squares of one image's pixels: added to the `f64` totals `sum` and `square`.
///
/// `scratch` holds two values per channel of the layout's stride. Sums of one image are kept in `f32`, of many in `f64`; a
/// variance taken from them loses about 1e-7 (mean / std)^2 of its value.
///
/// # Panics
/// If a slice has the wrong length.
pub fn channel_moments(
    isa: Isa,
    z: &[f32],
    map: Map,
    scratch: &mut [f32],
    sum: &mut [f64],
    square: &mut [f64],
) {
    let n = map.stride;
    assert!(scratch.len() >= 2 * n && sum.len() == n && square.len() == n);
    let (s, q) = scratch.split_at_mut(n);
    // SAFETY: lengths checked here and in `Plane::new`.
    unsafe { run_moments(isa, Plane::new(z, map), Extent::of(map), s.as_mut_ptr(), q.as_mut_ptr()) }
    add(sum, s);
    add(square, q);
}

/// Adds `f32` sums to `f64` totals.
pub(super) fn add(total: &mut [f64], sums: &[f32]) {
    total.iter_mut().zip(sums).for_each(|(t, s)| *t += f64::from(*s));
}

/// Statistics of one channel over a batch, and the affine map they give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward {
    /// Mean.
    pub mean: f64,
    /// Biased variance.
    pub variance: f64,
    /// 1 / √(variance + eps).
    pub inverse_std: f64,
}

impl Forward {
    /// From the sum and the sum of squares of `count` values.
    pub fn from_sums(sum: f64, square: f64, count: usize, eps: f32) -> Self {
        let mean = sum / count as f64;
        // Rounding can push a variance of zero below zero.
        let variance = (square / count as f64 - mean * mean).max(0.0);
        Self { mean, variance, inverse_std: 1.0 / (variance + f64::from(eps)).sqrt() }
    }

    /// From running statistics.
    pub fn from_running(mean: f32, variance: f32, eps: f32) -> Self {
        let (mean, variance) = (f64::from(mean), f64::from(variance));
        Self { mean, variance, inverse_std: 1.0 / (variance + f64::from(eps)).sqrt() }
    }

    /// Scale and shift of `weight * (z - mean) * inverse_std + bias`.
    pub fn affine(&self, weight: f32, bias: f32) -> (f32, f32) {
        let scale = f64::from(weight) * self.inverse_std;
        (scale as f32, (f64::from(bias) - self.mean * scale) as f32)
    }

    /// Unbiased variance, as running statistics keep it; of a single value it is NaN in PyTorch, here the biased one.
    pub fn unbiased_variance(&self, count: usize) -> f64 {
        if count > 1 { self.variance * count as f64 / (count - 1) as f64 } else { self.variance }
    }
}

/// Coefficients of one channel's input gradient `c1 * g + c2 * z + c3`, and its parameters' gradients.
///
/// With m values per channel, w the weight, s the inverse standard deviation and xhat = (z - mean) s:
/// dw = sum g xhat, db = sum g, dz = w s (g - db / m - xhat dw / m).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor of g.
    pub c1: f32,
    /// Factor of z.
    pub c2: f32,
    /// Constant.
    pub c3: f32,
    /// Gradient of the weight.
    pub weight_grad: f32,
    /// Gradient of the bias.
    pub bias_grad: f32,
}

impl Coefficients {
    /// In training: `g` and `gz` are the sums of g and of g * z over `count` values.
    pub fn of_batch(forward: &Forward, weight: f32, g: f64, gz: f64, count: usize) -> Self {
        let m = count as f64;
        let weight_grad = forward.inverse_std * (gz - forward.mean * g);
        let c1 = f64::from(weight) * forward.inverse_std;
        let c2 = -c1 * forward.inverse_std * weight_grad / m;
        Self {
            c1: c1 as f32,
            c2: c2 as f32,
            c3: (-c1 * g / m - c2 * forward.mean) as f32,
            weight_grad: weight_grad as f32,
            bias_grad: g as f32,
        }
    }
}
