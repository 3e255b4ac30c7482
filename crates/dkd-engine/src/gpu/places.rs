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
    /// Calls `f` for every element, in PyTorch's order, with its number and its index in the tensor's own range.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let elements = self.range.len();
        match &self.order {
            Order::Same => (0..elements).for_each(|i| f(i, i)),
            Order::Conv { inputs, taps } => {
                let all = (0..elements / (inputs * taps)).flat_map(|o| (0..*inputs).map(move |i| (o, i)));
                for (n, (output, input)) in all.enumerate() {
                    for tap in 0..*taps {
                        f(n * taps + tap, (output * taps + tap) * inputs + input);
                    }
                }
            }
            Order::Linear { input } => {
                let (features, pixels, channels) =
                    (input.features(), input.height * input.width, input.channels);
                let all = (0..elements / features).flat_map(|row| (0..channels).map(move |c| (row, c)));
                for (n, (row, channel)) in all.enumerate() {
                    for pixel in 0..pixels {
                        f(n * pixels + pixel, row * features + pixel * channels + channel);
                    }
                }
            }
        }
    }

    /// Writes `torch` where it belongs in a flat buffer.
    pub fn pack(&self, torch: &[f32], flat: &mut [f32]) {
        let to = &mut flat[self.range.clone()];
        self.for_each(|i, at| to[at] = torch[i]);
    }

    /// Adds `torch` where it belongs in a flat buffer.
    pub fn add(&self, torch: &[f32], flat: &mut [f32]) {
        let to = &mut flat[self.range.clone()];
        self.for_each(|i, at| to[at] += torch[i]);
    }

    /// The inverse of [`Place::pack`].
    pub fn unpack(&self, flat: &[f32]) -> Vec<f32> {
        self.unpack_own(&flat[self.range.clone()])
    }

    /// [`Place::unpack`] of the tensor's own range.
    pub fn unpack_own(&self, own: &[f32]) -> Vec<f32> {
        let mut torch = vec![0.0; own.len()];
        self.for_each(|i, at| torch[i] = own[at]);
        torch
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
