//! Losses on feature maps, and what they share.

mod stages;

pub(crate) use stages::{Pair, pairs, stage};
