//! Where each parameter lies in the flat buffers, in the order the kernels read.

use crate::graph::{Conv2d, Graph, Op, ParamKind};
use crate::layout::Layout;
use dkd_kernels::conv2d::{ConvGeometry, GroupedConv, PackedConv};
use dkd_kernels::{Isa, LANES, padded_channels};
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

    /// Pieces of the copy that the forward pass reads instead of the values, and the elements of each.
    fn forward_pieces(&self) -> Option<(usize, usize)> {
        match self {
            Self::Conv(p) => p.forward_pieces(),
            _ => None,
        }
    }

    /// Writes a piece of the forward copy.
    pub fn forward_copy(&self, isa: Isa, packed: &[f32], piece: usize, to: &mut [f32]) {
        if let Self::Conv(p) = self {
            p.forward_copy(isa, packed, piece, to);
        }
    }

    /// Pieces of the transposed copy that input gradients read, and the elements of each.
    fn backward_pieces(&self) -> Option<(usize, usize)> {
        match self {
            Self::Conv(p) => Some(p.backward_pieces()),
            Self::Grouped(p) => p.backward_elements().map(|n| (1, n)),
            Self::Linear { outputs, input } => Some((input.elements() / LANES, outputs * LANES)),
            Self::Channels(_) => None,
        }
    }

    /// Writes a piece of the transposed copy, from the forward copy if there is one, else from the values.
    pub fn backward_copy(&self, from: &[f32], piece: usize, to: &mut [f32]) {
        match self {
            Self::Conv(p) => p.backward_copy(from, piece, to),
            Self::Grouped(p) => p.backward_copy(from, to),
            Self::Linear { outputs, input } => {
                let inputs = input.elements();
                for (o, to) in to.chunks_exact_mut(LANES).enumerate().take(*outputs) {
                    let at = (o / LANES * inputs + piece * LANES) * LANES + o % LANES;
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = from[at + i * LANES];
                    }
                }
            }
            Self::Channels(_) => {}
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
    /// The copy that the forward pass reads.
    pub forward: Option<Copy>,
    /// The copy that the backward pass reads.
    pub backward: Option<Copy>,
}

/// Where a copy of a weight lies in the buffer of such copies.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// All of it.
    pub range: Range<usize>,
    /// Elements of a piece.
    pub piece: usize,
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
    /// Elements of all copies for the forward pass.
    pub forward: usize,
    /// Elements of all copies for the backward pass.
    pub backward: usize,
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
                    let g = geometry(c, layouts[node.inputs[0].0], layouts[index]);
                    let packing = if c.groups == 1 {
                        Packing::Conv(PackedConv::new(&g))
                    } else {
                        let gradient = g.output.with_border(g.gradient_border());
                        Packing::Grouped(Box::new(GroupedConv::new(g, c.groups, gradient, g.input)))
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
        let (mut values, mut buffers, mut forward, mut backward) = (0, 0, 0, 0);
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
            let copy = |pieces: Option<(usize, usize)>, total: &mut usize| {
                pieces.map(|(count, piece)| Copy { range: take(total, count * piece), piece })
            };
            let forward = copy(packing.forward_pieces(), &mut forward);
            let backward = copy(packing.backward_pieces(), &mut backward);
            Place { packing, range, forward, backward }
        });
        let places = places.collect();
        Self { places, names, values, buffers, forward, backward }
    }

    /// Index of the tensor called `<layer><field>`.
    pub fn find(&self, layer: &str, field: &str) -> Option<usize> {
        self.names.iter().position(|n| n.strip_prefix(layer) == Some(field))
    }
}

/// The geometry of a convolution, borders aside: what the order of its weights depends on.
fn geometry(c: &Conv2d, input: Layout, output: Layout) -> ConvGeometry {
    let border = c.padding.0.max(c.padding.1);
    ConvGeometry {
        input: input.map(border),
        output: output.map(0),
        kernel: c.kernel,
        stride: c.stride,
        padding: c.padding,
    }
}
