//! One step of the backward pass for one image or several.

use super::boundary::Boundaries;
use super::clock::Clock;
use super::forward::inputs_of;
use super::gathers::Gathers;
use super::group::{Group, Worker, gradient_range, gradient_stride};
use super::statistics::NormState;
use super::view::{Pass, Span};
use super::windows::Windows;
use super::{DropoutKey, dropout_stream};
use crate::params::ParamTable;
use crate::plan::{
    Addend, Backward, BackwardStep, ChannelsUnit, ConvKernel, ConvUnit, DzSource, LinearUnit, NormUnit, Plan,
    Run, TensorId, Unit,
};
use dkd_kernels::conv2d::Images;
use dkd_kernels::linear::{Rows, linear_input_grad, linear_weight_grad};
use dkd_kernels::norm::{self, channel_moments, complete_gradient, normalize_backward};
use dkd_kernels::{Isa, LANES, Map, dropout, pointwise, pool};
use std::ops::Range;

/// What every group reads during a stage of the backward pass.
pub(super) struct BackwardContext<'a> {
    pub isa: Isa,
    pub plan: &'a Plan,
    pub windows: Option<&'a Windows>,
    pub backward: &'a Backward,
    pub params: &'a ParamTable,
    pub values: &'a [f32],
    /// Copies of weights for this pass.
    pub copies: &'a [f32],
    pub norms: &'a [NormState],
    pub gathers: &'a Gathers,
    pub boundaries: &'a Boundaries,
    pub key: DropoutKey,
    pub clock: Option<&'a Clock>,
}

impl BackwardContext<'_> {
    /// Runs stage number `stage` for the images `part` of the batch.
    pub fn stage(&self, stage: usize, group: &mut Group, worker: &mut Worker, part: Range<usize>) {
        for (r, run) in self.backward.stages[stage].runs.iter().enumerate() {
            let window = self.windows.and_then(|windows| windows.backward(stage)[r].as_ref());
            let (isa, plan, touched) = (self.isa, self.plan, run.touched());
            let pass = Pass { isa, plan, touched, window, clock: self.clock };
            match run {
                Run::Images { steps, .. } => {
                    pass.over_images(group, worker, part.len(), |group, worker, span| {
                        steps.iter().for_each(|step| self.image(step, group, worker, part.start, &span));
                    });
                }
                Run::Group { step, .. } => self.group(step, pass, group, worker, part.clone()),
            }
        }
    }

    /// Weight gradient of a linear layer for 16 outputs and some inputs of one group: written or added to `dw`.
    pub fn linear_weights(
        &self,
        l: &LinearUnit,
        group: &Group,
        count: usize,
        (block, inputs): (usize, Range<usize>),
        dw: &mut [f32],
        accumulate: bool,
    ) {
        let (x, y) = (&self.plan.tensors[l.x], &self.plan.tensors[l.y]);
        let rows = Rows { data: &group.values[x.slot], count, stride: x.map.elements() };
        let gradient = &group.gradients[y.gradient_slot][block * LANES..];
        let dy = Rows { data: gradient, count, stride: gradient_stride(self.plan, l.y) };
        linear_weight_grad(self.isa, rows, dy, inputs, LANES, dw, accumulate);
    }

    fn map(&self, t: TensorId) -> Map {
        self.plan.tensors[t].map
    }

    /// Calls `f` with the gradient of image `i` of tensor `t`, taken out of the group meanwhile.
    fn with_gradient(
        &self,
        group: &mut Group,
        t: TensorId,
        i: usize,
        f: impl FnOnce(&mut Group, &mut [f32]),
    ) {
        let slot = self.plan.tensors[t].gradient_slot;
        let mut buffer = std::mem::take(&mut group.gradients[slot]);
        f(group, &mut buffer[gradient_range(self.plan, t, i)]);
        group.gradients[slot] = buffer;
    }

    fn image(&self, step: &BackwardStep, group: &mut Group, worker: &mut Worker, first: usize, span: &Span) {
        let _running = self.clock.map(|c| c.backward(step));
        let (isa, plan, i) = (self.isa, self.plan, span.at);
        match *step {
            BackwardStep::Copy { from, to, accumulate } => {
                self.with_gradient(group, to, i, |group, dx| {
                    let dy = group.gradient(plan, from, i);
                    let (from, to) = (self.map(from).with_border(0), self.map(to).with_border(0));
                    pointwise::copy(isa, (dy, from), dx, to, accumulate);
                });
            }
            BackwardStep::Complete { unit, residual } => {
                if let Unit::Norm(n) = &plan.units[unit] {
                    self.complete(n, self.backward.sums[unit], residual, group, worker, i);
                }
            }
            BackwardStep::NormInput { unit, bn, z, accumulate } => {
                let (y, state) = (plan.units[unit].output(), &self.norms[bn]);
                self.with_gradient(group, z, i, |group, dz| {
                    let g = (group.gradient(plan, y, i), self.map(y).with_border(0));
                    let value = (group.value(plan, z, i), self.map(z));
                    let c = [&*state.c[0], &*state.c[1], &*state.c[2]];
                    normalize_backward(isa, g, value, c, dz, self.map(z).with_border(0), accumulate);
                });
            }
            BackwardStep::Conv { unit, source, partial, input } => {
                if let Unit::Conv(c) = &plan.units[unit] {
                    let sums = self.backward.sums[unit];
                    self.conv(c, sums, source, partial, input, group, worker, span);
                }
            }
            BackwardStep::Channels { unit, input, accumulate } => {
                if let Unit::Channels(c) = &plan.units[unit] {
                    self.channels(c, input, accumulate, group, i);
                }
            }
            BackwardStep::Unit { unit, accumulate } => {
                self.unit(&plan.units[unit], accumulate, group, worker, first, span);
            }
            BackwardStep::Load { .. } | BackwardStep::Linear { .. } => {
                unreachable!("taken for a whole group")
            }
        }
    }

    fn channels(&self, c: &ChannelsUnit, input: usize, accumulate: bool, group: &mut Group, i: usize) {
        let (x, back) = (c.inputs[input], &c.backward[input]);
        self.with_gradient(group, x, i, |group, dx| {
            let dy = (group.gradient(self.plan, c.y, i), self.map(c.y).with_border(0));
            let x_map = self.map(x).with_border(0);
            if c.relu {
                let output = (group.value(self.plan, c.y, i), self.map(c.y));
                back.run_where_positive(self.isa, dy, output, dx, x_map, accumulate);
            } else {
                back.run(self.isa, [dy], dx, x_map, false, accumulate);
            }
        });
    }

    fn complete(
        &self,
        n: &NormUnit,
        sums: usize,
        residual: Option<TensorId>,
        group: &mut Group,
        worker: &mut Worker,
        i: usize,
    ) {
        let plan = self.plan;
        let mut all_sums = std::mem::take(&mut group.sums);
        let stride = self.map(n.y).stride;
        let sums = &mut all_sums[sums..sums + 3 * stride];
        let (first, rest) = sums.split_at_mut(stride);
        let (second, third) = rest.split_at_mut(stride);
        self.with_gradient(group, n.y, i, |group, g| {
            let no_border = |t: TensorId| self.map(t).with_border(0);
            let state = &self.norms[n.bn];
            let mask = match (n.relu, plan.tensors[n.y].recomputed_by) {
                (false, _) => norm::Mask::None,
                (true, None) => norm::Mask::Output(group.value(plan, n.y, i), self.map(n.y)),
                (true, Some(_)) => norm::Mask::Recompute(&state.scale, &state.shift),
            };
            let residual = residual.map(|t| (group.gradient(plan, t, i), no_border(t)));
            let z = (group.value(plan, n.z, i), self.map(n.z));
            let other = match n.addend {
                Addend::Normalized(t, _) => Some((group.value(plan, t, i), self.map(t))),
                _ => None,
            };
            let scratch = &mut worker.channels;
            complete_gradient(
                self.isa,
                g,
                no_border(n.y),
                residual,
                mask,
                z,
                other,
                scratch,
                [first, second, third],
            );
        });
        group.sums = all_sums;
    }

    /// Gradients of a convolution for one image or several.
    #[allow(clippy::too_many_arguments)]
    fn conv(
        &self,
        c: &ConvUnit,
        sums: usize,
        source: DzSource,
        partial: usize,
        input: Option<bool>,
        group: &mut Group,
        worker: &mut Worker,
        span: &Span,
    ) {
        let (isa, plan) = (self.isa, self.plan);
        let (x_map, dz_step) = (self.map(c.x), c.dz_map.elements());
        let mut dz_buffer = std::mem::take(&mut worker.scratch[c.dz_scratch]);
        for (i, dz) in span.places().zip(dz_buffer.chunks_exact_mut(dz_step)) {
            self.form_dz(c, source, group, dz, i);
            if c.bias.is_some() {
                let all = &mut group.sums[sums..sums + 2 * c.dz_map.stride];
                let (sum, square) = all.split_at_mut(c.dz_map.stride);
                channel_moments(isa, dz, c.dz_map, &mut worker.channels, sum, square);
            }
        }
        let dz = &dz_buffer[..span.len() * dz_step];
        let range = self.params.places[c.weight].range.clone();
        let mut partials = std::mem::take(&mut group.partial);
        let dw = &mut partials[partial..partial + range.len()];
        let mut x_buffer = std::mem::take(&mut worker.scratch[c.x_scratch]);
        let x = inputs_of(isa, plan, (self.norms, self.gathers), c, group, &mut x_buffer, span.places());
        let accumulate = span.images.start > 0;
        match &c.kernel {
            ConvKernel::Dense(k) => {
                let images = Images { count: span.len(), from: x_map.elements(), to: dz_step };
                k.weight_grad.run(isa, images, x, dz, dw, accumulate, &mut worker.conv);
            }
            ConvKernel::Grouped(k) => k.weight_grad(isa, &x[..x_map.elements()], dz, dw, accumulate),
        }
        worker.scratch[c.x_scratch] = x_buffer;
        group.partial = partials;
        if let Some(accumulate) = input {
            let (slot, step) = (plan.tensors[c.x].gradient_slot, gradient_stride(plan, c.x));
            let copy = self.params.places[c.weight].backward.as_ref();
            let weight = copy.map_or(&self.values[range], |copy| &self.copies[copy.range.clone()]);
            let dx = &mut group.gradients[slot][span.at * step..];
            match &c.kernel {
                ConvKernel::Dense(k) => {
                    let kernel = k.input_grad.as_ref().expect("a tensor with a gradient has whole vectors");
                    let images = Images { count: span.len(), from: dz_step, to: step };
                    kernel.run(isa, images, dz, weight, dx, accumulate, &mut worker.conv);
                }
                ConvKernel::Grouped(k) => {
                    k.input_grad(isa, dz, weight, &mut dx[..x_map.with_border(0).elements()], accumulate);
                }
            }
        }
        worker.scratch[c.dz_scratch] = dz_buffer;
    }

    /// The gradient of a convolution's own output, with the border its loops need.
    fn form_dz(&self, c: &ConvUnit, source: DzSource, group: &Group, dz: &mut [f32], i: usize) {
        let (isa, plan) = (self.isa, self.plan);
        match source {
            DzSource::Norm { unit, bn } => {
                let (y, state) = (plan.units[unit].output(), &self.norms[bn]);
                let g = (group.gradient(plan, y, i), self.map(y).with_border(0));
                let z = (group.value(plan, c.y, i), self.map(c.y));
                let coefficients = [&*state.c[0], &*state.c[1], &*state.c[2]];
                normalize_backward(isa, g, z, coefficients, dz, c.dz_map, false);
            }
            DzSource::Gradient => {
                let g = (group.gradient(plan, c.y, i), self.map(c.y).with_border(0));
                if c.relu {
                    let y = (group.value(plan, c.y, i), self.map(c.y));
                    pointwise::relu_backward(isa, y, g, dz, c.dz_map, false);
                } else {
                    pointwise::copy(isa, g, dz, c.dz_map, false);
                }
            }
        }
    }

    fn unit(
        &self,
        unit: &Unit,
        accumulate: bool,
        group: &mut Group,
        worker: &mut Worker,
        first: usize,
        span: &Span,
    ) {
        let (isa, plan, i, image) = (self.isa, self.plan, span.at, span.images.start);
        let (Unit::Relu { x, y }
        | Unit::Relu6 { x, y }
        | Unit::Copy { x, y }
        | Unit::Dropout { x, y, .. }
        | Unit::MaxPool { x, y, .. }
        | Unit::AvgPool { x, y, .. }
        | Unit::GlobalAvg { x, y, .. }) = *unit
        else {
            unreachable!("other units have steps of their own")
        };
        let (x_map, y_map) = (self.map(x).with_border(0), self.map(y).with_border(0));
        self.with_gradient(group, x, i, |group, dx| {
            let dy = group.gradient(plan, y, i);
            match unit {
                Unit::Relu { .. } => {
                    let output = (group.value(plan, y, i), self.map(y));
                    pointwise::relu_backward(isa, output, (dy, y_map), dx, x_map, accumulate);
                }
                Unit::Relu6 { .. } => {
                    let output = (group.value(plan, y, i), self.map(y));
                    pointwise::relu6_backward(isa, output, (dy, y_map), dx, x_map, accumulate);
                }
                Unit::Copy { .. } => pointwise::copy(isa, (dy, y_map), dx, x_map, accumulate),
                Unit::Dropout { p, key, .. } => {
                    for row in 0..y_map.height {
                        let stream = dropout_stream(self.key, *key, first + image, row);
                        let part =
                            y_map.at(row as isize, 0)..y_map.at(row as isize, 0) + y_map.row_elements();
                        dropout::dropout(isa, &stream, *p, &dy[part.clone()], &mut dx[part], accumulate);
                    }
                }
                Unit::MaxPool { window, argmax, scratch, .. } => {
                    let n = plan.argmax[*argmax];
                    let positions = &group.argmax[*argmax][image * n..(image + 1) * n];
                    accumulated(isa, accumulate, dx, x_map, &mut worker.scratch[*scratch], |dx| {
                        pool::max_pool_backward(isa, dy, y_map, positions, dx, x_map, *window);
                    });
                }
                Unit::AvgPool { window, count_padding, scratch, .. } => {
                    accumulated(isa, accumulate, dx, x_map, &mut worker.scratch[*scratch], |dx| {
                        pool::avg_pool_backward(isa, dy, y_map, dx, x_map, *window, *count_padding);
                    });
                }
                Unit::GlobalAvg { scratch, .. } => {
                    accumulated(isa, accumulate, dx, x_map, &mut worker.scratch[*scratch], |dx| {
                        pool::global_avg_backward(isa, dy, dx, x_map);
                    });
                }
                Unit::Conv(_) | Unit::Linear(_) | Unit::Norm(_) | Unit::Add { .. } | Unit::Channels(_) => {}
            }
        });
    }

    fn group(
        &self,
        step: &BackwardStep,
        pass: Pass<'_>,
        group: &mut Group,
        worker: &mut Worker,
        part: Range<usize>,
    ) {
        let _running = self.clock.map(|c| c.backward(step));
        match *step {
            BackwardStep::Load { boundary, accumulate } => {
                let t = self.plan.boundaries[boundary];
                let map = self.map(t).with_border(0);
                for i in 0..part.len() {
                    self.with_gradient(group, t, i, |_, g| {
                        self.boundaries.read(boundary, part.start + i, g, map, accumulate);
                    });
                }
            }
            BackwardStep::Linear { unit, input } => {
                if let Unit::Linear(l) = &self.plan.units[unit] {
                    self.linear(l, self.backward.sums[unit], input, group, part.len());
                }
            }
            BackwardStep::Conv { unit, source, partial, input } => {
                if let Unit::Conv(c) = &self.plan.units[unit] {
                    let sums = self.backward.sums[unit];
                    pass.over_images(group, worker, part.len(), |group, worker, span| {
                        self.conv(c, sums, source, partial, input, group, worker, &span);
                    });
                }
            }
            _ => unreachable!("taken image by image"),
        }
    }

    fn linear(&self, l: &LinearUnit, sums: usize, input: Option<bool>, group: &mut Group, count: usize) {
        let (x, y) = (&self.plan.tensors[l.x], &self.plan.tensors[l.y]);
        for i in 0..count {
            let mut gradient = std::mem::take(&mut group.gradients[y.gradient_slot]);
            let g = &mut gradient[gradient_range(self.plan, l.y, i)];
            if l.relu {
                let value = group.value(self.plan, l.y, i);
                g.iter_mut().zip(value).filter(|(_, v)| **v <= 0.0).for_each(|(g, _)| *g = 0.0);
            }
            if l.bias.is_some() {
                group.sums[sums..].iter_mut().zip(g.iter()).for_each(|(s, g)| *s += f64::from(*g));
            }
            group.gradients[y.gradient_slot] = gradient;
        }
        let Some(accumulate) = input else { return };
        let mut dx = std::mem::take(&mut group.gradients[x.gradient_slot]);
        let stride = gradient_stride(self.plan, l.y);
        let dy = Rows { data: &group.gradients[y.gradient_slot], count, stride };
        let copy = self.params.places[l.weight].backward.as_ref();
        let transposed = &self.copies[copy.expect("linear weights have a transposed copy").range.clone()];
        let dx_stride = gradient_stride(self.plan, l.x);
        linear_input_grad(self.isa, dy, l.inputs, l.outputs, transposed, &mut dx, dx_stride, accumulate);
        group.gradients[x.gradient_slot] = dx;
    }
}

/// Runs a kernel that only writes: directly, or through `scratch` where its result is to be added.
fn accumulated(
    isa: Isa,
    accumulate: bool,
    dx: &mut [f32],
    map: Map,
    scratch: &mut [f32],
    kernel: impl FnOnce(&mut [f32]),
) {
    if accumulate {
        kernel(scratch);
        pointwise::copy(isa, (scratch, map), dx, map, true);
    } else {
        kernel(dx);
    }
}
