//! y = scale * z + shift (+ addend) (then ReLU).

use super::{BLOCKS, Extent, Plane, PlaneMut, passes};
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

/// What is added to a normalised value before the ReLU: nothing, another value, or another normalised value.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a> {
    /// Nothing.
    None,
    /// A value with its layout.
    Value(&'a [f32], Map),
    /// scale * value + shift, per channel: value, layout, scale, shift.
    Normalized(&'a [f32], Map, &'a [f32], &'a [f32]),
}

/// Arguments of the loop; a dangling plane stands for an absent operand.
#[derive(Clone, Copy)]
struct Args {
    z: Plane,
    scale: *const f32,
    shift: *const f32,
    other: Plane,
    other_scale: *const f32,
    other_shift: *const f32,
    y: PlaneMut,
    e: Extent,
    relu: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Alone,
    Add,
    AddNormalized,
}

/// # Safety
/// The planes cover `a.e`; the coefficient pointers hold `a.e.stride` elements where `a.kind` uses them.
#[inline(always)]
unsafe fn pass<S: Simd, const V: usize, const KIND: u8, const RELU: bool>(a: &Args, first: usize) {
    // SAFETY: offsets stay inside the extent.
    unsafe {
        let at = first * LANES;
        let (mut scale, mut shift, mut other_scale) =
            ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
        for v in 0..V {
            scale[v] = S::load(a.scale.add(at + v * LANES));
            shift[v] = S::load(a.shift.add(at + v * LANES));
            if KIND == 2 {
                other_scale[v] = S::load(a.other_scale.add(at + v * LANES));
                shift[v] = S::add(shift[v], S::load(a.other_shift.add(at + v * LANES)));
            }
        }
        for y in 0..a.e.height {
            let (z, o) = (a.z.start.add(y * a.z.row + at), a.other.start.wrapping_add(y * a.other.row + at));
            let out = a.y.start.add(y * a.y.row + at);
            for x in 0..a.e.width {
                for v in 0..V {
                    let i = x * a.e.stride + v * LANES;
                    let mut value = S::fma(scale[v], S::load(z.add(i)), shift[v]);
                    if KIND == 1 {
                        value = S::add(value, S::load(o.add(i)));
                    }
                    if KIND == 2 {
                        value = S::fma(other_scale[v], S::load(o.add(i)), value);
                    }
                    S::store(out.add(i), if RELU { S::relu(value) } else { value });
                }
            }
        }
    }
}

/// # Safety
/// As [`pass`].
#[inline(always)]
unsafe fn body<S: Simd>(a: &Args) {
    macro_rules! by_size {
        ($kind:literal, $relu:literal) => {
            passes(a.e.blocks(), |first, size| {
                // SAFETY: `passes` stays inside the blocks.
                unsafe {
                    match size {
                        BLOCKS => pass::<S, BLOCKS, $kind, $relu>(a, first),
                        2 => pass::<S, 2, $kind, $relu>(a, first),
                        _ => pass::<S, 1, $kind, $relu>(a, first),
                    }
                }
            })
        };
    }
    match (a.kind, a.relu) {
        (Kind::Alone, false) => by_size!(0, false),
        (Kind::Alone, true) => by_size!(0, true),
        (Kind::Add, false) => by_size!(1, false),
        (Kind::Add, true) => by_size!(1, true),
        (Kind::AddNormalized, false) => by_size!(2, false),
        (Kind::AddNormalized, true) => by_size!(2, true),
    }
}

simd_kernel!(fn run_body = body(a: &Args));

/// Normalises one image: `y = scale * z + shift (+ addend)`, then ReLU if asked for.
///
/// `scale` and `shift` hold one value per channel of the layouts' stride (zero for padding channels). All layouts have
/// the same interior; borders may differ.
///
/// # Panics
/// If a layout or a length does not fit.
#[allow(clippy::too_many_arguments)]
pub fn normalize(
    isa: Isa,
    z: &[f32],
    z_map: Map,
    scale: &[f32],
    shift: &[f32],
    addend: Addend<'_>,
    relu: bool,
    y: &mut [f32],
    y_map: Map,
) {
    let n = z_map.stride;
    assert!(z_map.same_interior(&y_map) && scale.len() == n && shift.len() == n);
    let mut a = Args {
        z: Plane::new(z, z_map),
        scale: scale.as_ptr(),
        shift: shift.as_ptr(),
        other: Plane::none(),
        other_scale: scale.as_ptr(),
        other_shift: shift.as_ptr(),
        y: PlaneMut::new(y, y_map),
        e: Extent::of(z_map),
        relu,
        kind: Kind::Alone,
    };
    match addend {
        Addend::None => {}
        Addend::Value(x, map) => {
            assert!(map.same_interior(&z_map));
            (a.kind, a.other) = (Kind::Add, Plane::new(x, map));
        }
        Addend::Normalized(x, map, scale, shift) => {
            assert!(map.same_interior(&z_map) && scale.len() == n && shift.len() == n);
            (a.kind, a.other) = (Kind::AddNormalized, Plane::new(x, map));
            (a.other_scale, a.other_shift) = (scale.as_ptr(), shift.as_ptr());
        }
    }
    // SAFETY: layouts and lengths checked above.
    unsafe { run_body(isa, &a) }
}
