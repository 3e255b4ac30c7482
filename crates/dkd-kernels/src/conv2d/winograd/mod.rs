//! 3x3 convolutions with stride 1 by Winograd's minimal filtering, F(4x4, 3x3) and F(2x2, 3x3): 36 multiplications for a tile
//! of 4x4 outputs instead of 144, or 16 for 2x2 instead of 36.
//!
//! With d a patch of the input, two rows and columns larger than the tile, g the 3x3 kernel and Y the outputs,
//!
//! * `Y = Aᵀ [ U ⊙ V ] A` with `U = G g Gᵀ` and `V = Bᵀ d B`, summed over the input channels between the brackets;
//! * the input gradient is the same with the output's gradient in place of d, and everything mirrored: patches are read and
//!   tiles written from their last pixel to their first, so that the kernel needs no flipping and U serves both passes;
//! * the kernel's gradient is `Gᵀ [ Σ_tiles V ⊙ (A dY Aᵀ) ] G`.
//!
//! The products are independent matrix products, one for each *position* of a transformed tile, and use the same register
//! tiles as the direct convolution. The matrices are in `filter`. Rounding: the root mean square error of F(2x2, 3x3) is 0.7 to
//! 0.9 times that of a sum in order, that of F(4x4, 3x3) two to two and a half times (a test bounds both).
//! A. Lavin, S. Gray: *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016; on the choice of points B. Barabasz et
//! al.: *Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks*, TOMS 2020.

mod convolve;
mod filter;
mod grid;
mod transform;
mod weight_grad;

pub(super) use convolve::{Order, WinogradConv};
pub(super) use filter::Filter;
pub(super) use transform::kernel_transform;
pub(super) use weight_grad::WinogradWeightGrad;

use crate::LANES;

/// Elements between two positions of a buffer with `n` elements for each: one vector more, so that the streams of a
/// transform do not fall into the same sets of the cache.
const fn position_stride(n: usize) -> usize {
    n + LANES
}
