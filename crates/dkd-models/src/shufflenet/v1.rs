//! ShuffleNet (Zhang, Zhou, Lin, Sun: *ShuffleNet: an extremely efficient convolutional neural network for mobile devices*, CVPR 2018).

use super::stem;
use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear, Pool, ValueId};

/// Groups of the 1x1 convolutions.
const GROUPS: usize = 3;

/// Channels and units of the three stages.
const STAGES: [(usize, usize); 3] = [(240, 4), (480, 8), (960, 4)];

/// Three stages whose first units halve the map.
///
/// Taps: `feats.0` is the stem after its ReLU and `feats.1..3` the stages; `preact_feats.1..3` are the stages before their last
/// ReLU, and `preact_feats.0` equals `feats.0`; `pooled_feat` is the classifier's input.
pub(crate) fn v1(o: &ModelOptions, name: &str) -> Result<Graph> {
    sizes::last_map(o, name, 8, 4)?;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = stem(&mut b);
    for (stage, (channels, units)) in (1..).zip(STAGES) {
        for i in 0..units {
            let sum = unit(&mut b, x, &format!("layer{stage}.{i}"), channels, i == 0);
            x = b.relu(sum);
            if i + 1 == units {
                b.tap(format!("feats.{stage}"), x);
                b.tap(format!("preact_feats.{stage}"), sum);
            }
        }
    }
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("linear", o.num_classes));
    Ok(b.build(x)?)
}

/// 1x1 in groups, shuffle, 3x3 channel by channel, 1x1 in groups, each with batch norm. A unit that halves the map puts the averaged
/// input beside the branch, any other adds it; the ReLU that follows is not part of it.
fn unit(b: &mut GraphBuilder, x: ValueId, name: &str, channels: usize, halves: bool) -> ValueId {
    let inputs = b.shape(x).channels();
    let branch = if halves { channels - inputs } else { channels };
    let middle = branch / 4;
    // The stem's 24 channels are too few for groups.
    let groups = if inputs == 24 { 1 } else { GROUPS };
    let y = b.conv2d(x, Conv2d::new(format!("{name}.conv1"), middle, 1).groups(groups));
    let y = b.batch_norm(y, format!("{name}.bn1"));
    let y = b.relu(y);
    let y = if groups == 1 { y } else { b.channel_shuffle(y, groups) };
    let stride = if halves { 2 } else { 1 };
    let depthwise = Conv2d::new(format!("{name}.conv2"), middle, 3).stride(stride).padding(1).groups(middle);
    let y = b.conv2d(y, depthwise);
    let y = b.batch_norm(y, format!("{name}.bn2"));
    let y = b.relu(y);
    let y = b.conv2d(y, Conv2d::new(format!("{name}.conv3"), branch, 1).groups(GROUPS));
    let y = b.batch_norm(y, format!("{name}.bn3"));
    if halves {
        let shortcut = b.avg_pool(x, Pool::new(3).stride(2).padding(1));
        b.concat(&[y, shortcut])
    } else {
        b.add(y, x)
    }
}
