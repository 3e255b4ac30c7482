//! ShuffleNets for 32x32 images.

mod v1;
mod v2;

pub(crate) use v1::v1;
pub(crate) use v2::{Size, v2};

use dkd_engine::{GraphBuilder, ValueId};

/// Stem of both versions: a 1x1 convolution to 24 channels at the image's size, batch norm, ReLU. Taps `feats.0` and, as in the
/// reference, the same as `preact_feats.0`.
fn stem(b: &mut GraphBuilder) -> ValueId {
    let x = b.conv2d(b.input(), dkd_engine::Conv2d::new("conv1", 24, 1));
    let x = b.batch_norm(x, "bn1");
    let x = b.relu(x);
    b.tap("feats.0", x);
    b.tap("preact_feats.0", x);
    x
}
