//! Convolution in groups: every group of output channels reads its own group of input channels only.
//!
//! Depthwise convolution (one input and one output channel per group) runs over vectors of channels. Any other number
//! of groups is a dense convolution in bands.

mod banded;
mod conv;
mod depthwise;

pub use conv::GroupedConv;

#[cfg(test)]
mod tests;
