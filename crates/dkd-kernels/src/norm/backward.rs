//! The gradient on its way through ReLU, sum and normalisation.

use super::statistics::add;
use super::{BLOCKS, Extent, Plane, PlaneMut, passes};
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

/// Where a ReLU let its input through.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// There is no ReLU.
    None,
    /// Where this output is positive: the ReLU's stored output.
    Output(&'a [f32], Map),
    /// Where `scale * z + shift` is positive, for the same `z` as the sums: nothing but z was stored.
    Recompute(&'a [f32], &'a [f32]),
}

#[derive(Clone, Copy)]
struct Args {
    g: PlaneMut,
    residual: Plane,
    z: Plane,
    other: Plane,
    mask: Plane,
    scale: *const f32,
    shift: *const f32,
    /// Sums of g, g * z, g * other: three times `e.stride` values.
    sums: *mut f32,
    e: Extent,
    flags: Flags,
}

#[derive(Clone, Copy)]
struct Flags {
    residual: bool,
    other: bool,
    mask: u8,
}

/// # Safety
/// The planes that the flags use cover `a.e`; `a.sums` holds three values per channel.
#[inline(always)]
unsafe fn pass<S: Simd, const V: usize, const MASK: u8, const RESIDUAL: bool, const OTHER: bool>(
    a: &Args,
    first: usize,
) {
    // SAFETY: offsets stay inside the extent.
    unsafe {
        let at = first * LANES;
        let (mut scale, mut shift) = ([S::splat(0.0); V], [S::splat(0.0); V]);
        if MASK == 2 {
            for v in 0..V {
                scale[v] = S::load(a.scale.add(at + v * LANES));
                shift[v] = S::load(a.shift.add(at + v * LANES));
            }
        }
        let (mut s, mut sz, mut so) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
        for y in 0..a.e.height {
            // Sums of a row, then sums of rows: rounding errors grow with the longest chain of additions.
            let (mut rs, mut rsz, mut rso) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
            let g = a.g.start.add(y * a.g.row + at);
            let z = a.z.start.add(y * a.z.row + at);
            let residual = a.residual.start.wrapping_add(y * a.residual.row + at);
            let other = a.other.start.wrapping_add(y * a.other.row + at);
            let mask = a.mask.start.wrapping_add(y * a.mask.row + at);
            for x in 0..a.e.width {
                for v in 0..V {
                    let i = x * a.e.stride + v * LANES;
                    let zv = S::load(z.add(i));
                    let mut value = S::load(g.add(i));
                    if RESIDUAL {
                        value = S::add(value, S::load(residual.add(i)));
                    }
                    if MASK == 1 {
                        value = S::where_positive(S::load(mask.add(i)), value);
                    }
                    if MASK == 2 {
                        value = S::where_positive(S::fma(scale[v], zv, shift[v]), value);
                    }
                    if MASK != 0 || RESIDUAL {
                        S::store(g.add(i), value);
                    }
                    rs[v] = S::add(rs[v], value);
                    rsz[v] = S::fma(value, zv, rsz[v]);
                    if OTHER {
                        rso[v] = S::fma(value, S::load(other.add(i)), rso[v]);
                    }
                }
            }
            for v in 0..V {
                s[v] = S::add(s[v], rs[v]);
                sz[v] = S::add(sz[v], rsz[v]);
                so[v] = S::add(so[v], rso[v]);
            }
        }
        let n = a.e.stride;
        for v in 0..V {
            S::store(a.sums.add(at + v * LANES), s[v]);
            S::store(a.sums.add(n + at + v * LANES), sz[v]);
            if OTHER {
                S::store(a.sums.add(2 * n + at + v * LANES), so[v]);
            }
        }
    }
}

/// # Safety
/// As [`pass`].
#[inline(always)]
unsafe fn body<S: Simd>(a: &Args) {
    macro_rules! by_size {
        ($mask:literal, $residual:literal, $other:literal) => {
            passes(a.e.blocks(), |first, size| {
                // SAFETY: `passes` stays inside the blocks.
                unsafe {
                    match size {
                        BLOCKS => pass::<S, BLOCKS, $mask, $residual, $other>(a, first),
                        2 => pass::<S, 2, $mask, $residual, $other>(a, first),
                        _ => pass::<S, 1, $mask, $residual, $other>(a, first),
                    }
                }
            })
        };
    }
    match (a.flags.mask, a.flags.residual, a.flags.other) {
        (0, false, false) => by_size!(0, false, false),
        (0, false, true) => by_size!(0, false, true),
        (0, true, false) => by_size!(0, true, false),
        (0, true, true) => by_size!(0, true, true),
        (1, false, false) => by_size!(1, false, false),
        (1, false, true) => by_size!(1, false, true),
        (1, true, false) => by_size!(1, true, false),
        (1, true, true) => by_size!(1, true, true),
        (_, false, false) => by_size!(2, false, false),
        (_, false, true) => by_size!(2, false, true),
        (_, true, false) => by_size!(2, true, false),
        (_, true, true) => by_size!(2, true, true),
    }
}

simd_kernel!(fn run_body = body(a: &Args));

/// Completes the gradient of `y = relu(norm(z) + …)` for one image, in place, and gathers what the normalisation's
/// backward pass needs: `g = mask(g + residual)`, then adds per channel sum g to `sums[0]`, sum g * z to `sums[1]`, and
/// sum g * other to `sums[2]` if a second normalised value was added.
///
/// `scratch` holds three values per channel of the layout's stride.
///
/// # Panics
/// If a layout or a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn complete_gradient(
    isa: Isa,
    g: &mut [f32],
    g_map: Map,
    residual: Option<(&[f32], Map)>,
    mask: Mask<'_>,
    z: (&[f32], Map),
    other: Option<(&[f32], Map)>,
    scratch: &mut [f32],
    sums: [&mut [f64]; 3],
) {
    let n = g_map.stride;
    assert!(z.1.same_interior(&g_map) && scratch.len() >= 3 * n);
    let plane = |operand: Option<(&[f32], Map)>| match operand {
        Some((x, map)) => {
            assert!(map.same_interior(&g_map));
            Plane::new(x, map)
        }
        None => Plane::none(),
    };
    let nothing = std::ptr::NonNull::<f32>::dangling().as_ptr().cast_const();
    let (mask_plane, scale, shift, kind) = match mask {
        Mask::None => (Plane::none(), nothing, nothing, 0),
        Mask::Output(y, map) => (plane(Some((y, map))), nothing, nothing, 1),
        Mask::Recompute(scale, shift) => {
            assert!(scale.len() == n && shift.len() == n);
            (Plane::none(), scale.as_ptr(), shift.as_ptr(), 2)
        }
    };
    let args = Args {
        g: PlaneMut::new(g, g_map),
        residual: plane(residual),
        z: Plane::new(z.0, z.1),
        other: plane(other),
        mask: mask_plane,
        scale,
        shift,
        sums: scratch.as_mut_ptr(),
        e: Extent::of(g_map),
        flags: Flags { residual: residual.is_some(), other: other.is_some(), mask: kind },
    };
    // SAFETY: layouts and lengths checked above.
    unsafe { run_body(isa, &args) }
    let [s, sz, so] = sums;
    assert!(s.len() == n && sz.len() == n);
    add(s, &scratch[..n]);
    add(sz, &scratch[n..2 * n]);
    if other.is_some() {
        assert_eq!(so.len(), n);
        add(so, &scratch[2 * n..3 * n]);
    }
}

#[derive(Clone, Copy)]
struct BackwardArgs {
    g: Plane,
    z: Plane,
    c: [*const f32; 3],
    dz: PlaneMut,
    e: Extent,
    accumulate: bool,
}

/// # Safety
/// The planes cover `a.e`; the coefficients hold one value per channel.
#[inline(always)]
unsafe fn backward_pass<S: Simd, const V: usize, const ACCUMULATE: bool>(a: &BackwardArgs, first: usize) {
    // SAFETY: offsets stay inside the extent.
    unsafe {
        let at = first * LANES;
        let mut c = [[S::splat(0.0); V]; 3];
        for (values, from) in c.iter_mut().zip(a.c) {
            for (v, value) in values.iter_mut().enumerate() {
                *value = S::load(from.add(at + v * LANES));
            }
        }
        for y in 0..a.e.height {
            let (g, z) = (a.g.start.add(y * a.g.row + at), a.z.start.add(y * a.z.row + at));
            let out = a.dz.start.add(y * a.dz.row + at);
            for x in 0..a.e.width {
                for v in 0..V {
                    let i = x * a.e.stride + v * LANES;
                    let mut value =
                        S::fma(c[0][v], S::load(g.add(i)), S::fma(c[1][v], S::load(z.add(i)), c[2][v]));
                    if ACCUMULATE {
                        value = S::add(value, S::load(out.add(i)));
                    }
                    S::store(out.add(i), value);
                }
            }
        }
    }
}

/// # Safety
/// As [`backward_pass`].
#[inline(always)]
unsafe fn backward_body<S: Simd>(a: &BackwardArgs) {
    passes(a.e.blocks(), |first, size| {
        // SAFETY: `passes` stays inside the blocks.
        unsafe {
            match (size, a.accumulate) {
                (BLOCKS, false) => backward_pass::<S, BLOCKS, false>(a, first),
                (2, false) => backward_pass::<S, 2, false>(a, first),
                (_, false) => backward_pass::<S, 1, false>(a, first),
                (BLOCKS, true) => backward_pass::<S, BLOCKS, true>(a, first),
                (2, true) => backward_pass::<S, 2, true>(a, first),
                (_, true) => backward_pass::<S, 1, true>(a, first),
            }
        }
    });
}

simd_kernel!(fn run_backward = backward_body(a: &BackwardArgs));

/// Input gradient of a normalisation for one image: `dz = c1 * g + c2 * z + c3`, or `dz += …` with `accumulate`.
///
/// # Panics
/// If a layout or a length does not fit.
pub fn normalize_backward(
    isa: Isa,
    g: (&[f32], Map),
    z: (&[f32], Map),
    c: [&[f32]; 3],
    dz: &mut [f32],
    dz_map: Map,
    accumulate: bool,
) {
    assert!(g.1.same_interior(&dz_map) && z.1.same_interior(&dz_map));
    assert!(c.iter().all(|c| c.len() == dz_map.stride));
    let args = BackwardArgs {
        g: Plane::new(g.0, g.1),
        z: Plane::new(z.0, z.1),
        c: c.map(<[f32]>::as_ptr),
        dz: PlaneMut::new(dz, dz_map),
        e: Extent::of(dz_map),
        accumulate,
    };
    // SAFETY: layouts and lengths checked above.
    unsafe { run_backward(isa, &args) }
}
