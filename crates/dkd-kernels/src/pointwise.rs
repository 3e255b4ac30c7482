//! ReLU, sum and copies between layouts, one image at a time.

use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES, Map};

/// One operand of a row-wise loop.
#[derive(Clone, Copy)]
struct Rows {
    start: *const f32,
    row: usize,
}

#[derive(Clone, Copy)]
struct Args {
    a: Rows,
    b: Rows,
    y: *mut f32,
    y_row: usize,
    height: usize,
    vectors: usize,
    op: Op,
}

/// Where ReLU6 ends.
const SIX: f32 = 6.0;

#[derive(Clone, Copy, PartialEq)]
enum Op {
    /// y = max(a, 0)
    Relu,
    /// y = min(max(a, 0), 6)
    Relu6,
    /// y = a + b
    Add,
    /// y = a
    Copy,
    /// y += a
    Accumulate,
    /// y = b where a > 0, else 0
    ReluBackward,
    /// y += b where a > 0
    ReluBackwardAccumulate,
    /// y = b where 0 < a < 6, else 0
    Relu6Backward,
    /// y += b where 0 < a < 6
    Relu6BackwardAccumulate,
}

/// `value` where `output` of a ReLU6 is strictly between its ends, else 0.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn inside<S: Simd>(output: S::V, value: S::V) -> S::V {
    // SAFETY: the caller's contract.
    unsafe { S::where_positive(output, S::where_positive(S::sub(S::splat(SIX), output), value)) }
}

/// # Safety
/// Every operand that the operation reads covers `height` rows of `vectors` vectors.
#[inline(always)]
unsafe fn body<S: Simd>(t: &Args) {
    macro_rules! each {
        ($($x:ident),*; $value:expr) => {
            for r in 0..t.height {
                // SAFETY: row r of each operand, and vector i of the row.
                unsafe {
                    let (a, b, y) = (
                        t.a.start.add(r * t.a.row),
                        t.b.start.wrapping_add(r * t.b.row),
                        t.y.add(r * t.y_row),
                    );
                    for i in (0..t.vectors * LANES).step_by(LANES) {
                        let value = $value(a.add(i), b.wrapping_add(i), y.add(i));
                        S::store(y.add(i), value);
                    }
                }
            }
        };
    }
    match t.op {
        Op::Relu => each!(a; |a, _, _| S::relu(S::load(a))),
        Op::Relu6 => each!(a; |a, _, _| S::at_most(S::relu(S::load(a)), S::splat(SIX))),
        Op::Add => each!(a, b; |a, b, _| S::add(S::load(a), S::load(b))),
        Op::Copy => each!(a; |a, _, _| S::load(a)),
        Op::Accumulate => each!(a, y; |a, _, y: *mut f32| S::add(S::load(y), S::load(a))),
        Op::ReluBackward => each!(a, b; |a, b, _| S::where_positive(S::load(a), S::load(b))),
        Op::ReluBackwardAccumulate => each!(a, b, y; |a, b, y: *mut f32| {
            S::add(S::load(y), S::where_positive(S::load(a), S::load(b)))
        }),
        Op::Relu6Backward => each!(a, b; |a, b, _| inside::<S>(S::load(a), S::load(b))),
        Op::Relu6BackwardAccumulate => each!(a, b, y; |a, b, y: *mut f32| {
            S::add(S::load(y), inside::<S>(S::load(a), S::load(b)))
        }),
    }
}

simd_kernel!(fn run_body = body(t: &Args));

/// An image with its layout.
pub type Image<'a> = (&'a [f32], Map);

fn rows(x: Image<'_>) -> Rows {
    assert_eq!(x.0.len(), x.1.elements());
    // SAFETY: the interior's first pixel lies inside the checked slice.
    Rows { start: unsafe { x.0.as_ptr().add(x.1.at(0, 0)) }, row: x.1.row() }
}

fn run(isa: Isa, op: Op, a: Image<'_>, b: Option<Image<'_>>, y: &mut [f32], map: Map) {
    assert!(map.is_vector() && a.1.same_interior(&map) && y.len() == map.elements());
    assert!(b.is_none_or(|b| b.1.same_interior(&map)));
    let none = Rows { start: std::ptr::NonNull::dangling().as_ptr(), row: 0 };
    let args = Args {
        a: rows(a),
        b: b.map_or(none, rows),
        // SAFETY: the interior's first pixel lies inside the checked slice.
        y: unsafe { y.as_mut_ptr().add(map.at(0, 0)) },
        y_row: map.row(),
        height: map.height,
        vectors: map.row_elements() / LANES,
        op,
    };
    // SAFETY: layouts and lengths are checked above; `b` is given wherever the operation reads it.
    unsafe { run_body(isa, &args) }
}

/// y = max(x, 0).
///
/// # Panics
/// All functions of this module panic if layouts have different interiors or slices the wrong length.
pub fn relu(isa: Isa, x: Image<'_>, y: &mut [f32], map: Map) {
    run(isa, Op::Relu, x, None, y, map);
}

/// y = max(y, 0).
pub fn relu_in_place(isa: Isa, y: &mut [f32], map: Map) {
    assert!(map.is_vector() && y.len() == map.elements());
    // SAFETY: the interior's first pixel lies inside the checked slice.
    let start = unsafe { y.as_mut_ptr().add(map.at(0, 0)) };
    let args = Args {
        a: Rows { start: start.cast_const(), row: map.row() },
        b: Rows { start: std::ptr::NonNull::dangling().as_ptr(), row: 0 },
        y: start,
        y_row: map.row(),
        height: map.height,
        vectors: map.row_elements() / LANES,
        op: Op::Relu,
    };
    // SAFETY: input and output are the same vectors, each read before it is written.
    unsafe { run_body(isa, &args) }
}

/// dx = dy where the ReLU's `output` is positive, else 0; `dx +=` with `accumulate`.
pub fn relu_backward(isa: Isa, output: Image<'_>, dy: Image<'_>, dx: &mut [f32], map: Map, accumulate: bool) {
    let op = if accumulate { Op::ReluBackwardAccumulate } else { Op::ReluBackward };
    run(isa, op, output, Some(dy), dx, map);
}

/// y = min(max(x, 0), 6).
pub fn relu6(isa: Isa, x: Image<'_>, y: &mut [f32], map: Map) {
    run(isa, Op::Relu6, x, None, y, map);
}

/// dx = dy where the ReLU6's `output` is above 0 and below 6, else 0; `dx +=` with `accumulate`.
pub fn relu6_backward(
    isa: Isa,
    output: Image<'_>,
    dy: Image<'_>,
    dx: &mut [f32],
    map: Map,
    accumulate: bool,
) {
    let op = if accumulate { Op::Relu6BackwardAccumulate } else { Op::Relu6Backward };
    run(isa, op, output, Some(dy), dx, map);
}

/// y = a + b.
pub fn add(isa: Isa, a: Image<'_>, b: Image<'_>, y: &mut [f32], map: Map) {
    run(isa, Op::Add, a, Some(b), y, map);
}

/// y = x, or y += x with `accumulate`; the borders may differ.
pub fn copy(isa: Isa, x: Image<'_>, y: &mut [f32], map: Map, accumulate: bool) {
    run(isa, if accumulate { Op::Accumulate } else { Op::Copy }, x, None, y, map);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    #[test]
    fn against_plain_loops() {
        for (index, map) in
            [Map::new(3, 5, 7, 1), Map::new(1, 1, 40, 0), Map::new(4, 2, 16, 2)].into_iter().enumerate()
        {
            let other = map.with_border(3 - map.border);
            let fill = |map: Map, salt: u64| {
                let s = Stream::new(1, Purpose::Other, salt as u32, index as u64);
                let mut x = vec![0.0; map.elements()];
                for y in 0..map.height {
                    for i in 0..map.row_elements() {
                        x[map.at(y as isize, 0) + i] = s.uniform((y * map.row_elements() + i) as u64) - 0.5;
                    }
                }
                x
            };
            let interior = |x: &[f32], map: Map| -> Vec<f32> {
                let row = |y| x[map.at(y, 0)..][..map.row_elements()].to_vec();
                (0..map.height as isize).flat_map(row).collect()
            };
            let (a, b, start) = (fill(map, 1), fill(other, 2), fill(other, 3));
            let (ai, bi, si) = (interior(&a, map), interior(&b, other), interior(&start, other));
            for isa in Isa::available() {
                let check = |y: &[f32], f: &dyn Fn(usize) -> f32| {
                    let want: Vec<f32> = (0..ai.len()).map(f).collect();
                    assert_eq!(interior(y, other), want, "{isa}");
                    assert_eq!(
                        y.iter().filter(|v| **v != 0.0).count(),
                        want.iter().filter(|v| **v != 0.0).count()
                    );
                };
                let mut y = start.clone();
                relu(isa, (&a, map), &mut y, other);
                check(&y, &|i| ai[i].max(0.0));
                let mut y = start.clone();
                relu_in_place(isa, &mut y, other);
                check(&y, &|i| si[i].max(0.0));
                add(isa, (&a, map), (&b, other), &mut y, other);
                check(&y, &|i| ai[i] + bi[i]);
                copy(isa, (&a, map), &mut y, other, false);
                check(&y, &|i| ai[i]);
                relu_backward(isa, (&a, map), (&b, other), &mut y, other, false);
                check(&y, &|i| if ai[i] > 0.0 { bi[i] } else { 0.0 });
                relu6_backward(isa, (&a, map), (&b, other), &mut y, other, false);
                check(&y, &|i| if ai[i] > 0.0 { bi[i] } else { 0.0 });
                let mut y = start.clone();
                copy(isa, (&a, map), &mut y, other, true);
                check(&y, &|i| si[i] + ai[i]);
                let mut y = start.clone();
                relu_backward(isa, (&a, map), (&b, other), &mut y, other, true);
                check(&y, &|i| if ai[i] > 0.0 { si[i] + bi[i] } else { si[i] });
            }
        }
    }
    #[test]
    fn relu6_has_two_ends() {
        let map = Map::new(1, 1, 8, 0);
        let x = [-1.0, 0.0, 1.5, 5.75, 6.0, 8.0, f32::INFINITY, f32::NAN].into_iter();
        let x: Vec<f32> = x.chain([0.0; 8]).collect();
        let dy: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![0.0; 16], vec![10.0; 16]);
            relu6(isa, (&x, map), &mut y, map);
            assert_eq!(y[..7], [0.0, 0.0, 1.5, 5.75, 6.0, 6.0, 6.0], "{isa}");
            assert!(y[7].is_nan());
            relu6_backward(isa, (&y, map), (&dy, map), &mut dx, map, true);
            assert_eq!(dx[..8], [10.0, 10.0, 13.0, 14.0, 10.0, 10.0, 10.0, 18.0], "{isa}");
            relu6_backward(isa, (&y, map), (&dy, map), &mut dx, map, false);
            assert_eq!(dx[..8], [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 8.0], "{isa}");
        }
    }
}
