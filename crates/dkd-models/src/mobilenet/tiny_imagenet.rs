//! The form for 64x64 images of the Tiny-ImageNet experiments: full width, ReLU6, convolutions with bias.

use crate::{ModelOptions, Result};
use dkd_engine::{Conv2d, Graph, GraphBuilder, ValueId};

/// Expansion, channels, units and first stride of each stage.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
];

/// Seven stages of inverted residuals. The stem is a 1x1 convolution with padding 1, so that the map is two pixels larger than the
/// image; the classifier is a 1x1 convolution. Images of any size.
///
/// Taps: `feats.0` is the stem, `feats.1..3` the stages 2 to 4, `feats.4` the last convolution after its ReLU6; `pooled_feat` is the
/// classifier's input. There are no `preact_feats`, as in the reference.
pub(crate) fn tiny_imagenet(o: &ModelOptions) -> Result<Graph> {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = b.conv2d(b.input(), Conv2d::new("pre.0", 32, 1).padding(1).bias());
    let x = b.batch_norm(x, "pre.1");
    let mut x = b.relu6(x);
    b.tap("feats.0", x);
    for (stage, (expansion, channels, units, stride)) in (1..).zip(STAGES) {
        for i in 0..units {
            // A stage of one unit is that unit in the reference, not a list of one.
            let name = if units == 1 { format!("stage{stage}") } else { format!("stage{stage}.{i}") };
            let stride = if i == 0 { stride } else { 1 };
            x = unit(&mut b, x, &format!("{name}.residual"), expansion, channels, stride);
        }
        if (2..=4).contains(&stage) {
            b.tap(format!("feats.{}", stage - 1), x);
        }
    }
    let x = b.conv2d(x, Conv2d::new("conv1.0", 1280, 1).bias());
    let x = b.batch_norm(x, "conv1.1");
    let x = b.relu6(x);
    b.tap("feats.4", x);
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.conv2d(x, Conv2d::new("conv2", o.num_classes, 1).bias());
    let x = b.flatten(x);
    Ok(b.build(x)?)
}

/// 1x1 to more channels, 3x3 channel by channel, 1x1 to few, each with batch norm; the input is added where the shape stays. Layers are
/// counted as PyTorch counts them: convolution, batch norm, ReLU6.
fn unit(
    b: &mut GraphBuilder,
    x: ValueId,
    name: &str,
    expansion: usize,
    channels: usize,
    stride: usize,
) -> ValueId {
    let inputs = b.shape(x).channels();
    let wide = inputs * expansion;
    let y = b.conv2d(x, Conv2d::new(format!("{name}.0"), wide, 1).bias());
    let y = b.batch_norm(y, format!("{name}.1"));
    let y = b.relu6(y);
    let depthwise = Conv2d::new(format!("{name}.3"), wide, 3).stride(stride).padding(1).groups(wide).bias();
    let y = b.conv2d(y, depthwise);
    let y = b.batch_norm(y, format!("{name}.4"));
    let y = b.relu6(y);
    let y = b.conv2d(y, Conv2d::new(format!("{name}.6"), channels, 1).bias());
    let y = b.batch_norm(y, format!("{name}.7"));
    if stride == 1 && inputs == channels { b.add(x, y) } else { y }
}
