//! One step of the forward pass for one image or one group.

use super::boundary::Boundaries;
use super::clock::Clock;
use super::group::{Group, Worker, value_range};
use super::images::Images;
use super::statistics::NormState;
use super::{DropoutKey, dropout_stream};
use crate::params::ParamTable;
use crate::plan::{Addend, ConvKernel, ConvUnit, ForwardStep, LinearUnit, NormUnit, Plan, Run, Unit};
use dkd_kernels::linear::{Rows, linear};
use dkd_kernels::norm::{self, channel_moments, normalize};
use dkd_kernels::{AlignedBuf, Isa, Map, dropout, pointwise, pool};
use std::ops::Range;

/// What every group reads during a stage of the forward pass.
pub(super) struct ForwardContext<'a> {
    pub isa: Isa,
    pub plan: &'a Plan,
    pub params: &'a ParamTable,
    pub values: &'a [f32],
    /// Copies of weights for this pass.
    pub copies: &'a [f32],
    pub zeros: &'a [f32],
    pub norms: &'a [NormState],
    pub images: &'a Images<'a>,
    pub key: DropoutKey,
    pub clock: Option<&'a Clock>,
}

impl ForwardContext<'_> {
    /// Runs a stage for the images `part` of the batch.
    pub fn stage(
        &self,
        runs: &[Run<ForwardStep>],
        group: &mut Group,
        worker: &mut Worker,
        part: Range<usize>,
    ) {
        for run in runs {
            match run {
                Run::Images(steps) => {
                    for i in 0..part.len() {
                        steps.iter().for_each(|step| self.image(*step, group, worker, part.start, i));
                    }
                }
                Run::Group(step) => self.group(*step, group, part.len()),
            }
        }
    }

    /// Copies what losses see to the boundaries.
    pub fn export(&self, boundaries: &Boundaries, group: &Group, part: Range<usize>) {
        for (k, t) in self.plan.boundaries.iter().enumerate() {
            for i in 0..part.len() {
                boundaries.write(k, part.start + i, group.value(self.plan, *t, i), self.plan.tensors[*t].map);
            }
        }
    }

    fn bias(&self, index: Option<usize>, padded: usize) -> &[f32] {
        match index {
            Some(i) => &self.values[self.params.places[i].range.clone()],
            None => &self.zeros[..padded],
        }
    }

    fn image(&self, step: ForwardStep, group: &mut Group, worker: &mut Worker, first: usize, i: usize) {
        let _running = self.clock.map(|c| c.forward(step));
        let (isa, plan) = (self.isa, self.plan);
        match step {
            ForwardStep::Load => {
                let info = &plan.tensors[plan.input];
                let to = &mut group.values[info.slot][value_range(plan, plan.input, i)];
                self.images.load(first + i, to, info.map);
            }
            ForwardStep::Moments(bn) => {
                let (state, z) = (&self.norms[bn], plan.bns[bn].z);
                let mut moments = std::mem::take(&mut group.moments);
                let sums = &mut moments[state.moments..][..2 * state.stride()];
                let (sum, square) = sums.split_at_mut(state.stride());
                let map = plan.tensors[z].map;
                channel_moments(isa, group.value(plan, z, i), map, &mut worker.channels, sum, square);
                group.moments = moments;
            }
            ForwardStep::Unit(index) => {
                let unit = &plan.units[index];
                let t = unit.output();
                let (slot, y_map) = (plan.tensors[t].slot, plan.tensors[t].map);
                let mut buffer = std::mem::take(&mut group.values[slot]);
                let y = &mut buffer[value_range(plan, t, i)];
                self.unit(unit, group, worker, first, i, y, y_map);
                group.values[slot] = buffer;
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn unit(
        &self,
        unit: &Unit,
        group: &mut Group,
        worker: &mut Worker,
        first: usize,
        i: usize,
        y: &mut [f32],
        y_map: Map,
    ) {
        let (isa, plan) = (self.isa, self.plan);
        let map = |t: usize| plan.tensors[t].map;
        match unit {
            Unit::Conv(c) => self.conv(c, group, worker, i, y, y_map),
            Unit::Norm(n) => self.norm(n, group, i, y, y_map),
            Unit::Channels(c) => {
                let inputs = c.inputs.iter().map(|x| (group.value(plan, *x, i), map(*x)));
                c.forward.run(isa, inputs, y, y_map, c.relu, false);
            }
            Unit::Relu6 { x, .. } => pointwise::relu6(isa, (group.value(plan, *x, i), map(*x)), y, y_map),
            Unit::Relu { x, .. } => pointwise::relu(isa, (group.value(plan, *x, i), map(*x)), y, y_map),
            Unit::Add { a, b, .. } => {
                let (a, b) = ((group.value(plan, *a, i), map(*a)), (group.value(plan, *b, i), map(*b)));
                pointwise::add(isa, a, b, y, y_map);
            }
            Unit::Copy { x, .. } => {
                let (from, from_map) = (group.value(plan, *x, i), map(*x));
                if from_map.is_vector() {
                    pointwise::copy(isa, (from, from_map), y, y_map, false);
                } else {
                    copy_pixels(from, from_map, y, y_map);
                }
            }
            Unit::MaxPool { x, window, argmax, .. } => {
                let mut positions = std::mem::take(&mut group.argmax[*argmax]);
                let n = plan.argmax[*argmax];
                let to = &mut positions[i * n..(i + 1) * n];
                pool::max_pool_forward(isa, group.value(plan, *x, i), map(*x), y, y_map, to, *window);
                group.argmax[*argmax] = positions;
            }
            Unit::AvgPool { x, window, count_padding, .. } => {
                let x_value = group.value(plan, *x, i);
                pool::avg_pool_forward(isa, x_value, map(*x), y, y_map, *window, *count_padding);
            }
            Unit::GlobalAvg { x, .. } => {
                pool::global_avg_forward(isa, group.value(plan, *x, i), map(*x), y);
            }
            Unit::Dropout { x, p, key, .. } => {
                let (from, from_map) = (group.value(plan, *x, i), map(*x));
                for row in 0..y_map.height {
                    let stream = dropout_stream(self.key, *key, first + i, row);
                    let n = y_map.row_elements();
                    let source = &from[from_map.at(row as isize, 0)..][..n];
                    let to = &mut y[y_map.at(row as isize, 0)..][..n];
                    dropout::dropout(isa, &stream, *p, source, to, false);
                }
            }
            Unit::Linear(_) => unreachable!("linear layers take a whole group"),
        }
    }

    fn conv(&self, c: &ConvUnit, group: &Group, worker: &mut Worker, i: usize, y: &mut [f32], y_map: Map) {
        let (isa, plan) = (self.isa, self.plan);
        let place = &self.params.places[c.weight];
        let weight = match &place.forward {
            Some(copy) => &self.copies[copy.range.clone()],
            None => &self.values[place.range.clone()],
        };
        let bias = self.bias(c.bias, y_map.stride);
        let mut scratch = std::mem::take(&mut worker.scratch[c.x_scratch]);
        let x = input_of(self.isa, plan, self.norms, c, group, &mut scratch, i);
        match &c.kernel {
            ConvKernel::Dense(k) => k.forward.run(isa, x, weight, bias, y, &mut worker.conv),
            ConvKernel::Grouped(k) => k.forward(isa, x, weight, bias, y),
        }
        worker.scratch[c.x_scratch] = scratch;
        if c.relu {
            pointwise::relu_in_place(isa, y, y_map);
        }
    }

    fn norm(&self, n: &NormUnit, group: &Group, i: usize, y: &mut [f32], y_map: Map) {
        let (plan, state) = (self.plan, &self.norms[n.bn]);
        let addend = match n.addend {
            Addend::None => norm::Addend::None,
            Addend::Value(t) => norm::Addend::Value(group.value(plan, t, i), plan.tensors[t].map),
            Addend::Normalized(t, bn) => {
                let other = &self.norms[bn];
                let value = group.value(plan, t, i);
                norm::Addend::Normalized(value, plan.tensors[t].map, &other.scale, &other.shift)
            }
        };
        let (z, z_map) = (group.value(plan, n.z, i), plan.tensors[n.z].map);
        normalize(self.isa, z, z_map, &state.scale, &state.shift, addend, n.relu, y, y_map);
    }

    fn group(&self, step: ForwardStep, group: &mut Group, count: usize) {
        let _running = self.clock.map(|c| c.forward(step));
        let ForwardStep::Unit(index) = step else { return };
        let Unit::Linear(l) = &self.plan.units[index] else { return };
        self.linear(l, group, count);
    }

    fn linear(&self, l: &LinearUnit, group: &mut Group, count: usize) {
        let (x, y) = (&self.plan.tensors[l.x], &self.plan.tensors[l.y]);
        let mut buffer: AlignedBuf = std::mem::take(&mut group.values[y.slot]);
        let (stride, padded) = (y.map.elements(), y.map.stride);
        let rows = Rows { data: &group.values[x.slot], count, stride: x.map.elements() };
        let weight = &self.values[self.params.places[l.weight].range.clone()];
        let bias = self.bias(l.bias, padded);
        linear(self.isa, rows, l.inputs, l.outputs, weight, bias, &mut buffer, stride);
        if l.relu {
            let map = Map::new(1, count, y.map.channels, 0);
            pointwise::relu_in_place(self.isa, &mut buffer[..map.elements()], map);
        }
        group.values[y.slot] = buffer;
    }
}

/// A convolution's input: the stored value, or a normalised value made again in `scratch`.
pub(super) fn input_of<'a>(
    isa: Isa,
    plan: &Plan,
    norms: &[NormState],
    c: &ConvUnit,
    group: &'a Group,
    scratch: &'a mut AlignedBuf,
    i: usize,
) -> &'a [f32] {
    let info = &plan.tensors[c.x];
    let Some(Unit::Norm(n)) = info.recomputed_by.map(|u| &plan.units[u]) else {
        return group.value(plan, c.x, i);
    };
    let (state, z) = (&norms[n.bn], group.value(plan, n.z, i));
    let z_map = plan.tensors[n.z].map;
    normalize(isa, z, z_map, &state.scale, &state.shift, norm::Addend::None, n.relu, scratch, info.map);
    scratch
}

/// Copies pixels between layouts of different channel strides.
fn copy_pixels(from: &[f32], from_map: Map, to: &mut [f32], to_map: Map) {
    for y in 0..to_map.height as isize {
        for x in 0..to_map.width as isize {
            let source = &from[from_map.at(y, x)..][..from_map.channels];
            to[to_map.at(y, x)..][..from_map.channels].copy_from_slice(source);
        }
    }
}
