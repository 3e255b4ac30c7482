//! The form for 32x32 images: width 0.5, expansion 6, ReLU.

use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Init, Linear, ValueId};

/// Expansion, channels at full width, units and first stride of each stage.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Stages with a tap, after the stem's `feats.0`.
const TAPPED: [usize; 4] = [1, 2, 4, 6];

/// Seven stages of inverted residuals between a strided stem and a 1x1 convolution. Height and width are multiples of 32.
///
/// Taps: `feats.0` is the stem and `feats.1..4` the stages 1, 2, 4 and 6, which are linear; `pooled_feat` is the classifier's
/// input. There are no `preact_feats`, as in the reference.
pub(crate) fn half(o: &ModelOptions, name: &str) -> Result<Graph> {
    sizes::multiple_of(o, name, 32)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = b.conv2d(b.input(), conv("conv1.0", 16, 3, 2));
    let x = b.batch_norm(x, "conv1.1");
    let mut x = b.relu(x);
    b.tap("feats.0", x);
    for (stage, (expansion, channels, units, stride)) in STAGES.into_iter().enumerate() {
        for i in 0..units {
            let stride = if i == 0 { stride } else { 1 };
            x = unit(&mut b, x, &format!("blocks.{stage}.{i}.conv"), expansion, channels / 2, stride);
        }
        if let Some(tap) = TAPPED.iter().position(|s| *s == stage) {
            b.tap(format!("feats.{}", tap + 1), x);
        }
    }
    let x = b.conv2d(x, conv("conv2.0", 1280, 1, 1));
    let x = b.batch_norm(x, "conv2.1");
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let classifier = Linear::new("classifier.0", o.num_classes).init(Init::Normal(0.01));
    let x = b.linear(x, classifier.init_bias(Init::Constant(0.0)));
    Ok(b.build(x)?)
}

/// 1x1 to more channels, 3x3 channel by channel, 1x1 to few, each with batch norm; the input is added where the shape stays. Layers are
/// counted as PyTorch counts them: convolution, batch norm, ReLU.
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
    let y = b.conv2d(x, conv(format!("{name}.0"), wide, 1, 1));
    let y = b.batch_norm(y, format!("{name}.1"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.3"), wide, 3, stride).groups(wide));
    let y = b.batch_norm(y, format!("{name}.4"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.6"), channels, 1, 1));
    let y = b.batch_norm(y, format!("{name}.7"));
    if stride == 1 && inputs == channels { b.add(x, y) } else { y }
}

/// A convolution without bias that keeps the size at stride 1, initialised as He et al. do, by its outputs.
pub(super) fn conv(name: impl Into<String>, channels: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d::new(name, channels, kernel).stride(stride).padding(kernel / 2).init(Init::KaimingFanOut)
}
