//! Wide residual networks (Zagoruyko, Komodakis: *Wide residual networks*, BMVC 2016).

use crate::{ModelOptions, Result, sizes};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Init, Linear, ValueId};

/// A network of `depth` = 6n + 4 layers, n units in each of three blocks of `16 * widen`, `32 * widen` and `64 * widen`
/// channels. Batch norm and ReLU come before the convolutions; dropout between the two of a unit, off unless it is asked for.
///
/// Taps: `feats.0` is the stem's convolution and `feats.1..3` the blocks' sums, all without ReLU; `preact_feats.i` for the blocks
/// is what the next batch norm makes of that sum, and `preact_feats.0` equals `feats.0`; `pooled_feat` is the classifier's input.
/// The reference computes these batch norms a second time for its taps, which moves their running statistics twice in a step;
/// here they are computed once.
pub(crate) fn wrn(o: &ModelOptions, name: &str, depth: usize, widen: usize) -> Result<Graph> {
    sizes::last_map(o, name, 4, 8)?;
    let units = (depth - 4) / 6;
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let mut x = b.conv2d(b.input(), conv("conv1", 16, 3, 1));
    b.tap("feats.0", x);
    b.tap("preact_feats.0", x);
    for block in 1..=3 {
        for i in 0..units {
            let stride = if block > 1 && i == 0 { 2 } else { 1 };
            let before = (block > 1 && i == 0).then(|| format!("preact_feats.{}", block - 1));
            let name = format!("block{block}.layer.{i}");
            x = unit(&mut b, x, &name, (8 * widen) << block, stride, before, o.dropout.unwrap_or(0.0));
        }
        b.tap(format!("feats.{block}"), x);
    }
    let x = b.batch_norm(x, "bn1");
    b.tap("preact_feats.3", x);
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("fc", o.num_classes).init_bias(Init::Constant(0.0)));
    Ok(b.build(x)?)
}

/// Batch norm, ReLU and convolution, twice, plus the shortcut. `tap` names the first batch norm's output.
fn unit(
    b: &mut GraphBuilder,
    x: ValueId,
    name: &str,
    channels: usize,
    stride: usize,
    tap: Option<String>,
    dropout: f32,
) -> ValueId {
    let a = b.batch_norm(x, format!("{name}.bn1"));
    if let Some(tap) = tap {
        b.tap(tap, a);
    }
    let a = b.relu(a);
    let y = b.conv2d(a, conv(format!("{name}.conv1"), channels, 3, stride));
    let y = b.batch_norm(y, format!("{name}.bn2"));
    let mut y = b.relu(y);
    if dropout > 0.0 {
        y = b.dropout(y, format!("{name}.dropout"), dropout);
    }
    let y = b.conv2d(y, conv(format!("{name}.conv2"), channels, 3, 1));
    // The projection starts from the activated value.
    let shortcut = if b.shape(x).channels() == channels {
        x
    } else {
        b.conv2d(a, conv(format!("{name}.convShortcut"), channels, 1, stride))
    };
    b.add(shortcut, y)
}

fn conv(name: impl Into<String>, channels: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d::new(name, channels, kernel).stride(stride).padding(kernel / 2).init(Init::KaimingFanOut)
}
