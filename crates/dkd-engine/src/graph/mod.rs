//! The network as data: operations, shapes, parameters, taps.

mod builder;
mod channels;
mod op;
mod param;

pub use builder::GraphBuilder;
pub use op::{BatchNorm, Conv2d, Dropout, Linear, Op, Pool, SliceChannels};
pub use param::{Init, ParamKind, ParamSpec};

/// A value of the graph: the output of one [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

impl ValueId {
    /// Position of the node that makes this value in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// Shape of one sample's value; the batch dimension is never part of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A feature map: channels, height, width.
    Map {
        /// Channels.
        c: usize,
        /// Height in pixels.
        h: usize,
        /// Width in pixels.
        w: usize,
    },
    /// A vector of features.
    Vector(usize),
}

impl Shape {
    /// Number of elements of one sample.
    pub fn elements(self) -> usize {
        match self {
            Self::Map { c, h, w } => c * h * w,
            Self::Vector(n) => n,
        }
    }

    /// Channels of a map, features of a vector.
    pub fn channels(self) -> usize {
        match self {
            Self::Map { c, .. } => c,
            Self::Vector(n) => n,
        }
    }

    /// Height and width; a vector counts as 1x1.
    pub fn size(self) -> (usize, usize) {
        match self {
            Self::Map { h, w, .. } => (h, w),
            Self::Vector(_) => (1, 1),
        }
    }

    /// PyTorch's dimensions without the batch: `[c, h, w]` or `[n]`.
    pub fn dims(self) -> Vec<usize> {
        match self {
            Self::Map { c, h, w } => vec![c, h, w],
            Self::Vector(n) => vec![n],
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map { c, h, w } => write!(f, "{c}x{h}x{w}"),
            Self::Vector(n) => write!(f, "{n}"),
        }
    }
}

/// One operation with its inputs and the shape of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Values it reads, in order.
    pub inputs: Vec<ValueId>,
    /// Shape of its output for one sample.
    pub shape: Shape,
}

/// A named value that a loss may ask for (a feature map, the classifier's input).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Name, for example `feats.1`, `preact_feats.3`, `pooled_feat`.
    pub name: String,
    /// The value.
    pub value: ValueId,
    /// Its shape for one sample.
    pub shape: Shape,
}

/// How a network ends: a map, its average over all positions, a linear layer. See [`Graph::head`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Prefix of the layer's parameters.
    pub layer: String,
    /// Whether it has a bias.
    pub bias: bool,
    /// The map.
    pub map: ValueId,
}

/// A network: nodes in topological order, parameters in the order of PyTorch's state dictionary, taps, one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) params: Vec<ParamSpec>,
    pub(crate) taps: Vec<Tap>,
    pub(crate) output: ValueId,
}

impl Graph {
    /// All nodes; node 0 is the input, and each node reads only earlier ones.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Trainable parameters and buffers, in definition order.
    pub fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    /// Named values.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// The logits.
    pub fn output(&self) -> ValueId {
        self.output
    }

    /// Shape of the input image.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Number of classes, that is the length of the logits.
    pub fn num_classes(&self) -> usize {
        self.nodes[self.output.0].shape.elements()
    }

    /// The tap called `name`.
    ///
    /// # Errors
    /// [`crate::Error::UnknownTap`] lists the taps there are.
    pub fn tap(&self, name: &str) -> crate::Result<&Tap> {
        self.taps.iter().find(|t| t.name == name).ok_or_else(|| crate::Error::UnknownTap {
            name: name.to_owned(),
            known: self.taps.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The batch norm whose output the tap called `name` is, or of the first part of the sum that it is: the prefix of its
    /// parameters. `None` if there is no such tap, or something else makes it.
    pub fn norm_of_tap(&self, name: &str) -> Option<&str> {
        let mut node = &self.nodes[self.taps.iter().find(|t| t.name == name)?.value.0];
        while let Op::Add = node.op {
            node = &self.nodes[node.inputs[0].0];
        }
        match &node.op {
            Op::BatchNorm(norm) => Some(&norm.name),
            _ => None,
        }
    }

    /// The linear layer that makes the logits from the average of a map, if that is how the network ends.
    pub fn head(&self) -> Option<Head> {
        let node = |value: ValueId| &self.nodes[value.0];
        let Op::Linear(linear) = &node(self.output).op else { return None };
        let mut input = node(self.output).inputs[0];
        while let Op::Flatten = node(input).op {
            // Only what one pixel has left is in the order of the channels.
            input = Some(node(input).inputs[0]).filter(|map| node(*map).shape.size() == (1, 1))?;
        }
        let map = match &node(input).op {
            Op::GlobalAvgPool => node(input).inputs[0],
            Op::AvgPool2d(pool) => {
                let map = node(input).inputs[0];
                (pool.kernel == node(map).shape.size() && pool.padding == (0, 0)).then_some(map)?
            }
            _ => return None,
        };
        Some(Head { layer: linear.name.clone(), bias: linear.bias, map })
    }

    /// The same network with one more tap.
    #[must_use]
    pub fn with_tap(mut self, name: impl Into<String>, value: ValueId) -> Self {
        self.taps.push(Tap { name: name.into(), value, shape: self.nodes[value.0].shape });
        self
    }

    /// The same network with a tap on every value, in the order of the nodes and named by its operation: `layer1.0.conv1`, or
    /// `relu_7` for one without a name. Nothing is fused then, which costs time and memory: this is for looking inside.
    #[must_use]
    pub fn with_all_taps(&self) -> Self {
        let mut graph = self.clone();
        graph.taps = self.nodes.iter().enumerate().map(|(i, n)| self.node_tap(i, n)).collect();
        for tap in &self.taps {
            if graph.taps.iter().all(|t| t.name != tap.name) {
                graph.taps.push(tap.clone());
            }
        }
        graph
    }

    fn node_tap(&self, index: usize, node: &Node) -> Tap {
        let name = node.op.name().map_or_else(|| format!("{}_{index}", node.op.kind()), str::to_owned);
        Tap { name, value: ValueId(index), shape: node.shape }
    }

    /// Number of trainable scalars (buffers such as running statistics not counted).
    pub fn num_parameters(&self) -> usize {
        let trainable = self.params.iter().filter(|p| p.kind == ParamKind::Trainable);
        trainable.map(|p| p.shape.iter().product::<usize>()).sum()
    }

    /// Multiply-accumulates of one forward pass over one sample: convolutions and linear layers, as is customary.
    pub fn macs(&self) -> usize {
        (0..self.nodes.len()).map(|i| self.node_macs(i)).sum()
    }

    /// Multiply-accumulates of node `index` for one sample (0 for anything but convolutions and linear layers).
    pub fn node_macs(&self, index: usize) -> usize {
        let node = &self.nodes[index];
        match &node.op {
            Op::Conv2d(c) => {
                let inputs = self.nodes[node.inputs[0].0].shape.channels() / c.groups;
                node.shape.elements() * inputs * c.kernel.0 * c.kernel.1
            }
            Op::Linear(l) => self.nodes[node.inputs[0].0].shape.elements() * l.out_features,
            _ => 0,
        }
    }
}
