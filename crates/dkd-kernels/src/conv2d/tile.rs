//! The innermost loops: one tile of P pixels x V vectors of 16 output channels in registers.

use super::geometry::Run;
use crate::ahead::Lines;
use crate::simd::{LANES, Simd};
use crate::{Isa, isa::Kind};

/// Largest number of pixels in a tile of one and of two vectors, per instruction set.
pub(crate) const fn max_pixels(isa: Isa, vectors: usize) -> usize {
    match (isa.0, vectors) {
        (Kind::Avx512, 1) => 16,
        (Kind::Avx512, _) => 14,
        (Kind::Avx2, _) => 6,
        (Kind::Portable, _) => 4,
    }
}

/// Largest number of vectors in a tile.
pub(crate) const fn max_vectors(isa: Isa) -> usize {
    match isa.0 {
        Kind::Avx512 => 2,
        _ => 1,
    }
}

/// Arguments of a forward tile: `y[p][v] = init[p][v] + sum over runs and c of x[p][run.x + c] * w[v][run.w + c]`.
#[derive(Clone, Copy)]
pub(crate) struct ForwardTile {
    pub x: *const f32,
    /// Elements between the inputs of two neighbouring output pixels.
    pub x_step: usize,
    pub runs: *const Run,
    pub run_count: usize,
    pub w: *const f32,
    /// Elements between two blocks of 16 outputs in the weights.
    pub w_block: usize,
    pub init: *const f32,
    pub init_step: usize,
    pub y: *mut f32,
    pub y_step: usize,
}

/// A forward tile of fixed size.
pub(crate) type ForwardFn = unsafe fn(&ForwardTile);

/// # Safety
/// Every element that the formula of [`ForwardTile`] names must be inside its buffer; the machine has `S`.
#[inline(always)]
unsafe fn forward_tile<S: Simd, const P: usize, const V: usize>(t: &ForwardTile) {
    // SAFETY: by contract all offsets below stay inside their buffers.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; P];
        for (p, row) in acc.iter_mut().enumerate() {
            for (v, a) in row.iter_mut().enumerate() {
                *a = S::load(t.init.add(p * t.init_step + v * LANES));
            }
        }
        let runs = std::slice::from_raw_parts(t.runs, t.run_count);
        match Lines::take(runs.iter().map(|run| run.len).sum()) {
            Some(mut lines) => forward_sums::<S, P, V>(t, runs, &mut acc, || lines.fetch::<S>()),
            None => forward_sums::<S, P, V>(t, runs, &mut acc, || {}),
        }
        for (p, row) in acc.iter().enumerate() {
            for (v, a) in row.iter().enumerate() {
                S::store(t.y.add(p * t.y_step + v * LANES), *a);
            }
        }
    }
}

/// # Safety
/// As [`forward_tile`].
#[inline(always)]
unsafe fn forward_sums<S: Simd, const P: usize, const V: usize>(
    t: &ForwardTile,
    runs: &[Run],
    acc: &mut [[S::V; V]; P],
    mut each: impl FnMut(),
) {
    // SAFETY: the caller's contract.
    unsafe {
        for run in runs {
            let (mut x, mut w) = (t.x.add(run.x), t.w.add(run.w));
            for _ in 0..run.len {
                each();
                let mut wv = [S::splat(0.0); V];
                for (v, value) in wv.iter_mut().enumerate() {
                    *value = S::load(w.add(v * t.w_block));
                }
                for (p, row) in acc.iter_mut().enumerate() {
                    let b = S::splat(*x.add(p * t.x_step));
                    for (v, a) in row.iter_mut().enumerate() {
                        *a = S::fma(b, wv[v], *a);
                    }
                }
                x = x.add(1);
                w = w.add(LANES);
            }
        }
    }
}

/// Arguments of a weight-gradient tile: `dw[v][p] (+)= sum over rows r and columns q of x[r][q][p] * g[r][q][v]`.
#[derive(Clone, Copy)]
pub(crate) struct WeightTile {
    pub x: *const f32,
    pub x_row: usize,
    pub x_step: usize,
    pub g: *const f32,
    pub g_row: usize,
    pub g_step: usize,
    pub rows: usize,
    pub columns: usize,
    pub dw: *mut f32,
    pub w_block: usize,
    /// Whether `dw` is added to, or overwritten.
    pub accumulate: bool,
}

/// A weight-gradient tile of fixed size.
pub(crate) type WeightFn = unsafe fn(&WeightTile);

/// # Safety
/// Every element that the formula of [`WeightTile`] names must be inside its buffer; the machine has `S`.
#[inline(always)]
unsafe fn weight_tile<S: Simd, const P: usize, const V: usize>(t: &WeightTile) {
    // SAFETY: by contract all offsets below stay inside their buffers.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; P];
        if t.accumulate {
            for (p, row) in acc.iter_mut().enumerate() {
                for (v, a) in row.iter_mut().enumerate() {
                    *a = S::load(t.dw.add(v * t.w_block + p * LANES));
                }
            }
        }
        match Lines::take(t.rows * t.columns) {
            Some(mut lines) => weight_sums::<S, P, V>(t, &mut acc, || lines.fetch::<S>()),
            None => weight_sums::<S, P, V>(t, &mut acc, || {}),
        }
        for (p, row) in acc.iter().enumerate() {
            for (v, a) in row.iter().enumerate() {
                S::store(t.dw.add(v * t.w_block + p * LANES), *a);
            }
        }
    }
}

/// # Safety
/// As [`weight_tile`].
#[inline(always)]
unsafe fn weight_sums<S: Simd, const P: usize, const V: usize>(
    t: &WeightTile,
    acc: &mut [[S::V; V]; P],
    mut each: impl FnMut(),
) {
    // SAFETY: the caller's contract.
    unsafe {
        for r in 0..t.rows {
            let (mut x, mut g) = (t.x.add(r * t.x_row), t.g.add(r * t.g_row));
            for _ in 0..t.columns {
                each();
                let mut gv = [S::splat(0.0); V];
                for (v, value) in gv.iter_mut().enumerate() {
                    *value = S::load(g.add(v * LANES));
                }
                for (p, row) in acc.iter_mut().enumerate() {
                    let b = S::splat(*x.add(p));
                    for (v, a) in row.iter_mut().enumerate() {
                        *a = S::fma(b, gv[v], *a);
                    }
                }
                x = x.wrapping_add(t.x_step);
                g = g.wrapping_add(t.g_step);
            }
        }
    }
}

/// Largest number of input channels in a weight-gradient tile.
pub(crate) const fn max_inputs(isa: Isa, vectors: usize) -> usize {
    match (isa.0, vectors) {
        (Kind::Avx512, 1) => 24,
        (Kind::Avx512, _) => 14,
        (Kind::Avx2, _) => 6,
        (Kind::Portable, _) => 4,
    }
}

#[cfg(target_arch = "x86_64")]
mod compiled {
    use super::{ForwardTile, WeightTile, forward_tile, weight_tile};
    use crate::simd::{Avx2, Avx512};

    /// # Safety
    /// As [`forward_tile`].
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn forward_avx512<const P: usize, const V: usize>(t: &ForwardTile) {
        // SAFETY: the features are on; the rest is the caller's contract.
        unsafe { forward_tile::<Avx512, P, V>(t) }
    }

    /// # Safety
    /// As [`forward_tile`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn forward_avx2<const P: usize>(t: &ForwardTile) {
        // SAFETY: the features are on; the rest is the caller's contract.
        unsafe { forward_tile::<Avx2, P, 1>(t) }
    }

    /// # Safety
    /// As [`weight_tile`].
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn weight_avx512<const P: usize, const V: usize>(t: &WeightTile) {
        // SAFETY: the features are on; the rest is the caller's contract.
        unsafe { weight_tile::<Avx512, P, V>(t) }
    }

    /// # Safety
    /// As [`weight_tile`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn weight_avx2<const P: usize>(t: &WeightTile) {
        // SAFETY: the features are on; the rest is the caller's contract.
        unsafe { weight_tile::<Avx2, P, 1>(t) }
    }
}

/// # Safety
/// As [`forward_tile`].
unsafe fn forward_portable<const P: usize>(t: &ForwardTile) {
    // SAFETY: needs no special instructions; the rest is the caller's contract.
    unsafe { forward_tile::<crate::simd::Portable, P, 1>(t) }
}

/// # Safety
/// As [`weight_tile`].
unsafe fn weight_portable<const P: usize>(t: &WeightTile) {
    // SAFETY: needs no special instructions; the rest is the caller's contract.
    unsafe { weight_tile::<crate::simd::Portable, P, 1>(t) }
}

#[cfg(target_arch = "x86_64")]
mod tables {
    use super::{ForwardFn, WeightFn, compiled};
    macro_rules! table {
        ($name:ident, $ty:ty, $f:ident, $v:literal; $($p:literal)*) => {
            pub(super) static $name: &[$ty] = &[$(compiled::$f::<$p, $v>),*];
        };
        ($name:ident, $ty:ty, $f:ident; $($p:literal)*) => {
            pub(super) static $name: &[$ty] = &[$(compiled::$f::<$p>),*];
        };
    }
    table!(FORWARD_512_1, ForwardFn, forward_avx512, 1; 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    table!(FORWARD_512_2, ForwardFn, forward_avx512, 2; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    table!(FORWARD_256, ForwardFn, forward_avx2; 1 2 3 4 5 6);
    table!(WEIGHT_512_1, WeightFn, weight_avx512, 1; 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
    table!(WEIGHT_512_2, WeightFn, weight_avx512, 2; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    table!(WEIGHT_256, WeightFn, weight_avx2; 1 2 3 4 5 6);
}
static FORWARD_PORTABLE: &[ForwardFn] =
    &[forward_portable::<1>, forward_portable::<2>, forward_portable::<3>, forward_portable::<4>];
static WEIGHT_PORTABLE: &[WeightFn] =
    &[weight_portable::<1>, weight_portable::<2>, weight_portable::<3>, weight_portable::<4>];

/// The forward tile of `pixels` x `vectors`; at most [`max_pixels`] and [`max_vectors`].
pub(crate) fn forward_fn(isa: Isa, pixels: usize, vectors: usize) -> ForwardFn {
    let table = match (isa.0, vectors) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, 1) => tables::FORWARD_512_1,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, _) => tables::FORWARD_512_2,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, _) => tables::FORWARD_256,
        _ => FORWARD_PORTABLE,
    };
    table[pixels - 1]
}

/// The weight-gradient tile of `inputs` x `vectors`; at most [`max_inputs`] and [`max_vectors`].
pub(crate) fn weight_fn(isa: Isa, inputs: usize, vectors: usize) -> WeightFn {
    let table = match (isa.0, vectors) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, 1) => tables::WEIGHT_512_1,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, _) => tables::WEIGHT_512_2,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, _) => tables::WEIGHT_256,
        _ => WEIGHT_PORTABLE,
    };
    table[inputs - 1]
}
