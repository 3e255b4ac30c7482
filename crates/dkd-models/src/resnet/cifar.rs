//! Residual networks for 32x32 images (He, Zhang, Ren, Sun: *Deep residual learning for image recognition*, CVPR 2016,
//! section 4.2), in the form the distillation literature uses: projection shortcuts, and a four times wider variant.

use super::block::{basic, join, projection, stem};
use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Graph, GraphBuilder, Linear};

/// Channels of the stem and the three stages.
#[derive(Clone, Copy)]
pub(crate) enum Width {
    /// 16, 16, 32, 64.
    Narrow,
    /// 32, 64, 128, 256: the `x4` networks.
    Wide,
}

/// A network of `depth` = 6n + 2 layers, n blocks in each of three stages.
///
/// Taps: `feats.0` is the stem after its ReLU and `feats.1..3` the stages; `preact_feats.1..3` are the last sums of the
/// stages before their ReLU, and `preact_feats.0` equals `feats.0`, as in the reference; `pooled_feat` is the
/// classifier's input.
pub(crate) fn resnet(o: &ModelOptions, name: &str, depth: usize, width: Width) -> Result<Graph> {
    let channels = match width {
        Width::Narrow => [16, 16, 32, 64],
        Width::Wide => [32, 64, 128, 256],
    };
    sizes::last_map(o, name, 4, 8)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = stem(&mut b, channels[0]);
    let blocks = (depth - 2) / 6;
    for (stage, channels) in channels.into_iter().enumerate().skip(1) {
        for i in 0..blocks {
            let stride = if stage > 1 && i == 0 { 2 } else { 1 };
            let block = format!("layer{stage}.{i}");
            let branch = basic(&mut b, x, &block, channels, stride);
            let shortcut = projection(&mut b, x, &format!("{block}.downsample"), channels, stride);
            x = join(&mut b, branch, shortcut, stage, i + 1 == blocks);
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("fc", o.num_classes));
    Ok(b.build(x)?)
}
