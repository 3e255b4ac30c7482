//! torchvision's `resnet50`: the residual network as it is used on ImageNet, with a strided stem and max pooling.

use super::block::{bottleneck, conv, join, projection};
use crate::{ModelOptions, Result};
use dkd_engine::{Graph, GraphBuilder, Linear, Pool};

/// Blocks of each stage.
const BLOCKS: [usize; 4] = [3, 4, 6, 3];

/// A 7x7 stem and a pooling that quarter the image, then four stages of bottlenecks, of which all but the first halve the map. Images
/// of any size; one of 32x32 is a single pixel after the last stage.
///
/// Taps: `feats.0` is the stem after its ReLU, before the pooling, and `feats.1..4` the stages; `preact_feats.1..4` are the last sums of the
/// stages before their ReLU, and `preact_feats.0` equals `feats.0`; `pooled_feat` is the classifier's input.
pub(crate) fn torchvision(o: &ModelOptions) -> Result<Graph> {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = b.conv2d(b.input(), conv("conv1", 64, 7, 2));
    let x = b.batch_norm(x, "bn1");
    let x = b.relu(x);
    b.tap("feats.0", x);
    b.tap("preact_feats.0", x);
    let mut x = b.max_pool(x, Pool::new(3).stride(2).padding(1));
    for (stage, count) in BLOCKS.into_iter().enumerate() {
        let channels = 64 << stage;
        for i in 0..count {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            let block = format!("layer{}.{i}", stage + 1);
            let branch = bottleneck(&mut b, x, &block, channels, stride);
            let shortcut = projection(&mut b, x, &format!("{block}.downsample"), 4 * channels, stride);
            x = join(&mut b, branch, shortcut, stage + 1, i + 1 == count);
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("fc", o.num_classes));
    Ok(b.build(x)?)
}
