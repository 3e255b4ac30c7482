//! One step of the forward pass for one image or several.

use super::boundary::Boundaries;
use super::clock::Clock;
use super::gathers::Gathers;
use super::group::{Group, Worker, value_range};
use super::images::Images as Batch;
use super::statistics::NormState;
use super::view::{Pass, Span};
use super::windows::Windows;
use super::{DropoutKey, dropout_stream};
use crate::params::ParamTable;
use crate::plan::{Addend, ConvKernel, ConvUnit, ForwardStep, LinearUnit, NormUnit, Plan, Run, Unit};
use dkd_kernels::conv2d::Images;
use dkd_kernels::linear::{Rows, linear};
use dkd_kernels::norm::{self, channel_moments, normalize};
use dkd_kernels::{AlignedBuf, Isa, Map, dropout, pointwise, pool};
use std::ops::Range;

/// What every group reads during a stage of the forward pass.
pub(super) struct ForwardContext<'a> {
    pub isa: Isa,
    pub plan: &'a Plan,
    pub windows: Option<&'a Windows>,
    pub params: &'a ParamTable,
    pub values: &'a [f32],
    /// Copies of weights for this pass.
    pub copies: &'a [f32],
    pub zeros: &'a [f32],
    pub norms: &'a [NormState],
    pub gathers: &'a Gathers,
    pub images: &'a Batch<'a>,
    pub key: DropoutKey,
    pub clock: Option<&'a Clock>,
}

impl ForwardContext<'_> {
    /// Runs stage number `stage` for the images `part` of the batch.
    pub fn stage(&self, stage: usize, group: &mut Group, worker: &mut Worker, part: Range<usize>) {
        for (r, run) in self.plan.stages[stage].runs.iter().enumerate() {
            let window = self.windows.and_then(|windows| windows.forward(stage)[r].as_ref());
            let (isa, plan, touched) = (self.isa, self.plan, run.touched());
            let pass = Pass { isa, plan, touched, window, clock: self.clock };
            match run {
                Run::Images { steps, .. } => {
                    pass.over_images(group, worker, part.len(), |group, worker, span| {
                        steps.iter().for_each(|step| self.image(*step, group, worker, part.start, &span));
                    });
                }
                Run::Group { step: ForwardStep::Unit(unit), .. } => {
                    let _running = self.clock.map(|c| c.forward(ForwardStep::Unit(*unit)));
                    match &plan.units[*unit] {
                        Unit::Linear(l) => self.linear(l, group, part.len()),
                        Unit::Conv(c) => {
                            pass.over_images(group, worker, part.len(), |group, worker, span| {
                                self.conv(c, group, worker, &span);
                            });
                        }
                        _ => unreachable!("taken image by image"),
                    }
                }
                Run::Group { .. } => unreachable!("taken image by image"),
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

    fn image(&self, step: ForwardStep, group: &mut Group, worker: &mut Worker, first: usize, span: &Span) {
        let _running = self.clock.map(|c| c.forward(step));
        let (isa, plan, i) = (self.isa, self.plan, span.at);
        match step {
            ForwardStep::Load => {
                let info = &plan.tensors[plan.input];
                let to = &mut group.values[info.slot][value_range(plan, plan.input, i)];
                self.images.load(first + span.images.start, to, info.map);
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
                if let Unit::Conv(c) = unit {
                    return self.conv(c, group, worker, span);
                }
                let t = unit.output();
                let (slot, y_map) = (plan.tensors[t].slot, plan.tensors[t].map);
                let mut buffer = std::mem::take(&mut group.values[slot]);
                let y = &mut buffer[value_range(plan, t, i)];
                self.unit(index, group, first, span, y, y_map);
                group.values[slot] = buffer;
            }
        }
    }

    fn unit(&self, index: usize, group: &mut Group, first: usize, span: &Span, y: &mut [f32], y_map: Map) {
        let (isa, plan, i) = (self.isa, self.plan, span.at);
        let map = |t: usize| plan.tensors[t].map;
        match &plan.units[index] {
            Unit::Norm(n) => self.norm(n, group, i, y, y_map),
            Unit::Channels(c) => {
                self.gathers.run(isa, plan, (index, &**c), group, i, y, y_map);
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
                let (n, image) = (plan.argmax[*argmax], span.images.start);
                let to = &mut positions[image * n..(image + 1) * n];
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
                    let stream = dropout_stream(self.key, *key, first + span.images.start, row);
                    let n = y_map.row_elements();
                    let source = &from[from_map.at(row as isize, 0)..][..n];
                    let to = &mut y[y_map.at(row as isize, 0)..][..n];
                    dropout::dropout(isa, &stream, *p, source, to, false);
                }
            }
            Unit::Conv(_) | Unit::Linear(_) => unreachable!("they take several images"),
        }
    }

    /// A convolution of one image or several.
    fn conv(&self, c: &ConvUnit, group: &mut Group, worker: &mut Worker, span: &Span) {
        let (isa, plan) = (self.isa, self.plan);
        let (x_map, y_map, y_slot) = (plan.tensors[c.x].map, plan.tensors[c.y].map, plan.tensors[c.y].slot);
        let place = &self.params.places[c.weight];
        let weight = match &place.forward {
            Some(copy) => &self.copies[copy.range.clone()],
            None => &self.values[place.range.clone()],
        };
        let bias = self.bias(c.bias, y_map.stride);
        let mut buffer = std::mem::take(&mut group.values[y_slot]);
        let y = &mut buffer[value_range(plan, c.y, span.at).start..];
        let mut scratch = std::mem::take(&mut worker.scratch[c.x_scratch]);
        let x = inputs_of(isa, plan, (self.norms, self.gathers), c, group, &mut scratch, span.places());
        let images = Images { count: span.len(), from: x_map.elements(), to: y_map.elements() };
        match &c.kernel {
            ConvKernel::Dense(k) => k.forward.run(isa, images, x, weight, bias, y, &mut worker.conv),
            ConvKernel::Grouped(k) => {
                k.forward(isa, &x[..images.from], weight, bias, &mut y[..images.to]);
            }
        }
        worker.scratch[c.x_scratch] = scratch;
        if c.relu {
            y.chunks_exact_mut(images.to).take(images.count).for_each(|y| {
                pointwise::relu_in_place(isa, y, y_map);
            });
        }
        group.values[y_slot] = buffer;
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

/// A convolution's inputs: the stored values, or values made again in `scratch`. They begin with the first image of `part`.
pub(super) fn inputs_of<'a>(
    isa: Isa,
    plan: &Plan,
    (norms, gathers): (&[NormState], &Gathers),
    c: &ConvUnit,
    group: &'a Group,
    scratch: &'a mut AlignedBuf,
    part: Range<usize>,
) -> &'a [f32] {
    let info = &plan.tensors[c.x];
    let Some(maker) = info.recomputed_by else {
        return &group.values[info.slot][value_range(plan, c.x, part.start).start..];
    };
    for (i, x) in part.zip(scratch.chunks_exact_mut(info.map.elements())) {
        match &plan.units[maker] {
            Unit::Norm(n) => {
                let (state, z, z_map) = (&norms[n.bn], group.value(plan, n.z, i), plan.tensors[n.z].map);
                normalize(isa, z, z_map, &state.scale, &state.shift, norm::Addend::None, n.relu, x, info.map);
            }
            Unit::Channels(c) => gathers.run(isa, plan, (maker, &**c), group, i, x, info.map),
            _ => unreachable!("other values are stored"),
        }
    }
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
