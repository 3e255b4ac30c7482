//! The linear maps between tiles and their transforms, on vectors of 16 channels.

// Plain loops over small arrays: closures and iterator adapters would not be compiled for the instruction set.
#![allow(clippy::needless_range_loop)]

use super::POSITIONS;
use crate::simd::{LANES, Simd, simd_kernel};

/// Pixels in memory: elements from one row and from one column to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub row: usize,
    pub column: usize,
}

/// A transformed buffer: elements from one position and from one tile to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transformed {
    pub position: usize,
    pub tile: usize,
}

/// Bᵀ applied to four values: (d0 - d2, d1 + d2, d2 - d1, d1 - d3).
#[inline(always)]
unsafe fn b_transposed<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller has the instructions of `S`.
    unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])] }
}

/// Four vectors `step` elements apart.
#[inline(always)]
unsafe fn load_column<S: Simd>(at: *const f32, step: usize) -> [S::V; 4] {
    // SAFETY: the caller's pointers.
    unsafe { [S::load(at), S::load(at.add(step)), S::load(at.add(2 * step)), S::load(at.add(3 * step))] }
}

/// V = Bᵀ d B for `count` tiles whose 4x4 patches begin two columns apart.
///
/// # Safety
/// `from` points to patches inside a buffer, `to` to `vectors * LANES` elements of every tile at every position.
#[inline(always)]
unsafe fn input_body<S: Simd>(
    from: *const f32,
    steps: Steps,
    count: usize,
    vectors: usize,
    to: *mut f32,
    shape: Transformed,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for v in 0..vectors {
            let mut from = from.add(v * LANES);
            // Neighbouring patches share two columns.
            let mut c0 = b_transposed::<S>(load_column::<S>(from, steps.row));
            let mut c1 = b_transposed::<S>(load_column::<S>(from.add(steps.column), steps.row));
            for tile in 0..count {
                from = from.add(2 * steps.column);
                let c2 = b_transposed::<S>(load_column::<S>(from, steps.row));
                let c3 = b_transposed::<S>(load_column::<S>(from.add(steps.column), steps.row));
                let to = to.add(tile * shape.tile + v * LANES);
                for r in 0..4 {
                    let row = b_transposed::<S>([c0[r], c1[r], c2[r], c3[r]]);
                    for c in 0..4 {
                        S::store(to.add((4 * r + c) * shape.position), row[c]);
                    }
                }
                (c0, c1) = (c2, c3);
            }
        }
    }
}

/// A applied to two values, with the last one's sign changed: (y0, y0 + y1, y0 - y1, y1). [`kernel_gradient`] changes it back.
#[inline(always)]
unsafe fn a_twice<S: Simd>(a: S::V, b: S::V) -> [S::V; 4] {
    // SAFETY: the caller has the instructions of `S`.
    unsafe { [a, S::add(a, b), S::sub(a, b), b] }
}

/// A dY Aᵀ, up to the signs of [`a_twice`], for `count` tiles two columns apart.
///
/// # Safety
/// As [`input_body`], with patches of 2x2.
#[inline(always)]
unsafe fn gradient_body<S: Simd>(
    from: *const f32,
    steps: Steps,
    count: usize,
    vectors: usize,
    to: *mut f32,
    shape: Transformed,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for tile in 0..count {
            for v in 0..vectors {
                let at = from.add(2 * tile * steps.column + v * LANES);
                let right = at.add(steps.column);
                let c0 = a_twice::<S>(S::load(at), S::load(at.add(steps.row)));
                let c1 = a_twice::<S>(S::load(right), S::load(right.add(steps.row)));
                let to = to.add(tile * shape.tile + v * LANES);
                for r in 0..4 {
                    let row = a_twice::<S>(c0[r], c1[r]);
                    for c in 0..4 {
                        S::store(to.add((4 * r + c) * shape.position), row[c]);
                    }
                }
            }
        }
    }
}

/// Where the outputs of a run of tiles go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs {
    pub y: *mut f32,
    pub steps: Steps,
    /// Rows and columns of each tile inside the image.
    pub rows: usize,
    pub columns: usize,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// Aᵀ applied to four values: (m0 + m1 + m2, m1 - m2 - m3).
#[inline(always)]
unsafe fn a_transposed<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller has the instructions of `S`.
    unsafe { [S::add(m[0], S::add(m[1], m[2])), S::sub(S::sub(m[1], m[2]), m[3])] }
}

/// y = Aᵀ m A + bias for `count` tiles.
///
/// # Safety
/// `m` points to every tile at every position, `bias` to `vectors` vectors, the outputs to pixels of as many.
#[inline(always)]
unsafe fn output_body<S: Simd>(
    m: *const f32,
    shape: Transformed,
    count: usize,
    vectors: usize,
    bias: *const f32,
    to: Outputs,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for tile in 0..count {
            for v in 0..vectors {
                let m = m.add(tile * shape.tile + v * LANES);
                let bias = S::load(bias.add(v * LANES));
                let mut columns = [[bias; 2]; 4];
                for (c, column) in columns.iter_mut().enumerate() {
                    let m = m.add(c * shape.position);
                    *column = a_transposed::<S>(load_column::<S>(m, 4 * shape.position));
                }
                let y = to.y.add(2 * tile * to.steps.column + v * LANES);
                for r in 0..2 {
                    let row = a_transposed::<S>([columns[0][r], columns[1][r], columns[2][r], columns[3][r]]);
                    for c in 0..2 {
                        if r < to.rows && c < to.columns {
                            let at = y.add(r * to.steps.row + c * to.steps.column);
                            let start = if to.accumulate { S::add(S::load(at), bias) } else { bias };
                            S::store(at, S::add(start, row[c]));
                        }
                    }
                }
            }
        }
    }
}

/// G applied to three values: (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2).
#[inline(always)]
unsafe fn g_times<S: Simd>(g: [S::V; 3]) -> [S::V; 4] {
    // SAFETY: the caller has the instructions of `S`.
    unsafe {
        let (half, outer) = (S::splat(0.5), S::add(g[0], g[2]));
        [g[0], S::mul(half, S::add(outer, g[1])), S::mul(half, S::sub(outer, g[1])), g[2]]
    }
}

/// U = G g Gᵀ: nine taps `tap` elements apart to 16 positions `position` elements apart, `inputs` vectors of each.
///
/// # Safety
/// Both pointers are valid for that many elements.
#[inline(always)]
unsafe fn kernel_body<S: Simd>(g: *const f32, tap: usize, inputs: usize, u: *mut f32, position: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..inputs {
            let mut columns = [[S::splat(0.0); 4]; 3];
            for (c, column) in columns.iter_mut().enumerate() {
                let g = g.add(c * tap + i * LANES);
                *column = g_times::<S>([S::load(g), S::load(g.add(3 * tap)), S::load(g.add(6 * tap))]);
            }
            for r in 0..4 {
                let row = g_times::<S>([columns[0][r], columns[1][r], columns[2][r]]);
                for c in 0..4 {
                    S::store(u.add((4 * r + c) * position + i * LANES), row[c]);
                }
            }
        }
    }
}

/// Gᵀ applied to four values, the last with the sign of [`a_twice`]: (m0 + (m1 + m2) / 2, (m1 - m2) / 2, (m1 + m2) / 2 - m3).
#[inline(always)]
unsafe fn g_transposed<S: Simd>(m: [S::V; 4]) -> [S::V; 3] {
    // SAFETY: the caller has the instructions of `S`.
    unsafe {
        let half = S::splat(0.5);
        let sum = S::mul(half, S::add(m[1], m[2]));
        [S::add(m[0], sum), S::mul(half, S::sub(m[1], m[2])), S::sub(sum, m[3])]
    }
}

/// g = Gᵀ m G, the inverse direction of [`kernel_body`], with the signs of [`a_twice`] changed back; in place: the nine taps
/// end up in the first nine positions.
///
/// # Safety
/// `m` is valid for `count` vectors of 16 positions.
#[inline(always)]
unsafe fn kernel_gradient_body<S: Simd>(m: *mut f32, position: usize, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..count {
            let m = m.add(i * LANES);
            let mut columns = [[S::splat(0.0); 3]; 4];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = g_transposed::<S>(load_column::<S>(m.add(c * position), 4 * position));
            }
            for r in 0..3 {
                let row = g_transposed::<S>([columns[0][r], columns[1][r], columns[2][r], columns[3][r]]);
                for c in 0..3 {
                    S::store(m.add((3 * r + c) * position), row[c]);
                }
            }
        }
    }
}

simd_kernel! {
    /// # Safety
    /// As [`input_body`].
    pub(super) fn input_tiles = input_body(from: *const f32, steps: Steps, count: usize, vectors: usize, to: *mut f32, shape: Transformed)
}
simd_kernel! {
    /// # Safety
    /// As [`gradient_body`].
    pub(super) fn gradient_tiles = gradient_body(from: *const f32, steps: Steps, count: usize, vectors: usize, to: *mut f32, shape: Transformed)
}
simd_kernel! {
    /// # Safety
    /// As [`output_body`].
    pub(super) fn output_tiles = output_body(m: *const f32, shape: Transformed, count: usize, vectors: usize, bias: *const f32, to: Outputs)
}
simd_kernel! {
    /// # Safety
    /// As [`kernel_body`].
    fn kernel_vectors = kernel_body(g: *const f32, tap: usize, inputs: usize, u: *mut f32, position: usize)
}
simd_kernel! {
    /// # Safety
    /// As [`kernel_gradient_body`].
    pub(super) fn kernel_gradient = kernel_gradient_body(m: *mut f32, position: usize, count: usize)
}

/// U of one block of 16 outputs: `g` is `[9][inputs][16]`, `u` is `[16][inputs][16]`.
pub(in crate::conv2d) fn kernel_transform(isa: crate::Isa, inputs: usize, g: &[f32], u: &mut [f32]) {
    assert_eq!(g.len(), 9 * inputs * LANES);
    assert_eq!(u.len(), POSITIONS * inputs * LANES);
    // SAFETY: the lengths were checked.
    unsafe { kernel_vectors(isa, g.as_ptr(), inputs * LANES, inputs, u.as_mut_ptr(), inputs * LANES) }
}
