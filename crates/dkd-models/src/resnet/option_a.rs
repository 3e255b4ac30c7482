//! The residual networks for CIFAR-10 of the paper itself (He et al., CVPR 2016, section 4.2): where a stage changes the shape,
//! the shortcut takes every second pixel and fills the new channels with zeros ("option A"), half before and half after. In
//! names and initialisation as the widely used weights of akamaster's `pytorch_resnet_cifar10` have them.

use super::block::{basic, join, stem};
use crate::{ModelOptions, Result};
use dkd_engine::{Graph, GraphBuilder, Init, Linear, Pool, ValueId};

/// A network of `depth` = 6n + 2 layers, n blocks in each of three stages of 16, 32 and 64 channels. Images of any size.
///
/// Taps as those of the networks with projection shortcuts.
pub(crate) fn option_a(o: &ModelOptions, depth: usize) -> Result<Graph> {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = stem(&mut b, 16);
    let blocks = (depth - 2) / 6;
    for stage in 1..=3 {
        let channels = 8 << stage;
        for i in 0..blocks {
            let stride = if stage > 1 && i == 0 { 2 } else { 1 };
            let branch = basic(&mut b, x, &format!("layer{stage}.{i}"), channels, stride);
            let shortcut = shortcut(&mut b, x, channels, stride);
            x = join(&mut b, branch, shortcut, stage, i + 1 == blocks);
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let spread = (2.0 / b.shape(x).elements() as f32).sqrt();
    let x = b.linear(x, Linear::new("linear", o.num_classes).init(Init::Normal(spread)));
    Ok(b.build(x)?)
}

/// The input itself, or every second pixel of it between channels of zeros.
fn shortcut(b: &mut GraphBuilder, x: ValueId, channels: usize, stride: usize) -> ValueId {
    let missing = channels - b.shape(x).channels();
    if stride == 1 && missing == 0 {
        return x;
    }
    let s = b.avg_pool(x, Pool::new(1).stride(stride));
    b.pad_channels(s, missing / 2, missing - missing / 2)
}
