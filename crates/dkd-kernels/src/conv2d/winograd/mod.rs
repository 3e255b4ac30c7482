//! 3x3 convolutions with stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications for a tile of 2x2
//! outputs instead of 36.
//!
//! With d a 4x4 patch of the input, g the 3x3 kernel and Y the 2x2 outputs,
//!
//! * `Y = Aᵀ [ U ⊙ V ] A` with `U = G g Gᵀ` and `V = Bᵀ d B`, summed over the input channels between the brackets;
//! * the input gradient is the same with the output's gradient in place of d and the flipped, transposed kernel;
//! * the kernel's gradient is `Gᵀ [ Σ_tiles V ⊙ (A dY Aᵀ) ] G`.
//!
//! The products are 16 independent matrix products, one for each *position* of a transformed tile, and use the same
//! register tiles as the direct convolution. B and A hold only 0 and ±1, G also ±1/2, so that rounding stays close to that
//! of the direct sum. A. Lavin, S. Gray: *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016.

mod convolve;
mod grid;
mod transform;
mod weight_grad;

pub(super) use convolve::WinogradConv;
pub(super) use transform::kernel_transform;
pub(super) use weight_grad::WinogradWeightGrad;

use super::ConvGeometry;
use crate::LANES;

/// Elements of a transformed tile or kernel.
pub(super) const POSITIONS: usize = 16;

/// Where position `p` of a kernel goes when the kernel is flipped in both directions: rows and columns 0 and 3 change
/// places, because G maps the flipped kernel to itself with these exchanged.
pub(super) const fn flipped(p: usize) -> usize {
    const SWAP: [usize; 4] = [3, 1, 2, 0];
    SWAP[p / 4] * 4 + SWAP[p % 4]
}

/// Fewest channels on either side for which the transforms pay.
const FEWEST_CHANNELS: usize = LANES;

/// Whether a convolution's three passes are computed this way.
pub(super) fn suits(g: &ConvGeometry) -> bool {
    let (i, o) = (&g.input, &g.output);
    let waste = |n: usize| 4 * n.next_multiple_of(2) <= 5 * n;
    g.kernel == (3, 3)
        && g.stride == (1, 1)
        && g.padding.0.max(g.padding.1) <= 2
        && i.channels.min(o.channels) >= FEWEST_CHANNELS
        && i.is_vector()
        && [i.height, i.width, o.height, o.width].into_iter().all(|n| n >= 4 && waste(n))
}

/// Elements between two positions of a buffer with `n` elements for each: one vector more, so that the 16 streams of a
/// transform do not fall into the same sets of the cache.
const fn position_stride(n: usize) -> usize {
    n + LANES
}
