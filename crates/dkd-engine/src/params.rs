//! Where each parameter lies in the flat buffers, in the order the kernels read.

use crate::graph::{Graph, Op, ParamKind};
use crate::layout::Layout;
use dkd_kernels::conv2d::{ConvGeometry, GroupedConv, PackedConv};
use dkd_kernels::{LANES, Map, padded_channels};
use std::ops::Range;

/// Order of one tensor's elements.
#[derive(Clone, Debug)]
pub(crate) enum Packing {
    /// A dense convolution's weight.
    Conv(PackedConv),
    /// A grouped convolution's weight.
    Grouped(Box<GroupedConv>),
    /// A linear layer's weight, whose input has this layout.
    Linear { outputs: usize, input: Layout },
    /// One value per channel.
    Channels(usize),
}

impl Packing {
    /// Elements in packed order.
    pub fn elements(&self) -> usize {
        match self {
            Self::Conv(p) => p.elements(),
            Self::Grouped(p) => p.weight_elements(),
            Self::Linear { outputs, input } => padded_channels(*outputs) * input.elements(),
            Self::Channels(n) => padded_channels(*n),
        }
    }

    /// Calls `f(PyTorch index, packed index)` for every element.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        match self {
            Self::Conv(p) => p.for_each(f),
            Self::Grouped(p) => p.for_each(f),
            Self::Linear { outputs, input } => {
                let (features, inputs) = (input.features(), input.elements());
                for o in 0..*outputs {
                    let (block, lane) = (o / LANES * inputs * LANES, o % LANES);
                    input.for_each(|torch, packed| f(o * features + torch, block + packed * LANES + lane));
                }
            }
            Self::Channels(n) => (0..*n).for_each(|i| f(i, i)),
        }
    }

    /// Elements of the transposed copy that input gradients read, if there is one.
    fn transposed_elements(&self) -> Option<usize> {
        match self {
            Self::Conv(p) => Some(p.transposed_elements()),
            Self::Linear { outputs, input } => Some(input.elements() * outputs),
            _ => None,
        }
    }

    /// Writes the transposed copy.
    pub fn transpose(&self, packed: &[f32], transposed: &mut [f32]) {
        match self {
            Self::Conv(p) => p.transpose(packed, transposed),
            Self::Linear { outputs, input } => {
                let inputs = input.elements();
                for (block, to) in transposed.chunks_exact_mut(outputs * LANES).enumerate() {
                    for (o, to) in to.chunks_exact_mut(LANES).enumerate() {
                        let from = (o / LANES * inputs + block * LANES) * LANES + o % LANES;
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = packed[from + i * LANES];
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// Place of one tensor of the state dictionary.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Element order.
    pub packing: Packing,
    /// Elements in the flat buffer of values (trainable) or of running statistics.
    pub range: Range<usize>,
    /// Elements in the buffer of transposed weights.
    pub transposed: Option<Range<usize>>,
}

/// Places of all tensors, in the order of [`Graph::params`].
#[derive(Clone, Debug)]
pub(crate) struct ParamTable {
    pub places: Vec<Place>,
    names: Vec<String>,
    /// Elements of the trainable buffer.
    pub values: usize,
    /// Elements of the running statistics.
    pub buffers: usize,
    /// Elements of the transposed weights.
    pub transposed: usize,
}

impl ParamTable {
    /// Lays out every tensor of `graph`; `layouts` are those of its values.
    pub fn new(graph: &Graph, layouts: &[Layout]) -> Self {
        let mut packings: Vec<Option<Packing>> = vec![None; graph.params().len()];
        let names: Vec<String> = graph.params().iter().map(|p| p.name.clone()).collect();
        let mut set = |layer: &str, field: &str, packing: Packing| {
            if let Some(i) = names.iter().position(|n| n.strip_prefix(layer) == Some(field)) {
                packings[i] = Some(packing);
            }
        };
        for (index, node) in graph.nodes().iter().enumerate() {
            match &node.op {
                Op::Conv2d(c) => {
                    let g = weight_geometry(layouts[node.inputs[0].0], layouts[index], c.kernel);
                    let packing = if c.groups == 1 {
                        Packing::Conv(PackedConv::new(&g))
                    } else {
                        Packing::Grouped(Box::new(GroupedConv::new(g, c.groups, g.output, g.input)))
                    };
                    set(&c.name, ".weight", packing);
                    set(&c.name, ".bias", Packing::Channels(c.out_channels));
                }
                Op::Linear(l) => {
                    let input = layouts[node.inputs[0].0];
                    set(&l.name, ".weight", Packing::Linear { outputs: l.out_features, input });
                    set(&l.name, ".bias", Packing::Channels(l.out_features));
                }
                Op::BatchNorm(b) => {
                    for field in [".weight", ".bias", ".running_mean", ".running_var"] {
                        set(&b.name, field, Packing::Channels(node.shape.channels()));
                    }
                }
                _ => {}
            }
        }
        let (mut values, mut buffers, mut transposed) = (0, 0, 0);
        let take = |total: &mut usize, n: usize| {
            *total += n;
            *total - n..*total
        };
        let places = graph.params().iter().zip(packings).map(|(spec, packing)| {
            let packing = packing.unwrap_or(Packing::Channels(spec.elements()));
            let n = packing.elements();
            let range = match spec.kind {
                ParamKind::Trainable => take(&mut values, n),
                ParamKind::Buffer => take(&mut buffers, n),
            };
            let copy = packing.transposed_elements().map(|n| take(&mut transposed, n));
            Place { packing, range, transposed: copy }
        });
        let places = places.collect();
        Self { places, names, values, buffers, transposed }
    }

    /// Index of the tensor called `<layer><field>`.
    pub fn find(&self, layer: &str, field: &str) -> Option<usize> {
        self.names.iter().position(|n| n.strip_prefix(layer) == Some(field))
    }
}

/// A geometry with the right channels and kernel: all that the order of a weight depends on.
fn weight_geometry(input: Layout, output: Layout, kernel: (usize, usize)) -> ConvGeometry {
    ConvGeometry {
        input: Map::new(kernel.0, kernel.1, input.channels, 0),
        output: Map::new(1, 1, output.channels, kernel.0.max(kernel.1)),
        kernel,
        stride: (1, 1),
        padding: (0, 0),
    }
}
