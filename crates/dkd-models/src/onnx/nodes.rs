//! The nodes of an exported network, one engine operation after another.

use super::fold::fold;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::routes::Routes;
use super::weights::Weights;
use super::{INPUT, OUTPUT};
use crate::checkpoint::Normalization;
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_engine::{BatchNorm, Conv2d, Graph, Linear, Op, Pool, Shape};
use std::collections::HashMap;

/// The normalised images, if the network normalises them itself.
const NORMALIZED: &str = "images/normalized";

/// Writes nodes and the constants that they read. Every value has a name with the index of its node, as `conv1/1` or `relu/3`, so
/// that no two are equal, whatever layers are called.
pub(super) struct Writer<'a> {
    graph: &'a Graph,
    weights: Weights<'a>,
    routes: Routes<'a>,
    image: &'static str,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl<'a> Writer<'a> {
    pub fn new(graph: &'a Graph, tensors: &'a HashMap<String, Tensor>, fold: bool) -> Self {
        Self {
            graph,
            weights: Weights::new(graph, tensors),
            routes: Routes::new(graph, fold),
            image: INPUT,
            nodes: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// Pixel values become `(value - 255 mean) / (255 std)`.
    pub fn normalize(&mut self, n: &Normalization) {
        let scaled = |v: &f32| 255.0 * f64::from(*v);
        let mean: Vec<f32> = n.mean.iter().map(|m| scaled(m) as f32).collect();
        let factor: Vec<f32> = n.std.iter().map(|s| (1.0 / scaled(s)) as f32).collect();
        let dims = [1, mean.len(), 1, 1];
        let mean = self.floats("images/mean".to_owned(), &dims, &mean);
        let factor = self.floats("images/factor".to_owned(), &dims, &factor);
        let centred = "images/centred".to_owned();
        self.node("Sub", vec![INPUT.to_owned(), mean], centred.clone(), Vec::new());
        self.node("Mul", vec![centred, factor], NORMALIZED.to_owned(), Vec::new());
        self.image = NORMALIZED;
    }

    /// The whole graph.
    pub fn write(mut self, name: &str) -> Result<GraphProto> {
        let live: Vec<usize> = self.routes.live().map(|(i, _)| i).collect();
        for i in live {
            self.operation(i)?;
        }
        Ok(GraphProto {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.constants,
            input: vec![ValueInfoProto::batch(INPUT, &self.graph.input_shape().dims())],
            output: vec![ValueInfoProto::batch(OUTPUT, &[self.graph.num_classes()])],
        })
    }

    fn operation(&mut self, i: usize) -> Result<()> {
        let node = &self.graph.nodes()[i];
        match &node.op {
            Op::Conv2d(conv) => self.conv2d(i, conv)?,
            Op::Linear(linear) => self.linear(i, linear)?,
            Op::BatchNorm(bn) => self.batch_norm(i, bn)?,
            Op::Relu => self.simple(i, "Relu", Vec::new(), Vec::new()),
            Op::Relu6 => {
                let limits = [("min", 0.0), ("max", 6.0)]
                    .map(|(name, value)| self.floats(self.constant(i, name), &[], &[value]));
                self.simple(i, "Clip", limits.to_vec(), Vec::new());
            }
            Op::Add => self.several(i, "Add", Vec::new()),
            Op::Concat => self.several(i, "Concat", vec![AttributeProto::int("axis", 1)]),
            Op::SliceChannels(slice) => {
                let bounds = [("start", slice.start), ("end", slice.start + slice.count), ("axis", 1)]
                    .map(|(name, value)| self.ints(self.constant(i, name), &[value]));
                self.simple(i, "Slice", bounds.to_vec(), Vec::new());
            }
            Op::ChannelShuffle { groups } => self.shuffle(i, *groups),
            Op::PadChannels { before, after } => {
                // First what is before each dimension, then what is after it.
                let mut pads = vec![0; 2 * (1 + node.shape.dims().len())];
                let half = pads.len() / 2;
                (pads[1], pads[half + 1]) = (*before, *after);
                let pads = self.ints(self.constant(i, "pads"), &pads);
                self.simple(i, "Pad", vec![pads], Vec::new());
            }
            Op::MaxPool2d(pool) => self.pool(i, "MaxPool", pool, Vec::new()),
            Op::AvgPool2d(pool) => {
                let counts = AttributeProto::int("count_include_pad", usize::from(pool.count_include_pad));
                self.pool(i, "AveragePool", pool, vec![counts]);
            }
            Op::GlobalAvgPool => {
                let pooled = self.constant(i, "map");
                self.node("GlobalAveragePool", vec![self.input(i, 0)], pooled.clone(), Vec::new());
                self.node("Flatten", vec![pooled], self.value(i), vec![AttributeProto::int("axis", 1)]);
            }
            Op::Flatten => self.simple(i, "Flatten", Vec::new(), vec![AttributeProto::int("axis", 1)]),
            other => {
                let problem = format!("the operation `{}` has no counterpart there", other.kind());
                return Err(Error::Onnx(problem));
            }
        }
        Ok(())
    }

    fn conv2d(&mut self, i: usize, conv: &Conv2d) -> Result<()> {
        let mut inputs = vec![self.map_input(i)];
        inputs.extend(self.layer(i, &conv.name, conv.bias)?);
        let mut attributes = window(conv.kernel, conv.stride, conv.padding);
        attributes.push(AttributeProto::int("group", conv.groups));
        self.node("Conv", inputs, self.value(i), attributes);
        Ok(())
    }

    fn linear(&mut self, i: usize, linear: &Linear) -> Result<()> {
        let mut inputs = vec![self.input(i, 0)];
        inputs.extend(self.layer(i, &linear.name, linear.bias)?);
        self.node("Gemm", inputs, self.value(i), vec![AttributeProto::int("transB", 1)]);
        Ok(())
    }

    /// Names of the weight and the bias of layer `i`, with its batch norm in them.
    fn layer(&mut self, i: usize, name: &str, bias: bool) -> Result<Vec<String>> {
        let weight = self.weights.get(name, "weight")?;
        let bias = bias.then(|| self.weights.get(name, "bias")).transpose()?;
        let (weight, bias) = match self.routes.folded(i) {
            Some(bn) => {
                let (weight, bias) = fold(bn, &self.weights, name, weight, bias)?;
                (weight, Some(bias))
            }
            None => (weight, bias),
        };
        let arrays = [Some(weight), bias].into_iter().flatten();
        Ok(arrays.map(|array| self.floats(array.name, &array.dims, &array.values)).collect())
    }

    fn batch_norm(&mut self, i: usize, bn: &BatchNorm) -> Result<()> {
        let mut constants = Vec::new();
        for field in ["weight", "bias", "running_mean", "running_var"] {
            let array = self.weights.get(&bn.name, field)?;
            constants.push(self.floats(array.name, &array.dims, &array.values));
        }
        self.simple(i, "BatchNormalization", constants, vec![AttributeProto::float("epsilon", bn.eps)]);
        Ok(())
    }

    /// Channels as a matrix, transposed. A 0 in a shape keeps the dimension, here the number of images.
    fn shuffle(&mut self, i: usize, groups: usize) {
        let dims = self.graph.nodes()[i].shape.dims();
        let split: Vec<usize> = [0, groups, dims[0] / groups].into_iter().chain(dims[1..].to_vec()).collect();
        let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
        let joined: Vec<usize> = std::iter::once(0).chain(dims).collect();
        let (split, joined) =
            (self.ints(self.constant(i, "split"), &split), self.ints(self.constant(i, "joined"), &joined));
        let (groups, mixed) = (self.constant(i, "groups"), self.constant(i, "mixed"));
        self.node("Reshape", vec![self.input(i, 0), split], groups.clone(), Vec::new());
        self.node("Transpose", vec![groups], mixed.clone(), vec![AttributeProto::ints("perm", &order)]);
        self.node("Reshape", vec![mixed, joined], self.value(i), Vec::new());
    }

    fn pool(&mut self, i: usize, kind: &str, pool: &Pool, mut attributes: Vec<AttributeProto>) {
        attributes.extend(window(pool.kernel, pool.stride, pool.padding));
        let input = self.map_input(i);
        self.node(kind, vec![input], self.value(i), attributes);
    }

    /// The input of an operation on maps: a vector, which the engine takes for a map of 1x1, is made one.
    fn map_input(&mut self, i: usize) -> String {
        let input = self.input(i, 0);
        let Shape::Vector(n) = self.graph.nodes()[self.graph.nodes()[i].inputs[0].index()].shape else {
            return input;
        };
        let shape = self.ints(self.constant(i, "shape"), &[0, n, 1, 1]);
        let map = self.constant(i, "map");
        self.node("Reshape", vec![input, shape], map.clone(), Vec::new());
        map
    }

    /// A node that reads one value and some constants.
    fn simple(&mut self, i: usize, kind: &str, constants: Vec<String>, attributes: Vec<AttributeProto>) {
        let inputs = std::iter::once(self.input(i, 0)).chain(constants).collect();
        self.node(kind, inputs, self.value(i), attributes);
    }

    /// A node that reads all inputs of the engine's.
    fn several(&mut self, i: usize, kind: &str, attributes: Vec<AttributeProto>) {
        let inputs = (0..self.graph.nodes()[i].inputs.len()).map(|k| self.input(i, k)).collect();
        self.node(kind, inputs, self.value(i), attributes);
    }

    /// A node is called like its output.
    fn node(&mut self, kind: &str, inputs: Vec<String>, output: String, attributes: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input: inputs,
            output: vec![output.clone()],
            name: output,
            op_type: kind.to_owned(),
            attribute: attributes,
        });
    }

    fn floats(&mut self, name: String, dims: &[usize], values: &[f32]) -> String {
        self.constants.push(TensorProto::floats(name.clone(), dims, values));
        name
    }

    fn ints(&mut self, name: String, values: &[usize]) -> String {
        self.constants.push(TensorProto::ints(name.clone(), values));
        name
    }

    /// Name of the value that is input `k` of node `i`.
    fn input(&self, i: usize, k: usize) -> String {
        self.value(self.routes.input(i, k))
    }

    /// Name of the output of node `i`.
    fn value(&self, i: usize) -> String {
        match &self.graph.nodes()[i].op {
            Op::Input => self.image.to_owned(),
            _ if i == self.routes.output() => OUTPUT.to_owned(),
            op => format!("{}/{i}", op.name().unwrap_or(op.kind())),
        }
    }

    /// Name of something within node `i`.
    fn constant(&self, i: usize, what: &str) -> String {
        let op = &self.graph.nodes()[i].op;
        format!("{}/{i}/{what}", op.name().unwrap_or(op.kind()))
    }
}

/// The attributes of a window that slides over a map.
fn window(kernel: (usize, usize), stride: (usize, usize), padding: (usize, usize)) -> Vec<AttributeProto> {
    vec![
        AttributeProto::ints("kernel_shape", &[kernel.0, kernel.1]),
        AttributeProto::ints("strides", &[stride.0, stride.1]),
        AttributeProto::ints("pads", &[padding.0, padding.1, padding.0, padding.1]),
    ]
}
