//! Maximum over windows, and its gradient.

use super::axis::{Axis, Window};
use super::lanes::PoolLanes;
use crate::simd::simd_kernel;
use crate::{Isa, LANES, Map};

#[derive(Clone, Copy)]
struct ForwardArgs {
    x: *const f32,
    x_row: usize,
    y: *mut f32,
    y_row: usize,
    argmax: *mut u8,
    rows: Axis,
    columns: Axis,
    stride: usize,
}

/// One vector of the maximum over the window positions `ys` x `xs` of the input; `x` is the input at channel `c`.
///
/// # Safety
/// The positions lie inside the input; `y` and `argmax` hold a vector.
#[inline(always)]
unsafe fn maximum<S: PoolLanes>(
    a: &ForwardArgs,
    c: usize,
    (oy, ys): (usize, std::ops::Range<usize>),
    (ox, xs): (usize, std::ops::Range<usize>),
    y: *mut f32,
    argmax: *mut u8,
) {
    // SAFETY: positions inside the input, as the caller promises.
    unsafe {
        let at = |iy: usize, ix: usize| a.x.add(iy * a.x_row + ix * a.stride + c);
        let index = |iy: usize, ix: usize| {
            S::index(a.rows.position(iy, oy) * a.columns.kernel + a.columns.position(ix, ox))
        };
        // The first position starts, so that a window of -inf points into the image.
        let (mut best, mut best_at) = (S::load(at(ys.start, xs.start)), index(ys.start, xs.start));
        for iy in ys {
            for ix in xs.clone() {
                (best, best_at) = S::larger(best, best_at, S::load(at(iy, ix)), index(iy, ix));
            }
        }
        S::store(y, best);
        S::store_index(argmax, best_at);
    }
}

/// # Safety
/// The pointers cover the images that the axes describe; `argmax` has a byte for every output element.
#[inline(always)]
unsafe fn forward_body<S: PoolLanes>(a: &ForwardArgs) {
    let two_by_two =
        (a.rows.kernel, a.columns.kernel) == (2, 2) && a.rows.is_inside() && a.columns.is_inside();
    for oy in 0..a.rows.output {
        let (y0, y1) = a.rows.inputs(oy);
        for ox in 0..a.columns.output {
            let (x0, x1) = a.columns.inputs(ox);
            // SAFETY: `inputs` stays inside the image; c + LANES <= stride.
            unsafe {
                let y = a.y.add(oy * a.y_row + ox * a.stride);
                let argmax = a.argmax.add((oy * a.columns.output + ox) * a.stride);
                if two_by_two {
                    let x = a.x.add(y0 * a.x_row + x0 * a.stride);
                    for c in (0..a.stride).step_by(LANES) {
                        let at = [
                            x.add(c),
                            x.add(a.stride + c),
                            x.add(a.x_row + c),
                            x.add(a.x_row + a.stride + c),
                        ];
                        let mut best = (S::load(at[0]), S::index(0));
                        for (i, at) in at.into_iter().enumerate().skip(1) {
                            best = S::larger(best.0, best.1, S::load(at), S::index(i));
                        }
                        S::store(y.add(c), best.0);
                        S::store_index(argmax.add(c), best.1);
                    }
                } else {
                    for c in (0..a.stride).step_by(LANES) {
                        maximum::<S>(a, c, (oy, y0..y1), (ox, x0..x1), y.add(c), argmax.add(c));
                    }
                }
            }
        }
    }
}

simd_kernel!(fn run_forward = forward_body(a: &ForwardArgs));

/// Maximum of every window; padding never wins.
///
/// `argmax` gets one byte per output element, without border (`height * width * stride` of `y_map`): the position of
/// the maximum in its window, `row * kernel width + column`. The first maximum counts; a NaN is larger than any number
/// and the last NaN counts, as in PyTorch.
///
/// # Panics
/// If lengths or layouts do not fit each other and the window, or the window has more than 255 positions.
#[allow(clippy::too_many_arguments)]
pub fn max_pool_forward(
    isa: Isa,
    x: &[f32],
    x_map: Map,
    y: &mut [f32],
    y_map: Map,
    argmax: &mut [u8],
    window: Window,
) {
    let (rows, columns) = window.axes(&x_map, &y_map);
    check(x.len(), &x_map, y.len(), &y_map, argmax.len(), window);
    let a = ForwardArgs {
        // SAFETY: the interior's first pixel is inside the checked slice.
        x: unsafe { x.as_ptr().add(x_map.at(0, 0)) },
        x_row: x_map.row(),
        // SAFETY: as above.
        y: unsafe { y.as_mut_ptr().add(y_map.at(0, 0)) },
        y_row: y_map.row(),
        argmax: argmax.as_mut_ptr(),
        rows,
        columns,
        stride: x_map.stride,
    };
    // SAFETY: lengths and layouts checked above.
    unsafe { run_forward(isa, &a) }
}

fn check(x: usize, x_map: &Map, y: usize, y_map: &Map, argmax: usize, window: Window) {
    assert!(x == x_map.elements() && y == y_map.elements(), "slices as long as their layouts");
    assert_eq!(argmax, y_map.height * y_map.row_elements(), "one byte for every output element");
    assert!(window.area() <= 255, "positions fit a byte");
}

#[derive(Clone, Copy)]
struct BackwardArgs {
    dy: *const f32,
    y_row: usize,
    argmax: *const u8,
    dx: *mut f32,
    x_row: usize,
    rows: Axis,
    columns: Axis,
    stride: usize,
}

impl BackwardArgs {
    /// Elements of one row of bytes.
    #[inline(always)]
    fn bytes_row(&self) -> usize {
        self.columns.output * self.stride
    }
}

/// The gradient of input pixel (`iy`, `ix`).
///
/// # Safety
/// As [`backward_body`]; the pixel is inside the image.
#[inline(always)]
unsafe fn gather<S: PoolLanes>(a: &BackwardArgs, iy: usize, ix: usize) {
    let (oy, ox) = (a.rows.outputs(iy), a.columns.outputs(ix));
    for c in (0..a.stride).step_by(LANES) {
        // SAFETY: `outputs` are windows of the output; c + LANES <= stride.
        unsafe {
            let mut sum = S::splat(0.0);
            for y in oy.0..oy.1 {
                let row = a.rows.position(iy, y) * a.columns.kernel;
                for x in ox.0..ox.1 {
                    let at = S::index(row + a.columns.position(ix, x));
                    let value = S::load(a.dy.add(y * a.y_row + x * a.stride + c));
                    sum = S::add_where(sum, a.argmax.add(y * a.bytes_row() + x * a.stride + c), at, value);
                }
            }
            S::store(a.dx.add(iy * a.x_row + ix * a.stride + c), sum);
        }
    }
}

/// Pixels 1..columns of row `iy`, each covered by four windows of 2 x 2 with stride 1: neighbours in memory all along.
///
/// # Safety
/// As [`backward_body`]; 1 <= iy < output rows.
#[inline(always)]
unsafe fn row_of_two_by_two<S: PoolLanes>(a: &BackwardArgs, iy: usize) {
    // SAFETY: rows iy - 1 and iy of the output; columns from 0 (first - 1) to the last.
    unsafe {
        let (above, below) = (a.dy.add((iy - 1) * a.y_row), a.dy.add(iy * a.y_row));
        let (above_at, below_at) = (a.argmax.add((iy - 1) * a.bytes_row()), a.argmax.add(iy * a.bytes_row()));
        let dx = a.dx.add(iy * a.x_row);
        let index: [S::Index; 4] = [S::index(0), S::index(1), S::index(2), S::index(3)];
        for i in (a.stride..a.bytes_row()).step_by(LANES) {
            let left = i - a.stride;
            let mut sum = S::splat(0.0);
            sum = S::add_where(sum, above_at.add(left), index[3], S::load(above.add(left)));
            sum = S::add_where(sum, above_at.add(i), index[2], S::load(above.add(i)));
            sum = S::add_where(sum, below_at.add(left), index[1], S::load(below.add(left)));
            sum = S::add_where(sum, below_at.add(i), index[0], S::load(below.add(i)));
            S::store(dx.add(i), sum);
        }
    }
}

/// # Safety
/// The pointers cover the images that the axes describe; `argmax` has a byte for every output element.
#[inline(always)]
unsafe fn backward_body<S: PoolLanes>(a: &BackwardArgs) {
    let sliding = |axis: &Axis| axis.kernel == 2 && axis.stride == 1 && axis.is_inside();
    let two_by_two = sliding(&a.rows) && sliding(&a.columns);
    for iy in 0..a.rows.input {
        // SAFETY: pixels of the image.
        unsafe {
            let mut ix = 0;
            if two_by_two && (1..a.rows.output).contains(&iy) {
                gather::<S>(a, iy, 0);
                row_of_two_by_two::<S>(a, iy);
                ix = a.columns.output;
            }
            for ix in ix..a.columns.input {
                gather::<S>(a, iy, ix);
            }
        }
    }
}

simd_kernel!(fn run_backward = backward_body(a: &BackwardArgs));

/// Gradient of [`max_pool_forward`]: writes every interior pixel of `dx`, zero where no window has its maximum; `argmax`
/// is the forward's.
///
/// # Panics
/// As [`max_pool_forward`].
#[allow(clippy::too_many_arguments)]
pub fn max_pool_backward(
    isa: Isa,
    dy: &[f32],
    y_map: Map,
    argmax: &[u8],
    dx: &mut [f32],
    x_map: Map,
    window: Window,
) {
    let (rows, columns) = window.axes(&x_map, &y_map);
    check(dx.len(), &x_map, dy.len(), &y_map, argmax.len(), window);
    let a = BackwardArgs {
        // SAFETY: the interior's first pixel is inside the checked slice.
        dy: unsafe { dy.as_ptr().add(y_map.at(0, 0)) },
        y_row: y_map.row(),
        argmax: argmax.as_ptr(),
        // SAFETY: as above.
        dx: unsafe { dx.as_mut_ptr().add(x_map.at(0, 0)) },
        x_row: x_map.row(),
        rows,
        columns,
        stride: x_map.stride,
    };
    // SAFETY: lengths and layouts checked above.
    unsafe { run_backward(isa, &a) }
}
