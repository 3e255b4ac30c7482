//! The linear maps between tiles and their transforms, on vectors of 16 channels.

// Plain loops over small arrays: closures and iterator adapters would not be compiled for the instruction set.
#![allow(clippy::needless_range_loop)]

use super::filter::{F2, F4, Filter, Maps};
use crate::simd::{LANES, Simd, simd_kernel};

/// Pixels in memory: elements from one row and from one column to the next. Both are negative for a mirrored tile, whose
/// first pixel is the last in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub row: isize,
    pub column: isize,
}

impl Steps {
    /// The steps in the opposite directions.
    pub fn mirrored(self) -> Self {
        Self { row: -self.row, column: -self.column }
    }
}

/// A transformed buffer: elements from one position and from one tile to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transformed {
    pub position: usize,
    pub tile: isize,
}

/// N vectors `step` elements apart.
#[inline(always)]
unsafe fn load_column<S: Simd, const N: usize>(at: *const f32, step: isize) -> [S::V; N] {
    // SAFETY: the caller's pointers.
    unsafe {
        let mut column = [S::splat(0.0); N];
        for r in 0..N {
            column[r] = S::load(at.offset(r as isize * step));
        }
        column
    }
}

/// V = Bᵀ d B for `count` tiles whose patches begin M columns apart.
///
/// # Safety
/// `from` points to patches inside a buffer, `to` to `vectors * LANES` elements of every tile at every position.
#[inline(always)]
unsafe fn input_body<S: Simd, F: Maps<M, N>, const M: usize, const N: usize>(
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
            let from = from.add(v * LANES);
            let mut columns = [[S::splat(0.0); N]; N];
            // Neighbouring patches share two columns.
            for c in 0..N - M {
                let at = from.offset(c as isize * steps.column);
                columns[c] = F::input::<S>(load_column::<S, N>(at, steps.row));
            }
            for tile in 0..count {
                for c in N - M..N {
                    let at = from.offset((tile * M + c) as isize * steps.column);
                    columns[c] = F::input::<S>(load_column::<S, N>(at, steps.row));
                }
                let to = to.offset(tile as isize * shape.tile).add(v * LANES);
                for r in 0..N {
                    let mut row = [S::splat(0.0); N];
                    for c in 0..N {
                        row[c] = columns[c][r];
                    }
                    let row = F::input::<S>(row);
                    for c in 0..N {
                        S::store(to.add((N * r + c) * shape.position), row[c]);
                    }
                }
                for c in 0..N - M {
                    columns[c] = columns[c + M];
                }
            }
        }
    }
}

/// A dY Aᵀ, up to the signs of [`Maps::gradient`], for `count` tiles M columns apart.
///
/// # Safety
/// As [`input_body`], with patches of MxM.
#[inline(always)]
unsafe fn gradient_body<S: Simd, F: Maps<M, N>, const M: usize, const N: usize>(
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
                let mut columns = [[S::splat(0.0); N]; M];
                for c in 0..M {
                    let at = from.offset((tile * M + c) as isize * steps.column).add(v * LANES);
                    columns[c] = F::gradient::<S>(load_column::<S, M>(at, steps.row));
                }
                let to = to.offset(tile as isize * shape.tile).add(v * LANES);
                for r in 0..N {
                    let mut row = [S::splat(0.0); M];
                    for c in 0..M {
                        row[c] = columns[c][r];
                    }
                    let row = F::gradient::<S>(row);
                    for c in 0..N {
                        S::store(to.add((N * r + c) * shape.position), row[c]);
                    }
                }
            }
        }
    }
}

/// Where the outputs of a run of tiles go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs {
    /// Row 0, column 0 of the first tile; outside the image where that pixel is.
    pub y: *mut f32,
    pub steps: Steps,
    /// Rows and columns of each tile inside the image: from the first to before the second number.
    pub rows: (usize, usize),
    pub columns: (usize, usize),
    /// Whether to add to what is there.
    pub accumulate: bool,
}

/// y = Aᵀ m A + bias for `count` tiles.
///
/// # Safety
/// `m` points to every tile at every position, `bias` to `vectors` vectors, the outputs to pixels of as many.
#[inline(always)]
unsafe fn output_body<S: Simd, F: Maps<M, N>, const M: usize, const N: usize>(
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
                let m = m.offset(tile as isize * shape.tile).add(v * LANES);
                let bias = S::load(bias.add(v * LANES));
                let mut columns = [[bias; M]; N];
                for c in 0..N {
                    let at = m.add(c * shape.position);
                    columns[c] = F::output::<S>(load_column::<S, N>(at, (N * shape.position) as isize));
                }
                let y = to.y.wrapping_offset((tile * M) as isize * to.steps.column).wrapping_add(v * LANES);
                for r in 0..M {
                    let mut row = [bias; N];
                    for c in 0..N {
                        row[c] = columns[c][r];
                    }
                    let row = F::output::<S>(row);
                    for c in 0..M {
                        let inside = r >= to.rows.0 && r < to.rows.1 && c >= to.columns.0 && c < to.columns.1;
                        if inside {
                            let offset = r as isize * to.steps.row + c as isize * to.steps.column;
                            let at = y.wrapping_offset(offset);
                            let start = if to.accumulate { S::add(S::load(at), bias) } else { bias };
                            S::store(at, S::add(start, row[c]));
                        }
                    }
                }
            }
        }
    }
}

/// U = G g Gᵀ: nine taps `tap` elements apart to N² positions `position` elements apart, `inputs` vectors of each.
///
/// # Safety
/// Both pointers are valid for that many elements.
#[inline(always)]
unsafe fn kernel_body<S: Simd, F: Maps<M, N>, const M: usize, const N: usize>(
    g: *const f32,
    tap: usize,
    inputs: usize,
    u: *mut f32,
    position: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..inputs {
            let mut columns = [[S::splat(0.0); N]; 3];
            for c in 0..3 {
                let at = g.add(c * tap + i * LANES);
                columns[c] = F::kernel::<S>(load_column::<S, 3>(at, (3 * tap) as isize));
            }
            for r in 0..N {
                let row = F::kernel::<S>([columns[0][r], columns[1][r], columns[2][r]]);
                for c in 0..N {
                    S::store(u.add((N * r + c) * position + i * LANES), row[c]);
                }
            }
        }
    }
}

/// g = Gᵀ m G, the inverse direction of [`kernel_body`], for products with [`gradient_body`]; in place: the nine taps end up
/// in the first nine positions.
///
/// # Safety
/// `m` is valid for `count` vectors of N² positions.
#[inline(always)]
unsafe fn kernel_gradient_body<S: Simd, F: Maps<M, N>, const M: usize, const N: usize>(
    m: *mut f32,
    position: usize,
    count: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..count {
            let m = m.add(i * LANES);
            let mut columns = [[S::splat(0.0); 3]; N];
            for c in 0..N {
                let at = m.add(c * position);
                columns[c] = F::kernel_gradient::<S>(load_column::<S, N>(at, (N * position) as isize));
            }
            for r in 0..3 {
                let mut row = [S::splat(0.0); N];
                for c in 0..N {
                    row[c] = columns[c][r];
                }
                let row = F::kernel_gradient::<S>(row);
                for c in 0..3 {
                    S::store(m.add((3 * r + c) * position), row[c]);
                }
            }
        }
    }
}

/// Makes `fn name(filter, isa, args…)` from a generic body: one copy per filtering and instruction set.
macro_rules! filter_kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(filter: Filter, isa: $crate::Isa, $($arg: $ty),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn two<S: Simd>($($arg: $ty),*) {
                // SAFETY: the caller's contract.
                unsafe { $body::<S, F2, 2, 4>($($arg),*) }
            }
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn four<S: Simd>($($arg: $ty),*) {
                // SAFETY: the caller's contract.
                unsafe { $body::<S, F4, 4, 6>($($arg),*) }
            }
            simd_kernel! {
                /// # Safety
                /// The caller's contract.
                fn run_two = two($($arg: $ty),*)
            }
            simd_kernel! {
                /// # Safety
                /// The caller's contract.
                fn run_four = four($($arg: $ty),*)
            }
            // SAFETY: the caller's contract.
            unsafe {
                match filter {
                    Filter::F2 => run_two(isa, $($arg),*),
                    Filter::F4 => run_four(isa, $($arg),*),
                }
            }
        }
    };
}

filter_kernel! {
    /// # Safety
    /// As [`input_body`].
    pub(super) fn input_tiles = input_body(from: *const f32, steps: Steps, count: usize, vectors: usize, to: *mut f32, shape: Transformed)
}
filter_kernel! {
    /// # Safety
    /// As [`gradient_body`].
    pub(super) fn gradient_tiles = gradient_body(from: *const f32, steps: Steps, count: usize, vectors: usize, to: *mut f32, shape: Transformed)
}
filter_kernel! {
    /// # Safety
    /// As [`output_body`].
    pub(super) fn output_tiles = output_body(m: *const f32, shape: Transformed, count: usize, vectors: usize, bias: *const f32, to: Outputs)
}
filter_kernel! {
    /// # Safety
    /// As [`kernel_body`].
    fn kernel_vectors = kernel_body(g: *const f32, tap: usize, inputs: usize, u: *mut f32, position: usize)
}
filter_kernel! {
    /// # Safety
    /// As [`kernel_gradient_body`].
    pub(super) fn kernel_gradient = kernel_gradient_body(m: *mut f32, position: usize, count: usize)
}

/// U of one block of 16 outputs: `g` is `[9][inputs][16]`, `u` is `[positions][inputs][16]`.
pub(in crate::conv2d) fn kernel_transform(
    filter: Filter,
    isa: crate::Isa,
    inputs: usize,
    g: &[f32],
    u: &mut [f32],
) {
    assert_eq!(g.len(), 9 * inputs * LANES);
    assert_eq!(u.len(), filter.positions() * inputs * LANES);
    // SAFETY: the lengths were checked.
    unsafe { kernel_vectors(filter, isa, g.as_ptr(), inputs * LANES, inputs, u.as_mut_ptr(), inputs * LANES) }
}
