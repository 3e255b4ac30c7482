//! The two minimal filterings, as maps between short vectors: one direction of a tile.

use crate::conv2d::ConvGeometry;
use crate::simd::Simd;
use crate::{LANES, Map};

/// Which filtering a pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::conv2d) enum Filter {
    /// F(2x2, 3x3): tiles of 2x2 outputs, 16 multiplications instead of 36.
    F2,
    /// F(4x4, 3x3): tiles of 4x4 outputs, 36 multiplications instead of 144.
    F4,
}

/// Fewest 4x4 tiles in an image for which the weight gradient by F(4x4, 3x3) pays where images come one by one: its sums over the
/// tiles are transformed back once per image.
const FEWEST_TILES: usize = 9;

impl Filter {
    /// Rows and columns of the outputs of a tile.
    pub const fn tile(self) -> usize {
        match self {
            Self::F2 => 2,
            Self::F4 => 4,
        }
    }

    /// Rows and columns of the inputs of a tile.
    pub const fn patch(self) -> usize {
        self.tile() + 2
    }

    /// Elements of a transformed tile or kernel.
    pub const fn positions(self) -> usize {
        self.patch() * self.patch()
    }

    /// Tiles of an image.
    pub fn tiles(self, outputs: &Map) -> usize {
        outputs.height.div_ceil(self.tile()) * outputs.width.div_ceil(self.tile())
    }

    /// The filtering of the forward pass and of the input gradient, which share the transformed kernels, where one suits: that
    /// with fewer multiplications, tiles beyond the edges included. Larger tiles must save a fifth, as their transforms cost more.
    pub fn of_convolution(g: &ConvGeometry) -> Option<Self> {
        let products = |f: Self| f.positions() * f.tiles(&g.output);
        let large = 5 * products(Self::F4) <= 4 * products(Self::F2);
        suits(g).then_some(if large { Self::F4 } else { Self::F2 })
    }

    /// The filtering of the weight gradient, where one suits.
    pub fn of_weight_gradient(g: &ConvGeometry) -> Option<Self> {
        let few = Self::F4.tiles(&g.output) < FEWEST_TILES && !g.takes_many();
        Self::of_convolution(g).map(|f| if few { Self::F2 } else { f })
    }
}

/// Fewest channels on either side for which the transforms pay.
const FEWEST_CHANNELS: usize = LANES;

/// Whether a convolution's three passes are computed this way.
fn suits(g: &ConvGeometry) -> bool {
    let (i, o) = (&g.input, &g.output);
    let waste = |n: usize| 4 * n.next_multiple_of(2) <= 5 * n;
    g.kernel == (3, 3)
        && g.stride == (1, 1)
        && g.padding.0.max(g.padding.1) <= 2
        && i.channels.min(o.channels) >= FEWEST_CHANNELS
        && i.is_vector()
        && [i.height, i.width, o.height, o.width].into_iter().all(|n| n >= 4 && waste(n))
}

/// One direction of F(MxM, 3x3) with N = M + 2: for kernel g and inputs d, the outputs are `Aᵀ [(G g) ⊙ (Bᵀ d)]`.
pub(super) trait Maps<const M: usize, const N: usize> {
    /// Bᵀ d.
    unsafe fn input<S: Simd>(d: [S::V; N]) -> [S::V; N];
    /// Aᵀ m.
    unsafe fn output<S: Simd>(m: [S::V; N]) -> [S::V; M];
    /// G g.
    unsafe fn kernel<S: Simd>(g: [S::V; 3]) -> [S::V; N];
    /// A y, up to signs that [`Maps::kernel_gradient`] changes back.
    unsafe fn gradient<S: Simd>(y: [S::V; M]) -> [S::V; N];
    /// Gᵀ m.
    unsafe fn kernel_gradient<S: Simd>(m: [S::V; N]) -> [S::V; 3];
}

/// F(2x2, 3x3): interpolation at 0, 1, -1 and infinity.
///
/// ```text
///      1  0 -1  0         1    0    0
/// Bᵀ = 0  1  1  0    G = 1/2  1/2  1/2    Aᵀ = 1  1  1  0
///      0 -1  1  0        1/2 -1/2  1/2         0  1 -1 -1
///      0  1  0 -1         0    0    1
/// ```
pub(super) struct F2;

// SAFETY (all of this impl): arithmetic on values; the caller has the instructions of `S`.
impl Maps<2, 4> for F2 {
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])] }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
        // SAFETY: as above.
        unsafe { [S::add(m[0], S::add(m[1], m[2])), S::sub(S::sub(m[1], m[2]), m[3])] }
    }

    #[inline(always)]
    unsafe fn kernel<S: Simd>(g: [S::V; 3]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe {
            let (half, outer) = (S::splat(0.5), S::add(g[0], g[2]));
            [g[0], S::mul(half, S::add(outer, g[1])), S::mul(half, S::sub(outer, g[1])), g[2]]
        }
    }

    /// (y0, y0 + y1, y0 - y1, y1): the last without its sign.
    #[inline(always)]
    unsafe fn gradient<S: Simd>(y: [S::V; 2]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe { [y[0], S::add(y[0], y[1]), S::sub(y[0], y[1]), y[1]] }
    }

    #[inline(always)]
    unsafe fn kernel_gradient<S: Simd>(m: [S::V; 4]) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let half = S::splat(0.5);
            let sum = S::mul(half, S::add(m[1], m[2]));
            [S::add(m[0], sum), S::mul(half, S::sub(m[1], m[2])), S::sub(sum, m[3])]
        }
    }
}

/// F(4x4, 3x3): interpolation at 0, a = 2/3, -a, b = 3/2, -b and infinity. With the usual 1 and 2 results would be rounded
/// twice as badly.
///
/// ```text
///      1   0  -97/36  0   1 0        1   0    0
///      0 -3/2  -9/4  2/3  1 0        u   au  a²u                    1  1  1  1  1  0
/// Bᵀ = 0  3/2  -9/4 -2/3  1 0    G = u  -au  a²u  u = -81/130  Aᵀ = 0  a -a  b -b  0
///      0 -2/3  -4/9  3/2  1 0        v   bv  b²v  v = 8/65          0  a² a² b² b² 0
///      0  2/3  -4/9 -3/2  1 0        v  -bv  b²v                    0  a³-a³ b³-b³ 1
///      0   1    0  -97/36 0 1        0   0    1
/// ```
pub(super) struct F4;

const A: f32 = 2.0 / 3.0;
const A2: f32 = 4.0 / 9.0;
const A3: f32 = 8.0 / 27.0;
const B: f32 = 1.5;
const B2: f32 = 2.25;
const B3: f32 = 3.375;
const U: f32 = -81.0 / 130.0;
const V: f32 = 8.0 / 65.0;

// SAFETY (all of this impl): arithmetic on values; the caller has the instructions of `S`.
impl Maps<4, 6> for F4 {
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let middle = S::splat(-97.0 / 36.0);
            let even_a = S::fma(S::splat(-B2), d[2], d[4]);
            let even_b = S::fma(S::splat(-A2), d[2], d[4]);
            let odd_a = S::fma(S::splat(A), d[3], S::mul(S::splat(-B), d[1]));
            let odd_b = S::fma(S::splat(B), d[3], S::mul(S::splat(-A), d[1]));
            [
                S::fma(middle, d[2], S::add(d[0], d[4])),
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                S::fma(middle, d[3], S::add(d[1], d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
        // SAFETY: as above.
        unsafe {
            let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
            let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
            [
                S::add(m[0], S::add(even_a, even_b)),
                S::fma(S::splat(B), odd_b, S::mul(S::splat(A), odd_a)),
                S::fma(S::splat(B2), even_b, S::mul(S::splat(A2), even_a)),
                S::fma(S::splat(B3), odd_b, S::fma(S::splat(A3), odd_a, m[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn kernel<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let (u, v) = (S::splat(U), S::splat(V));
            let even_a = S::fma(S::splat(A2), g[2], g[0]);
            let even_b = S::fma(S::splat(B2), g[2], g[0]);
            let (odd_a, odd_b) = (S::mul(S::splat(A), g[1]), S::mul(S::splat(B), g[1]));
            [
                g[0],
                S::mul(u, S::add(even_a, odd_a)),
                S::mul(u, S::sub(even_a, odd_a)),
                S::mul(v, S::add(even_b, odd_b)),
                S::mul(v, S::sub(even_b, odd_b)),
                g[2],
            ]
        }
    }

    #[inline(always)]
    unsafe fn gradient<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
        // SAFETY: as above.
        unsafe {
            let even_a = S::fma(S::splat(A2), y[2], y[0]);
            let even_b = S::fma(S::splat(B2), y[2], y[0]);
            let odd_a = S::fma(S::splat(A3), y[3], S::mul(S::splat(A), y[1]));
            let odd_b = S::fma(S::splat(B3), y[3], S::mul(S::splat(B), y[1]));
            [
                y[0],
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                y[3],
            ]
        }
    }

    #[inline(always)]
    unsafe fn kernel_gradient<S: Simd>(m: [S::V; 6]) -> [S::V; 3] {
        // SAFETY: as above.
        unsafe {
            let (u, v) = (S::splat(U), S::splat(V));
            let (even_a, odd_a) = (S::mul(u, S::add(m[1], m[2])), S::mul(u, S::sub(m[1], m[2])));
            let (even_b, odd_b) = (S::mul(v, S::add(m[3], m[4])), S::mul(v, S::sub(m[3], m[4])));
            [
                S::add(m[0], S::add(even_a, even_b)),
                S::fma(S::splat(B), odd_b, S::mul(S::splat(A), odd_a)),
                S::fma(S::splat(B2), even_b, S::fma(S::splat(A2), even_a, m[5])),
            ]
        }
    }
}
