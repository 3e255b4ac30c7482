//! ShuffleNets, in which gathers of channels are folded into normalisations: what they compute, and what they move.

use super::*;
use crate::{Conv2d, Linear, Pool, ValueId};

/// A convolution with its batch norm, and with its ReLU if that is asked for.
fn layer(b: &mut GraphBuilder, x: ValueId, conv: Conv2d, relu: bool) -> ValueId {
    let name = format!("{}.bn", conv.name);
    let y = b.conv2d(x, conv);
    let y = b.batch_norm(y, name);
    if relu { b.relu(y) } else { y }
}

fn depthwise(name: String, channels: usize, stride: usize) -> Conv2d {
    Conv2d::new(name, channels, 3).padding(1).stride(stride).groups(channels)
}

fn head(mut b: GraphBuilder, x: ValueId) -> Graph {
    let x = b.global_avg_pool(x);
    let x = b.linear(x, Linear::new("linear", 10));
    b.build(x).unwrap()
}

/// `dkd-models`' ShuffleNet of these channels and units.
pub(super) fn v1<const N: usize>(image: (usize, usize, usize), stages: [(usize, usize); N]) -> Graph {
    let mut b = GraphBuilder::new(image.0, image.1, image.2);
    let x = b.input();
    let mut x = layer(&mut b, x, Conv2d::new("stem", 24, 1), true);
    for (stage, (channels, units)) in stages.into_iter().enumerate() {
        for i in 0..units {
            let name = |part: &str| format!("{stage}.{i}.{part}");
            let inputs = b.shape(x).channels();
            let branch = if i == 0 { channels - inputs } else { channels };
            let (middle, groups) = (branch / 4, if inputs == 24 { 1 } else { 3 });
            let mut y = layer(&mut b, x, Conv2d::new(name("a"), middle, 1).groups(groups), true);
            if groups > 1 {
                y = b.channel_shuffle(y, groups);
            }
            let y = layer(&mut b, y, depthwise(name("b"), middle, if i == 0 { 2 } else { 1 }), true);
            let y = layer(&mut b, y, Conv2d::new(name("c"), branch, 1).groups(3), false);
            let sum = if i == 0 {
                let shortcut = b.avg_pool(x, Pool::new(3).stride(2).padding(1));
                b.concat(&[y, shortcut])
            } else {
                b.add(y, x)
            };
            x = b.relu(sum);
        }
    }
    head(b, x)
}

/// `dkd-models`' ShuffleNetV2 of these channels and units beside the first, and of so many channels in the last convolution.
pub(super) fn v2<const N: usize>(
    image: (usize, usize, usize),
    stages: [(usize, usize); N],
    last: usize,
) -> Graph {
    let mut b = GraphBuilder::new(image.0, image.1, image.2);
    let x = b.input();
    let mut x = layer(&mut b, x, Conv2d::new("stem", 24, 1), true);
    for (stage, (channels, units)) in stages.into_iter().enumerate() {
        for i in 0..=units {
            let name = |part: &str| format!("{stage}.{i}.{part}");
            let half = channels / 2;
            let (left, right) = if i == 0 {
                let inputs = b.shape(x).channels();
                let left = layer(&mut b, x, depthwise(name("l"), inputs, 2), false);
                (layer(&mut b, left, Conv2d::new(name("m"), half, 1), true), x)
            } else {
                b.split_channels(x, half)
            };
            let y = layer(&mut b, right, Conv2d::new(name("a"), half, 1), true);
            let y = layer(&mut b, y, depthwise(name("b"), half, if i == 0 { 2 } else { 1 }), false);
            let y = layer(&mut b, y, Conv2d::new(name("c"), half, 1), true);
            let all = b.concat(&[left, y]);
            x = b.channel_shuffle(all, 2);
        }
    }
    let x = layer(&mut b, x, Conv2d::new("last", last, 1), true);
    head(b, x)
}

#[test]
fn folding_changes_no_bit_of_outputs() {
    for (name, graph) in graphs() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            for machine in machines().into_iter().take(1) {
                let [folded, stored] = [Gathers::Folded, Gathers::Stored].map(|gathers| {
                    let mut s = session_with(&graph, &machine, arithmetic, gathers);
                    let x = images(5, &graph, 4);
                    s.forward(&x, Mode::Train, KEY).unwrap();
                    let (mut all, loss) = seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap());
                    s.backward(&loss.backward().unwrap()).unwrap();
                    let gradients = s.read_gradients().unwrap();
                    s.forward(&x, Mode::Eval, KEY).unwrap();
                    all.extend(seen(&graph, s.logits().unwrap(), |t| s.tap(t).unwrap()).0);
                    (all, gradients)
                });
                assert_eq!(folded.0, stored.0, "{name}, {arithmetic:?}");
                // Sums over a batch are formed in another order.
                let far = distance(&folded.1, &stored.1);
                let bound = if arithmetic == Arithmetic::F32 { 1e-5 } else { 1e-2 };
                assert!(far <= bound, "{name}, {arithmetic:?}: gradients are off by {far}");
            }
        }
    }
}
