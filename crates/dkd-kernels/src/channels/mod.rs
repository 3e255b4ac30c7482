//! Channels in another order: concatenation, slices, shuffles and padding of channels are all one operation, and so is
//! the gradient of each.

mod gather;
mod lanes;
#[cfg(test)]
mod tests;

pub use gather::{ChannelAffine, ChannelMap, MAX_SOURCES};
