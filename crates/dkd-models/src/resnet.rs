//! Residual networks for 32x32 images (He, Zhang, Ren, Sun: *Deep residual learning for image recognition*, CVPR 2016,
//! section 4.2), in the form the distillation literature uses: projection shortcuts, and a four times wider variant.

use crate::{Error, ModelOptions, Result};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Init, Linear, ValueId};

/// Side of the last feature map, which the average pooling covers.
const LAST_MAP: usize = 8;

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
    check_size(o, name)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = b.conv2d(b.input(), conv("conv1", channels[0], 3, 1));
    let x = b.batch_norm(x, "bn1");
    let mut x = b.relu(x);
    b.tap("feats.0", x);
    b.tap("preact_feats.0", x);
    let blocks = (depth - 2) / 6;
    for (stage, channels) in channels.into_iter().enumerate().skip(1) {
        for i in 0..blocks {
            let stride = if stage > 1 && i == 0 { 2 } else { 1 };
            let sum = block(&mut b, x, &format!("layer{stage}.{i}"), channels, stride);
            x = b.relu(sum);
            if i + 1 == blocks {
                b.tap(format!("feats.{stage}"), x);
                b.tap(format!("preact_feats.{stage}"), sum);
            }
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("fc", o.num_classes));
    Ok(b.build(x)?)
}

/// Two convolutions plus the shortcut, without the ReLU that follows.
fn block(b: &mut GraphBuilder, x: ValueId, name: &str, channels: usize, stride: usize) -> ValueId {
    let y = b.conv2d(x, conv(format!("{name}.conv1"), channels, 3, stride));
    let y = b.batch_norm(y, format!("{name}.bn1"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.conv2"), channels, 3, 1));
    let y = b.batch_norm(y, format!("{name}.bn2"));
    let shortcut = if stride == 1 && b.shape(x).channels() == channels {
        x
    } else {
        let s = b.conv2d(x, conv(format!("{name}.downsample.0"), channels, 1, stride));
        b.batch_norm(s, format!("{name}.downsample.1"))
    };
    b.add(y, shortcut)
}

fn conv(name: impl Into<String>, channels: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d::new(name, channels, kernel).stride(stride).padding(kernel / 2).init(Init::KaimingFanOut)
}

/// The head averages an 8x8 map and nothing else: two strides of 2 must lead there.
fn check_size(o: &ModelOptions, name: &str) -> Result<()> {
    let (_, height, width) = o.image;
    let fits = |n: usize| n.div_ceil(4) == LAST_MAP;
    if fits(height) && fits(width) {
        return Ok(());
    }
    Err(Error::ImageSize {
        model: name.to_owned(),
        height,
        width,
        allowed: format!(
            "its last feature map must be {LAST_MAP}x{LAST_MAP}, so height and width are from {} to {} (usually 32x32)",
            4 * LAST_MAP - 3,
            4 * LAST_MAP
        ),
    })
}
