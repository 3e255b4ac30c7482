//! ShuffleNetV2 (Ma, Zhang, Zheng, Sun: *ShuffleNet V2: practical guidelines for efficient CNN architecture design*, ECCV 2018).

use super::stem;
use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear, ValueId};

/// Channels of the three stages and of the last convolution, and units of the stages beside the one that halves the map.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub channels: [usize; 4],
    pub units: [usize; 3],
}

/// Three stages whose first units halve the map, and a 1x1 convolution.
///
/// Taps: `feats.0` is the stem after its ReLU and `feats.1..3` the stages; `preact_feats.1..3` are the stages' last units before the
/// ReLU of their branch and before the shuffle, so in another order of channels than `feats`, as in the reference, and `preact_feats.0`
/// equals `feats.0`; `pooled_feat` is the classifier's input.
pub(crate) fn v2(o: &ModelOptions, name: &str, size: Size) -> Result<Graph> {
    sizes::last_map(o, name, 8, 4)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = stem(&mut b);
    for (stage, (channels, units)) in (1..).zip(size.channels.into_iter().zip(size.units)) {
        x = halving(&mut b, x, &format!("layer{stage}.0"), channels);
        for i in 1..=units {
            let tap = (i == units).then(|| format!("preact_feats.{stage}"));
            x = basic(&mut b, x, &format!("layer{stage}.{i}"), tap);
        }
        b.tap(format!("feats.{stage}"), x);
    }
    let x = pointwise(&mut b, x, ("conv2", "bn2"), size.channels[3]);
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("linear", o.num_classes));
    Ok(b.build(x)?)
}

/// Two branches of half the channels each, both of which halve the map.
fn halving(b: &mut GraphBuilder, x: ValueId, name: &str, channels: usize) -> ValueId {
    let layer = |kind: &str, i: usize| format!("{name}.{kind}{i}");
    let left = depthwise(b, x, (&layer("conv", 1), &layer("bn", 1)), 2);
    let left = pointwise(b, left, (&layer("conv", 2), &layer("bn", 2)), channels / 2);
    let left = b.relu(left);
    let right = pointwise(b, x, (&layer("conv", 3), &layer("bn", 3)), channels / 2);
    let right = b.relu(right);
    let right = depthwise(b, right, (&layer("conv", 4), &layer("bn", 4)), 2);
    let right = pointwise(b, right, (&layer("conv", 5), &layer("bn", 5)), channels / 2);
    let right = b.relu(right);
    let x = b.concat(&[left, right]);
    b.channel_shuffle(x, 2)
}

/// One half of the channels as it is, the other through three convolutions.
fn basic(b: &mut GraphBuilder, x: ValueId, name: &str, tap: Option<String>) -> ValueId {
    let layer = |kind: &str, i: usize| format!("{name}.{kind}{i}");
    let half = b.shape(x).channels() / 2;
    let (left, right) = b.split_channels(x, half);
    let y = pointwise(b, right, (&layer("conv", 1), &layer("bn", 1)), half);
    let y = b.relu(y);
    let y = depthwise(b, y, (&layer("conv", 2), &layer("bn", 2)), 1);
    let y = pointwise(b, y, (&layer("conv", 3), &layer("bn", 3)), half);
    if let Some(tap) = tap {
        let before = b.concat(&[left, y]);
        b.tap(tap, before);
    }
    let y = b.relu(y);
    let x = b.concat(&[left, y]);
    b.channel_shuffle(x, 2)
}

fn pointwise(b: &mut GraphBuilder, x: ValueId, (conv, bn): (&str, &str), channels: usize) -> ValueId {
    let y = b.conv2d(x, Conv2d::new(conv, channels, 1));
    b.batch_norm(y, bn)
}

fn depthwise(b: &mut GraphBuilder, x: ValueId, (conv, bn): (&str, &str), stride: usize) -> ValueId {
    let channels = b.shape(x).channels();
    let y = b.conv2d(x, Conv2d::new(conv, channels, 3).stride(stride).padding(1).groups(channels));
    b.batch_norm(y, bn)
}
