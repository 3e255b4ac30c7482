//! Networks with weights that no mistake of an export leaves unseen, images, and the engine's logits for them.

use candle_core::{Device, Tensor};
use dkd_engine::{
    Conv2d, DropoutKey, Graph, GraphBuilder, Linear, Mode, Pool, Precision, Session, SessionOptions, ValueId,
};
use dkd_kernels::Cpu;
use dkd_kernels::rng::{Purpose, Stream, hash_name};
use dkd_models::checkpoint::Normalization;
use dkd_models::onnx::{OnnxInput, OnnxOptions, to_onnx};
use dkd_models::{ModelOptions, build, names};
use std::collections::HashMap;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The network that has all operations in the shapes that no listed model has.
const OPERATIONS: &str = "operations";

/// Length of the logits.
const CLASSES: usize = 10;

/// Images that the running statistics come from.
const STATISTICS: usize = 8;

/// A network that computed something.
pub struct Sample {
    pub graph: Graph,
    /// Pixel values from 0 to 255.
    pub pixels: Tensor,
    /// The same, normalised.
    pub images: Tensor,
    /// The engine's answer to them in evaluation mode.
    pub logits: Tensor,
    options: OnnxOptions,
    pub weights: HashMap<String, Tensor>,
}

/// Every listed model and one more.
pub fn all() -> impl Iterator<Item = &'static str> {
    names().chain([OPERATIONS])
}

/// The network `name`.
pub fn graph(name: &str) -> Result<Graph> {
    let options = ModelOptions::new(CLASSES);
    match name {
        OPERATIONS => operations(),
        "tinyimagenet_MobileNetV2" => Ok(build(name, &options.image(3, 64, 64))?),
        _ => Ok(build(name, &options)?),
    }
}

impl Sample {
    /// Runs `count` images, at least as many as the statistics need.
    pub fn new(name: &str, count: usize) -> Result<Self> {
        let graph = graph(name)?;
        let normalization = Normalization { mean: vec![0.507, 0.487, 0.441], std: vec![0.267, 0.256, 0.276] };
        let (pixels, images) = images(&graph, count, &normalization)?;
        let weights = weights(&graph, &images.narrow(0, 0, STATISTICS)?)?;
        let mut net = session(&graph, count, false)?;
        net.load_state_dict(&weights)?;
        net.forward(&images, Mode::Eval, DropoutKey::default())?;
        let logits = net.logits()?.copy()?;
        let options = OnnxOptions {
            labels: (0..CLASSES).map(|i| format!("class {i}")).collect(),
            normalization: Some(normalization),
            ..OnnxOptions::new(name)
        };
        Ok(Self { graph, pixels, images, logits, options, weights })
    }

    /// The network as a file.
    pub fn onnx(&self, input: OnnxInput, fold_batch_norm: bool) -> Result<Vec<u8>> {
        let options = OnnxOptions { input, fold_batch_norm, ..self.options.clone() };
        Ok(to_onnx(&self.graph, &self.weights, &options)?)
    }
}

fn session(graph: &Graph, max_batch: usize, train: bool) -> Result<Session> {
    Ok(Session::new(
        graph.clone(),
        Cpu::new(2)?,
        SessionOptions { max_batch, train, taps: Vec::new(), precision: Precision::F32 },
    )?)
}

fn stream(name: &str) -> Stream {
    Stream::new(5, Purpose::Other, 0, hash_name(name))
}

/// Pixel values without any structure, and what training would make of them.
fn images(graph: &Graph, count: usize, n: &Normalization) -> Result<(Tensor, Tensor)> {
    let dims = graph.input_shape().dims();
    let area = dims[1] * dims[2];
    let random = stream("pixels");
    let pixels: Vec<f32> = (0..count * dims[0] * area).map(|i| random.below(i as u64, 256) as f32).collect();
    let normalized = pixels.iter().enumerate().map(|(i, v)| {
        let c = i / area % dims[0];
        ((f64::from(*v) / 255.0 - f64::from(n.mean[c])) / f64::from(n.std[c])) as f32
    });
    let shape = (count, dims[0], dims[1], dims[2]);
    let images = Tensor::from_vec(normalized.collect::<Vec<_>>(), shape, &Device::Cpu)?;
    Ok((Tensor::from_vec(pixels, shape, &Device::Cpu)?, images))
}

/// Initial weights with the running statistics of `images`, as one training step with momentum 0.1 tells them. Then everything that
/// a batch norm holds and every bias is moved, so that none is at its initial value, and values keep their size from layer to
/// layer all the same.
fn weights(graph: &Graph, images: &Tensor) -> Result<HashMap<String, Tensor>> {
    let mut net = session(graph, images.dim(0)?, true)?;
    net.init(3);
    net.forward(images, Mode::Train, DropoutKey::default())?;
    let mut moved = HashMap::new();
    for (name, tensor) in net.state_dict()? {
        if tensor.rank() > 1 {
            moved.insert(name, tensor);
            continue;
        }
        let random = stream(&name);
        let change = |(i, v): (usize, f32)| {
            let r = 2.0 * random.uniform(i as u64) - 1.0;
            match name.rsplit('.').next() {
                Some("running_mean") => 10.0 * v * (1.0 + 0.2 * r),
                Some("running_var") => (10.0 * (v - 0.9)).max(1e-3) * (1.0 + 0.25 * r),
                Some("weight") => v * (1.0 + 0.1 * r),
                _ => v + 0.1 * r,
            }
        };
        let values = tensor.to_vec1::<f32>()?.into_iter().enumerate().map(change);
        let moved_values = Tensor::from_vec(values.collect::<Vec<_>>(), tensor.shape(), &Device::Cpu)?;
        moved.insert(name, moved_values);
    }
    Ok(moved)
}

/// Oblong kernels, windows with padding in all ways of counting it, channels in another order, and all of this on vectors.
fn operations() -> Result<Graph> {
    let mut b = GraphBuilder::new(3, 13, 10);
    let oblong =
        Conv2d { kernel: (3, 5), stride: (2, 1), padding: (1, 2), ..Conv2d::new("oblong", 12, 3).bias() };
    let x = b.conv2d(b.input(), oblong);
    let x = b.relu6(x);
    let window = Pool::new(3).stride(2).padding(1);
    let parts = [
        b.max_pool(x, window),
        b.avg_pool(x, window),
        b.avg_pool(x, Pool { count_include_pad: false, ..window }),
    ];
    let x = b.concat(&parts);
    let x = shuffled(&mut b, x, 4);
    let x = b.conv2d(x, Conv2d::new("grouped", 26, 3).groups(2).padding(1));
    let x = b.batch_norm(x, "bn1");
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    let x = b.dropout(x, "dropout", 0.3);
    let x = b.batch_norm(x, "bn2");
    let x = shuffled(&mut b, x, 2);
    let x = b.linear(x, Linear { bias: false, ..Linear::new("wide", 24) });
    let x = b.batch_norm(x, "bn3");
    let x = b.relu(x);
    let x = b.conv2d(x, Conv2d::new("point", 12, 1));
    let x = b.flatten(x);
    let x = b.relu6(x);
    let x = b.max_pool(x, Pool::new(1));
    let x = b.flatten(x);
    let x = b.flatten(x);
    let x = b.linear(x, Linear::new("fc", CLASSES));
    Ok(b.build(x)?)
}

/// Shuffles channels, splits them into unequal parts, adds these with zeros around the smaller, and puts the sum beside the input.
fn shuffled(b: &mut GraphBuilder, x: ValueId, groups: usize) -> ValueId {
    let mixed = b.channel_shuffle(x, groups);
    let (small, large) = b.split_channels(mixed, 10);
    let missing = b.shape(large).channels() - 10;
    let padded = b.pad_channels(small, missing / 3, missing - missing / 3);
    let sum = b.add(padded, large);
    b.concat(&[sum, x])
}
