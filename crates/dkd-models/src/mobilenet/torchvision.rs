//! torchvision's `mobilenet_v2`: full width, ReLU6, as it is used on ImageNet.

use super::half::conv;
use crate::{ModelOptions, Result};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Init, Linear, ValueId};

/// Expansion, channels, units and first stride of each stage.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Stages with a tap, after the stem's `feats.0`: the last one of each size of the map.
const TAPPED: [usize; 4] = [1, 2, 4, 6];

/// Of the classifier's input.
const DROPOUT: f32 = 0.2;

/// A strided stem, seven stages of inverted residuals and a 1x1 convolution. Images of any size; one of 32x32 is a single pixel at the
/// end.
///
/// Taps: `feats.0` is the stem and `feats.1..4` the stages 1, 2, 4 and 6, which are linear; `pooled_feat` is the classifier's input before
/// its dropout. There are no `preact_feats`.
pub(crate) fn torchvision(o: &ModelOptions) -> Result<Graph> {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = b.input();
    x = layer(&mut b, x, "features.0", conv("", 32, 3, 2));
    b.tap("feats.0", x);
    let mut number = 1;
    for (stage, (expansion, channels, units, stride)) in STAGES.into_iter().enumerate() {
        for i in 0..units {
            let stride = if i == 0 { stride } else { 1 };
            x = unit(&mut b, x, &format!("features.{number}.conv"), expansion, channels, stride);
            number += 1;
        }
        if let Some(tap) = TAPPED.iter().position(|s| *s == stage) {
            b.tap(format!("feats.{}", tap + 1), x);
        }
    }
    let x = layer(&mut b, x, &format!("features.{number}"), conv("", 1280, 1, 1));
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.dropout(x, "classifier.0", o.dropout.unwrap_or(DROPOUT));
    let classifier = Linear::new("classifier.1", o.num_classes).init(Init::Normal(0.01));
    let x = b.linear(x, classifier.init_bias(Init::Constant(0.0)));
    Ok(b.build(x)?)
}

/// 1x1 to more channels (unless there are no more), 3x3 channel by channel, 1x1 to few, each with batch norm; the input is added where
/// the shape stays.
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
    let (mut y, mut number) = (x, 0);
    if expansion > 1 {
        y = layer(b, y, &format!("{name}.{number}"), conv("", wide, 1, 1));
        number += 1;
    }
    y = layer(b, y, &format!("{name}.{number}"), conv("", wide, 3, stride).groups(wide));
    let y = b.conv2d(y, conv(format!("{name}.{}", number + 1), channels, 1, 1));
    let y = b.batch_norm(y, format!("{name}.{}", number + 2));
    if stride == 1 && inputs == channels { b.add(x, y) } else { y }
}

/// Convolution, batch norm, ReLU6: `name.0` and `name.1`.
fn layer(b: &mut GraphBuilder, x: ValueId, name: &str, conv: Conv2d) -> ValueId {
    let x = b.conv2d(x, Conv2d { name: format!("{name}.0"), ..conv });
    let x = b.batch_norm(x, format!("{name}.1"));
    b.relu6(x)
}
