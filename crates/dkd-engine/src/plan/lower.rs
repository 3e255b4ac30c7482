//! From graph to units: what is fused, which values share memory.

use super::slots::Scratch;
use super::unit::{
    Addend, Bn, ConvKernel, ConvUnit, DenseKernel, LinearUnit, NormUnit, TensorId, TensorInfo, Unit,
};
use super::{Gathers, Purpose};
use crate::graph::{BatchNorm, Conv2d, Graph, Op, Pool, Tap};
use crate::layout::Layout;
use crate::params::ParamTable;
use crate::{Error, Result};
use dkd_kernels::conv2d::{ConvForward, ConvGeometry, ConvInputGrad, ConvWeightGrad, GroupedConv};
use dkd_kernels::pool::Window;
use dkd_kernels::rng::hash_name;
use dkd_kernels::{LANES, Map};

/// A graph as units.
pub(super) struct Lowered {
    pub tensors: Vec<TensorInfo>,
    pub units: Vec<Unit>,
    pub bns: Vec<Bn>,
    pub input: TensorId,
    pub boundaries: Vec<TensorId>,
    pub argmax: Vec<usize>,
    pub scratch: Vec<Scratch>,
}

impl Lowered {
    /// The units that make `t` again whenever it is read; none if it is stored.
    pub fn makers(&self, t: TensorId) -> Vec<usize> {
        let Some(unit) = self.tensors[t].recomputed_by else { return Vec::new() };
        let inputs = self.units[unit].inputs().into_iter();
        std::iter::once(unit).chain(inputs.flat_map(|input| self.makers(input))).collect()
    }

    /// See [`stored`].
    pub fn stored(&self, t: TensorId) -> Vec<TensorId> {
        stored(&self.tensors, &self.units, t)
    }
}

/// The stored tensors that whoever reads `t` reads: itself, or what it is made from.
pub(crate) fn stored(tensors: &[TensorInfo], units: &[Unit], t: TensorId) -> Vec<TensorId> {
    match tensors[t].recomputed_by {
        Some(unit) => {
            units[unit].inputs().into_iter().flat_map(|input| stored(tensors, units, input)).collect()
        }
        None => vec![t],
    }
}

pub(super) struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    pub(super) layouts: &'a [Layout],
    params: &'a ParamTable,
    purpose: Purpose,
    pub(super) gathers: Gathers,
    /// Nodes that read each value.
    pub(super) readers: Vec<Vec<usize>>,
    /// Values that must exist by themselves: the logits and the taps.
    pub(super) pinned: Vec<bool>,
    /// Largest padding with which each value is read.
    borders: Vec<usize>,
    pub(super) tensor_of: Vec<Option<TensorId>>,
    pub(super) out: Lowered,
}

/// Lowers `graph`.
pub(super) fn lower(
    graph: &Graph,
    layouts: &[Layout],
    params: &ParamTable,
    taps: &[&Tap],
    purpose: Purpose,
    gathers: Gathers,
) -> Result<Lowered> {
    let n = graph.nodes().len();
    let mut pinned = vec![false; n];
    pinned[graph.output().0] = true;
    taps.iter().for_each(|t| pinned[t.value.0] = true);
    let needed = needed(graph, &pinned);
    let mut readers = vec![Vec::new(); n];
    let mut borders = vec![0; n];
    for (index, node) in graph.nodes().iter().enumerate().filter(|(index, _)| needed[*index]) {
        for input in &node.inputs {
            readers[input.0].push(index);
        }
        if let Op::Conv2d(c) = &node.op {
            let border = &mut borders[node.inputs[0].0];
            *border = c.padding.0.max(c.padding.1).max(*border);
        }
    }
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if is_identity(&node.op, purpose) {
            let input = node.inputs[0].0;
            borders[input] = borders[input].max(borders[index]);
        }
    }
    let out = Lowered {
        tensors: Vec::new(),
        units: Vec::new(),
        bns: Vec::new(),
        input: 0,
        boundaries: Vec::new(),
        argmax: Vec::new(),
        scratch: Vec::new(),
    };
    let tensor_of = vec![None; n];
    let mut lowering =
        Lowering { graph, layouts, params, purpose, gathers, readers, pinned, borders, tensor_of, out };
    for index in (0..n).filter(|index| needed[*index]) {
        lowering.node(index)?;
    }
    let Lowering { tensor_of, mut out, .. } = lowering;
    let boundary = |value: usize| tensor_of[value].expect("every value has a tensor");
    out.boundaries.push(boundary(graph.output().0));
    out.boundaries.extend(taps.iter().map(|t| boundary(t.value.0)));
    for unit in &out.units {
        let needed = unit.has_parameters() || unit.inputs().iter().any(|t| out.tensors[*t].needs_gradient);
        out.tensors[unit.output()].needs_gradient = needed;
    }
    Ok(out)
}

/// The nodes on which a pinned value depends, and the input: a value that is only there for a tap that nobody asked for is not
/// computed, and does not keep others from being fused.
fn needed(graph: &Graph, pinned: &[bool]) -> Vec<bool> {
    let mut needed = pinned.to_vec();
    needed[0] = true;
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if needed[index] {
            node.inputs.iter().for_each(|input| needed[input.0] = true);
        }
    }
    needed
}

/// Dropout that drops nothing.
fn is_identity(op: &Op, purpose: Purpose) -> bool {
    matches!(op, Op::Dropout(d) if purpose == Purpose::Infer || d.p == 0.0)
}

impl Lowering<'_> {
    fn node(&mut self, index: usize) -> Result<()> {
        if self.tensor_of[index].is_some() {
            return Ok(()); // Fused into an earlier unit.
        }
        let graph = self.graph;
        let node = &graph.nodes()[index];
        let input = |i: usize| node.inputs[i].0;
        match &node.op {
            Op::Input => {
                let dense = self.readers[index]
                    .iter()
                    .all(|r| matches!(&graph.nodes()[*r].op, Op::Conv2d(c) if c.groups == 1));
                let t = self.tensor(index);
                let map = &mut self.out.tensors[t].map;
                // A vector of one image's few colours would be mostly padding.
                if dense && map.channels < LANES && !self.pinned[index] {
                    *map = Map::dense(map.height, map.width, map.channels, map.border);
                }
                self.out.input = t;
            }
            Op::Conv2d(c) => self.conv(index, input(0), c)?,
            Op::Linear(l) => {
                let x = self.vector(input(0));
                let (relu, last) = self.relu_after(index);
                let y = self.tensor(last);
                self.tensor_of[index] = Some(y);
                let inputs = self.layouts[input(0)].elements();
                let weight = self.param(&l.name, ".weight")?;
                let bias = if l.bias { Some(self.param(&l.name, ".bias")?) } else { None };
                let (outputs, macs) = (l.out_features, graph.node_macs(index));
                let unit = LinearUnit { x, y, weight, bias, relu, inputs, outputs, macs };
                self.out.units.push(Unit::Linear(unit));
            }
            Op::BatchNorm(b) => self.norm(index, input(0), b)?,
            Op::Relu => {
                let x = self.of(input(0));
                let y = self.tensor(index);
                self.out.units.push(Unit::Relu { x, y });
            }
            Op::Relu6 => {
                let (x, y) = (self.of(input(0)), self.tensor(index));
                self.out.units.push(Unit::Relu6 { x, y });
            }
            Op::Concat | Op::SliceChannels(_) | Op::ChannelShuffle { .. } | Op::PadChannels { .. } => {
                self.channels(index);
            }
            Op::Add => {
                let (a, b) = (self.of(input(0)), self.of(input(1)));
                let y = self.tensor(index);
                self.out.units.push(Unit::Add { a, b, y });
            }
            Op::MaxPool2d(p) => {
                if p.kernel.0 * p.kernel.1 > 255 {
                    let message = format!("a {:?} window has more than 255 positions", p.kernel);
                    return Err(Error::Layer { layer: node.op.kind().to_owned(), message });
                }
                let (x, y) = (self.of(input(0)), self.tensor(index));
                let map = self.out.tensors[y].map.with_border(0);
                self.out.argmax.push(map.elements());
                let (argmax, scratch) = (self.out.argmax.len() - 1, self.gradient_scratch(x));
                self.out.units.push(Unit::MaxPool { x, y, window: window(*p), argmax, scratch });
            }
            Op::AvgPool2d(p) => {
                let (x, y) = (self.of(input(0)), self.tensor(index));
                let (count_padding, scratch) = (p.count_include_pad, self.gradient_scratch(x));
                self.out.units.push(Unit::AvgPool { x, y, window: window(*p), count_padding, scratch });
            }
            Op::GlobalAvgPool => {
                let (x, y) = (self.of(input(0)), self.tensor(index));
                let scratch = self.gradient_scratch(x);
                self.out.units.push(Unit::GlobalAvg { x, y, scratch });
            }
            Op::Flatten => {
                let x = self.vector(input(0));
                self.tensor_of[index] = Some(x);
            }
            op @ Op::Dropout(_) if is_identity(op, self.purpose) => {
                self.tensor_of[index] = Some(self.of(input(0)));
            }
            Op::Dropout(d) => {
                let (x, y) = (self.of(input(0)), self.tensor(index));
                self.out.units.push(Unit::Dropout { x, y, p: d.p, key: hash_name(&d.name) });
            }
        }
        Ok(())
    }

    fn conv(&mut self, index: usize, input: usize, c: &Conv2d) -> Result<()> {
        let x = self.of(input);
        let (relu, last) = self.relu_after(index);
        let y = self.tensor(last);
        self.tensor_of[index] = Some(y);
        let (x_map, y_map) = (self.out.tensors[x].map, self.out.tensors[y].map);
        let geometry = ConvGeometry {
            input: x_map,
            output: y_map,
            kernel: c.kernel,
            stride: c.stride,
            padding: c.padding,
        };
        let dz_map = y_map.with_border(geometry.gradient_border());
        let dx_map = x_map.with_border(0);
        let kernel = if c.groups == 1 {
            ConvKernel::Dense(Box::new(DenseKernel {
                forward: ConvForward::new(geometry),
                input_grad: x_map.is_vector().then(|| ConvInputGrad::new(geometry, dz_map, dx_map)),
                weight_grad: ConvWeightGrad::new(geometry, dz_map),
            }))
        } else {
            ConvKernel::Grouped(Box::new(GroupedConv::new(geometry, c.groups, dz_map, dx_map)))
        };
        // An input and a gradient of the same layout are alive together, so they never share a buffer.
        let many = c.groups == 1 && geometry.takes_many();
        let at_a_time = if many { images_at_a_time(&geometry) } else { 1 };
        let x_scratch = self.scratch(x_map, many, 0);
        let dz_scratch = self.scratch(dz_map, many, 1);
        let weight = self.param(&c.name, ".weight")?;
        let bias = if c.bias { Some(self.param(&c.name, ".bias")?) } else { None };
        let macs = self.graph.node_macs(index);
        let unit = ConvUnit {
            x,
            y,
            weight,
            bias,
            relu,
            window: Window { kernel: c.kernel, stride: c.stride, padding: c.padding },
            groups: c.groups,
            kernel,
            many,
            at_a_time,
            x_scratch,
            dz_scratch,
            dz_map,
            macs,
        };
        self.out.units.push(Unit::Conv(Box::new(unit)));
        Ok(())
    }

    fn norm(&mut self, index: usize, input: usize, b: &BatchNorm) -> Result<()> {
        let mut last = index;
        let mut first = (input, b);
        let mut addend = None;
        if let Some((sum, other)) = self.sum_after(index) {
            let graph = self.graph;
            match &graph.nodes()[other].op {
                // Both operands are normalised: the later one makes the unit.
                Op::BatchNorm(second) if self.sum_after(other).is_some() => {
                    if other > index {
                        return Ok(());
                    }
                    first = (graph.nodes()[other].inputs[0].0, second);
                    addend = Some((input, Some(b)));
                    last = sum;
                }
                _ if other < index => (last, addend) = (sum, Some((other, None))),
                _ => {}
            }
        }
        let (relu, last) = self.relu_after(last);
        let y = self.tensor(last);
        let z = self.of(first.0);
        let bn = self.bn(z, first.1)?;
        let addend = match addend {
            None => Addend::None,
            Some((value, None)) => Addend::Value(self.of(value)),
            Some((value, Some(second))) => {
                let t = self.of(value);
                Addend::Normalized(t, self.bn(t, second)?)
            }
        };
        let made_again = self.only_a_convolution_reads(last) || self.only_gathers_read(last);
        if addend == Addend::None && made_again && !self.pinned[last] {
            self.out.tensors[y].recomputed_by = Some(self.out.units.len());
        }
        // The values inside the unit never exist; whoever asks for one of them was excluded above.
        self.mark_fused(index, last, y);
        self.out.units.push(Unit::Norm(NormUnit { z, bn, addend, relu, y }));
        Ok(())
    }

    /// Marks the nodes from a batch normalisation to the end of its unit as done.
    fn mark_fused(&mut self, first: usize, last: usize, y: TensorId) {
        let mut node = last;
        loop {
            self.tensor_of[node] = Some(y);
            if node == first {
                return;
            }
            let inputs = &self.graph.nodes()[node].inputs;
            if let [a, b] = inputs[..] {
                let other = if a.0 == first { b.0 } else { a.0 };
                let fused = matches!(self.graph.nodes()[other].op, Op::BatchNorm(_))
                    && self.tensor_of[other].is_none();
                if fused {
                    self.tensor_of[other] = Some(y);
                }
                node = first;
            } else {
                node = inputs[0].0;
            }
        }
    }

    /// Whether a convolution is the only reader of `value`.
    pub(super) fn only_a_convolution_reads(&self, value: usize) -> bool {
        matches!(self.readers[value][..], [reader] if matches!(self.graph.nodes()[reader].op, Op::Conv2d(_)))
    }

    /// The sum that alone reads `value`, and its other operand.
    fn sum_after(&self, value: usize) -> Option<(usize, usize)> {
        let [reader] = self.readers[value][..] else { return None };
        let node = &self.graph.nodes()[reader];
        if self.pinned[value] || node.op != Op::Add {
            return None;
        }
        let other = if node.inputs[0].0 == value { node.inputs[1].0 } else { node.inputs[0].0 };
        Some((reader, other))
    }

    /// Whether a ReLU alone reads `value`, and the value after it.
    pub(super) fn relu_after(&self, value: usize) -> (bool, usize) {
        match self.readers[value][..] {
            [reader] if !self.pinned[value] && self.graph.nodes()[reader].op == Op::Relu => (true, reader),
            _ => (false, value),
        }
    }

    /// A new tensor for `value`.
    pub(super) fn tensor(&mut self, value: usize) -> TensorId {
        let map = self.layouts[value].map(self.borders[value]);
        let info = TensorInfo {
            map,
            recomputed_by: None,
            needs_gradient: false,
            slot: usize::MAX,
            gradient_slot: usize::MAX,
        };
        self.out.tensors.push(info);
        self.tensor_of[value] = Some(self.out.tensors.len() - 1);
        self.out.tensors.len() - 1
    }

    pub(super) fn of(&self, value: usize) -> TensorId {
        self.tensor_of[value].expect("nodes are in topological order")
    }

    /// The tensor of `value`, or a copy of it, without border: as the features of a vector.
    fn vector(&mut self, value: usize) -> TensorId {
        let x = self.of(value);
        let map = self.out.tensors[x].map;
        if map.border == 0 && map.is_vector() {
            return x;
        }
        let y = self.out.tensors.len();
        let info = self.out.tensors[x].clone();
        let map = Map::new(map.height, map.width, map.channels, 0);
        self.out.tensors.push(TensorInfo { map, recomputed_by: None, ..info });
        self.out.units.push(Unit::Copy { x, y });
        y
    }

    fn bn(&mut self, z: TensorId, b: &BatchNorm) -> Result<usize> {
        self.out.bns.push(Bn {
            z,
            weight: self.param(&b.name, ".weight")?,
            bias: self.param(&b.name, ".bias")?,
            running_mean: self.param(&b.name, ".running_mean")?,
            running_var: self.param(&b.name, ".running_var")?,
            eps: b.eps,
            momentum: b.momentum,
        });
        Ok(self.out.bns.len() - 1)
    }

    fn param(&self, layer: &str, field: &str) -> Result<usize> {
        self.params.find(layer, field).ok_or_else(|| Error::Layer {
            layer: layer.to_owned(),
            message: format!("the graph has no parameter `{layer}{field}`"),
        })
    }

    /// Worker buffer number `copy` of this layout; equal layouts share it, so that a border stays zero.
    fn scratch(&mut self, map: Map, many: bool, copy: usize) -> usize {
        let same = |s: &Scratch| s.map == map;
        while self.out.scratch.iter().filter(|s| same(s)).count() <= copy {
            self.out.scratch.push(Scratch { map, many: false });
        }
        let all = self.out.scratch.iter_mut().enumerate();
        let (index, found) = all.filter(|(_, s)| same(s)).nth(copy).expect("there are enough");
        found.many |= many;
        index
    }

    fn gradient_scratch(&mut self, x: TensorId) -> usize {
        let map = self.out.tensors[x].map.with_border(0);
        self.scratch(map, false, 0)
    }
}

fn window(p: Pool) -> Window {
    Window { kernel: p.kernel, stride: p.stride, padding: p.padding }
}

/// Images that a convolution which takes many should be given at a time. Few, if their pixels fill the register tiles and the weights
/// are soon read again: then the next images' maps can be fetched meanwhile ([`super::touched`]).
fn images_at_a_time(geometry: &ConvGeometry) -> usize {
    const PIXELS: usize = 128;
    const WEIGHTS: usize = 64 * 1024;
    let pixels = geometry.output.height * geometry.output.width;
    if geometry.taps() == 1 && geometry.weight_elements() <= WEIGHTS {
        PIXELS.div_ceil(pixels).min(super::MANY)
    } else {
        super::MANY
    }
}
