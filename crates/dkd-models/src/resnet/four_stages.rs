//! The residual networks of ImageNet's size with a stem for small images: a 3x3 convolution without pooling (He et al.,
//! CVPR 2016, table 1; in the distillation literature `ResNet18` and `ResNet50`).

use super::block::{basic, bottleneck, join, projection, stem};
use crate::{ModelOptions, Result};
use dkd_engine::{Graph, GraphBuilder, Linear};

/// How many blocks a stage has, and which.
#[derive(Clone, Copy)]
pub(crate) enum Blocks {
    /// Two 3x3 convolutions each.
    Basic([usize; 4]),
    /// 1x1, 3x3 and 1x1 convolutions each, to four times the channels.
    Bottleneck([usize; 4]),
}

/// Four stages of 64 to 512 channels (times 4 with bottlenecks); all but the first halve the map. Images of any size.
///
/// Taps: `feats.0` is the stem after its ReLU and `feats.1..4` the stages; `preact_feats.1..4` are the last sums of the
/// stages before their ReLU, and `preact_feats.0` equals `feats.0`; `pooled_feat` is the classifier's input.
pub(crate) fn four_stages(o: &ModelOptions, blocks: Blocks) -> Result<Graph> {
    let (counts, expansion) = match blocks {
        Blocks::Basic(counts) => (counts, 1),
        Blocks::Bottleneck(counts) => (counts, 4),
    };
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = stem(&mut b, 64);
    for (stage, count) in counts.into_iter().enumerate() {
        let channels = 64 << stage;
        for i in 0..count {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            let block = format!("layer{}.{i}", stage + 1);
            let branch = match blocks {
                Blocks::Basic(_) => basic(&mut b, x, &block, channels, stride),
                Blocks::Bottleneck(_) => bottleneck(&mut b, x, &block, channels, stride),
            };
            let shortcut = projection(&mut b, x, &format!("{block}.shortcut"), expansion * channels, stride);
            x = join(&mut b, branch, shortcut, stage + 1, i + 1 == count);
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("linear", o.num_classes));
    Ok(b.build(x)?)
}
