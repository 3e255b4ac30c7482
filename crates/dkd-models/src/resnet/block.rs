//! What residual networks are made of.

use dkd_engine::{Conv2d, GraphBuilder, Init, ValueId};

/// A convolution without bias that keeps the size at stride 1, initialised as He et al. do, by its outputs.
pub(super) fn conv(name: impl Into<String>, channels: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d::new(name, channels, kernel).stride(stride).padding(kernel / 2).init(Init::KaimingFanOut)
}

/// Convolution, batch norm, ReLU: the stem. Taps `feats.0` and, as in the reference, the same as `preact_feats.0`.
pub(super) fn stem(b: &mut GraphBuilder, channels: usize) -> ValueId {
    let x = b.conv2d(b.input(), conv("conv1", channels, 3, 1));
    let x = b.batch_norm(x, "bn1");
    let x = b.relu(x);
    b.tap("feats.0", x);
    b.tap("preact_feats.0", x);
    x
}

/// Two 3x3 convolutions with batch norms, the last without ReLU.
pub(super) fn basic(b: &mut GraphBuilder, x: ValueId, name: &str, channels: usize, stride: usize) -> ValueId {
    let y = b.conv2d(x, conv(format!("{name}.conv1"), channels, 3, stride));
    let y = b.batch_norm(y, format!("{name}.bn1"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.conv2"), channels, 3, 1));
    b.batch_norm(y, format!("{name}.bn2"))
}

/// 1x1, 3x3 and 1x1 convolutions with batch norms to `4 * channels`, the last without ReLU.
pub(super) fn bottleneck(
    b: &mut GraphBuilder,
    x: ValueId,
    name: &str,
    channels: usize,
    stride: usize,
) -> ValueId {
    let y = b.conv2d(x, conv(format!("{name}.conv1"), channels, 1, 1));
    let y = b.batch_norm(y, format!("{name}.bn1"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.conv2"), channels, 3, stride));
    let y = b.batch_norm(y, format!("{name}.bn2"));
    let y = b.relu(y);
    let y = b.conv2d(y, conv(format!("{name}.conv3"), 4 * channels, 1, 1));
    b.batch_norm(y, format!("{name}.bn3"))
}

/// The identity where the shape stays, else a 1x1 convolution with batch norm called `name.0` and `name.1`.
pub(super) fn projection(
    b: &mut GraphBuilder,
    x: ValueId,
    name: &str,
    channels: usize,
    stride: usize,
) -> ValueId {
    if stride == 1 && b.shape(x).channels() == channels {
        return x;
    }
    let s = b.conv2d(x, conv(format!("{name}.0"), channels, 1, stride));
    b.batch_norm(s, format!("{name}.1"))
}

/// Adds a block's branch and shortcut, and the ReLU; the last block of a stage has the stage's taps.
pub(super) fn join(
    b: &mut GraphBuilder,
    branch: ValueId,
    shortcut: ValueId,
    stage: usize,
    last: bool,
) -> ValueId {
    let sum = b.add(branch, shortcut);
    let x = b.relu(sum);
    if last {
        b.tap(format!("feats.{stage}"), x);
        b.tap(format!("preact_feats.{stage}"), sum);
    }
    x
}
