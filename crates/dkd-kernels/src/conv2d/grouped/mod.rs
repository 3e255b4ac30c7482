//! Convolution in groups: every group of output channels reads its own group of input channels only.
//!
//! Depthwise convolution (one input and one output channel per group) runs over vectors of channels. Any other number
//! of groups runs over vectors of one group's outputs; a group whose outputs are not whole vectors works on part of the
//! lanes.

mod conv;
mod depthwise;
mod general;
mod general_tiles;
mod pass;

pub use conv::GroupedConv;

#[cfg(test)]
mod tests;
