//! VGG networks with batch norm for small images (Simonyan, Zisserman: *Very deep convolutional networks for large-scale image
//! recognition*, ICLR 2015), with one linear layer in the place of three, as the distillation literature has them.

use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Init, Linear, Pool};

/// Channels of the five blocks.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// Height at which the map is halved once more, between the last two blocks.
const TALL: usize = 64;

/// Five blocks of `convs` 3x3 convolutions with bias, batch norm and ReLU; the map is halved after each of the first three, and for
/// images of 64 rows after the fourth too. Images of any size from 8x8 on.
///
/// Taps: `feats.0..4` are the blocks after their last ReLU and before pooling; `preact_feats.1..4` are they before that ReLU, and
/// `preact_feats.0` equals `feats.0`; `pooled_feat` is the classifier's input.
pub(crate) fn vgg(o: &ModelOptions, name: &str, convs: [usize; 5]) -> Result<Graph> {
    sizes::at_least(o, name, 8)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = b.input();
    for (block, (channels, convs)) in CHANNELS.into_iter().zip(convs).enumerate() {
        if (1..=3).contains(&block) || (block == 4 && o.image.1 == TALL) {
            x = b.max_pool(x, Pool::new(2));
        }
        for i in 0..convs {
            // Layers are counted as PyTorch counts them: convolution, batch norm, ReLU.
            let conv = Conv2d::new(format!("block{block}.{}", 3 * i), channels, 3).padding(1).bias();
            let y = b.conv2d(x, conv.init(Init::KaimingFanOut).init_bias(Init::Constant(0.0)));
            let y = b.batch_norm(y, format!("block{block}.{}", 3 * i + 1));
            x = b.relu(y);
            if i + 1 == convs {
                b.tap(format!("feats.{block}"), x);
                b.tap(format!("preact_feats.{block}"), if block == 0 { x } else { y });
            }
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let classifier = Linear::new("classifier", o.num_classes).init(Init::Normal(0.01));
    let x = b.linear(x, classifier.init_bias(Init::Constant(0.0)));
    Ok(b.build(x)?)
}
