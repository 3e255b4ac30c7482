//! Dense 2-D convolution as register-tiled direct convolution: forward, input gradient, weight gradient.
//!
//! For a block of output pixels and a block of output channels, the sum over (kernel row, kernel column, input channel)
//! is kept in registers; there is no im2col. Weights are packed as `[block of 16 outputs][tap][input channel][16]`, so
//! that the innermost loop reads them in order. The input gradient is the same loop over the output gradient with
//! transposed weights; a stride s > 1 becomes s x s interleaved convolutions ("phases") with a part of the taps each.
//! Kernels of 3x3 with stride 1, which is where networks spend their time, go another way:
//! Winograd's minimal filtering, in `winograd`. Images with few pixels and many channels are computed several at once
//! ([`ConvGeometry::takes_many`]), in `winograd` or `gathered`.

mod direct;
mod forward;
mod gathered;
mod geometry;
mod grouped;
mod images;
mod input_grad;
mod pass;
pub(crate) mod tile;
mod weight_grad;
mod weights;
mod winograd;

pub use forward::ConvForward;
pub(crate) use forward::pieces_of_vectors;
pub use geometry::ConvGeometry;
pub(crate) use geometry::{Run, pieces};
pub use grouped::GroupedConv;
pub use images::Images;
pub use input_grad::ConvInputGrad;
pub use weight_grad::ConvWeightGrad;
pub use weights::PackedConv;

#[cfg(test)]
mod tests;
