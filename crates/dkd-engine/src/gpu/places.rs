//! Where each parameter lies in a device's flat buffers.

use crate::graph::{Graph, Op, ParamKind};
use crate::layout::Layout;
use std::ops::Range;

/// Every tensor begins on a multiple of this, so that also its bf16 copy can be read 16 bytes at a time.
const ALIGNMENT: usize = 64;

/// Order of one tensor's elements.
#[derive(Clone, Debug)]
enum Order {
    /// PyTorch's.
    Same,
    /// A convolution's `[outputs, inputs, rows, columns]` as `[outputs, rows, columns, inputs]`.
    Conv { inputs: usize, taps: usize },
    /// A linear layer's inputs, channel by channel, as the map they come from: pixel by pixel.
    Linear { input: Layout },
}

/// Place of one tensor of the state dictionary.
#[derive(Clone, Debug)]
pub(super) struct Place {
    order: Order,
    /// Elements of the flat buffer of values (trainable) or of running statistics.
    pub range: Range<usize>,
}

impl Place {
    /// Index in the tensor's own range of element `i` in PyTorch's order.
    fn at(&self, i: usize) -> usize {
        match &self.order {
            Order::Same => i,
            Order::Conv { inputs, taps } => {
                let (output, rest) = (i / (inputs * taps), i % (inputs * taps));
                (output * taps + rest % taps) * inputs + rest / taps
            }
            Order::Linear { input } => {
                let (features, pixels) = (input.features(), input.height * input.width);
                let (row, feature) = (i / features, i % features);
                row * features + feature % pixels * input.channels + feature / pixels
            }
        }
    }

    /// Writes `torch` where it belongs in a flat buffer.
    pub fn pack(&self, torch: &[f32], flat: &mut [f32]) {
        let to = &mut flat[self.range.clone()];
        torch.iter().enumerate().for_each(|(i, v)| to[self.at(i)] = *v);
    }

    /// Adds `torch` where it belongs in a flat buffer.
    pub fn add(&self, torch: &[f32], flat: &mut [f32]) {
        let to = &mut flat[self.range.clone()];
        torch.iter().enumerate().for_each(|(i, v)| to[self.at(i)] += *v);
    }

    /// The inverse of [`Place::pack`].
    pub fn unpack(&self, flat: &[f32]) -> Vec<f32> {
        self.unpack_own(&flat[self.range.clone()])
    }

    /// [`Place::unpack`] of the tensor's own range.
    pub fn unpack_own(&self, own: &[f32]) -> Vec<f32> {
        (0..own.len()).map(|i| own[self.at(i)]).collect()
    }
}

/// Places of all tensors, in the order of [`Graph::params`].
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub all: Vec<Place>,
    /// Elements of the trainable buffer, gaps counted.
    pub values: usize,
    /// Elements of the running statistics.
    pub running: usize,
}

impl Places {
    /// Lays out every tensor of `graph`; `layouts` are those of its values.
    pub fn new(graph: &Graph, layouts: &[Layout]) -> Self {
        let mut orders = vec![Order::Same; graph.params().len()];
        for node in graph.nodes() {
            let order = match &node.op {
                Op::Conv2d(c) => {
                    let inputs = layouts[node.inputs[0].0].channels / c.groups;
                    Order::Conv { inputs, taps: c.kernel.0 * c.kernel.1 }
                }
                Op::Linear(_) => Order::Linear { input: layouts[node.inputs[0].0] },
                _ => continue,
            };
            let name = format!("{}.weight", node.op.name().unwrap_or_default());
            if let Some(i) = graph.params().iter().position(|p| p.name == name) {
                orders[i] = order;
            }
        }
        let (mut values, mut running) = (0, 0);
        let all = graph.params().iter().zip(orders).map(|(spec, order)| {
            let total = match spec.kind {
                ParamKind::Trainable => &mut values,
                ParamKind::Buffer => &mut running,
            };
            let start: usize = *total;
            *total = (start + spec.elements()).next_multiple_of(ALIGNMENT);
            Place { order, range: start..start + spec.elements() }
        });
        Self { all: all.collect(), values, running }
    }
}
