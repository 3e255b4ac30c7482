//! The backward pass: one launch or a few for every step of the plan.

use super::boundary::Boundaries;
use super::executor::{DZ_PLACES, Executor};
use super::forward::Pieces;
use super::gradients::Uses;
use super::places::Places;
use super::weights::Weights;
use crate::Result;
use crate::plan::{Addend, BackwardStep, ConvUnit, DzSource, LinearUnit, NormUnit, TensorId, Unit};
use dkd_kernels::gpu::channels::Source;
use dkd_kernels::gpu::convolution::{Convolution, Pass};
use dkd_kernels::gpu::pointwise::{Pointwise, convert, pointwise};
use dkd_kernels::gpu::{Machine, View, aside, columns, norm, pool};
use std::cell::RefCell;

impl Executor {
    /// The gradients of all parameters from those in the boundaries.
    pub fn backward(
        &self,
        machine: &dyn Machine,
        places: &Places,
        weights: &Weights,
        boundaries: &Boundaries,
        key: &View,
        n: usize,
    ) -> Result<()> {
        let p = Pieces { machine, places, weights, key, n, aside: RefCell::default() };
        let Some(backward) = &self.plan.backward else { return Ok(()) };
        backward.steps().try_for_each(|step| self.step(&p, boundaries, *step))?;
        Ok(machine.rejoin(usize::MAX)?)
    }

    fn step(&self, p: &Pieces<'_>, boundaries: &Boundaries, step: BackwardStep) -> Result<()> {
        let gradient = |t: TensorId| self.gradient(t, p.n);
        if let BackwardStep::Copy { from, to, accumulate: false } = step
            && gradient(from)?.overlaps(&gradient(to)?)
        {
            return Ok(()); // It is there.
        }
        for t in Uses::of(&self.plan, &step).written {
            Self::about_to_write(p, &gradient(t)?)?;
        }
        match step {
            BackwardStep::Load { boundary, accumulate } => {
                let to = gradient(self.plan.boundaries[boundary])?;
                Ok(convert(p.machine, &boundaries.gradient(boundary, p.n)?, &to, accumulate)?)
            }
            BackwardStep::Copy { from, to, accumulate } => {
                let (from, to) = (gradient(from)?, gradient(to)?);
                Ok(pointwise(p.machine, Pointwise::Copy, &from, None, &to, accumulate)?)
            }
            BackwardStep::Complete { unit, residual } => match &self.plan.units[unit] {
                Unit::Norm(n) => {
                    self.about_to_write_dz(p)?;
                    self.complete(p, unit, n, residual)
                }
                _ => Ok(()),
            },
            BackwardStep::NormInput { unit, bn, z, accumulate } => {
                let g = gradient(self.plan.units[unit].output())?;
                self.norm_input(p, bn, z, &g, &gradient(z)?, accumulate)
            }
            BackwardStep::Conv { unit, source, input, .. } => match &self.plan.units[unit] {
                Unit::Conv(c) => self.conv_gradients(p, &self.plan.units[unit], c, source, input),
                _ => Ok(()),
            },
            BackwardStep::Linear { unit, input } => match &self.plan.units[unit] {
                Unit::Linear(l) => self.linear_gradients(p, &self.plan.units[unit], l, input),
                _ => Ok(()),
            },
            BackwardStep::Channels { unit, input, accumulate } => {
                let (Unit::Channels(c), Some(tables)) = (&self.plan.units[unit], &self.tables[unit]) else {
                    return Ok(());
                };
                let back = tables.back[input].as_ref().expect("made for every such step");
                let g = gradient(c.y)?;
                if c.relu {
                    self.mask(p, c.y, &g)?;
                }
                let to = gradient(c.inputs[input])?;
                Ok(back.run(p.machine, &[Source::Value(&g)], &to, false, accumulate)?)
            }
            BackwardStep::Unit { unit, accumulate } => {
                self.unit_gradient(p, &self.plan.units[unit], accumulate)
            }
        }
    }

    /// Of some places the one where nothing is read aside, or has been for longest.
    fn free<'a>(p: &Pieces<'_>, places: &'a [View; DZ_PLACES]) -> &'a View {
        let open = p.aside.borrow();
        let since = |dz: &&View| open.iter().rposition(|(from, _)| from.overlaps(dz));
        places.iter().min_by_key(since).expect("there are some")
    }

    /// Waits for what the next gradient of a normalised value needs before it is written. Kernels with nothing between them may overlap, so that
    /// is waited for before those that it comes after.
    fn about_to_write_dz(&self, p: &Pieces<'_>) -> Result<()> {
        self.dz.as_ref().map_or(Ok(()), |dz| Self::about_to_write(p, Self::free(p, dz)))
    }

    /// Waits for gradients of weights if one is made of what is there.
    fn about_to_write(p: &Pieces<'_>, to: &View) -> Result<()> {
        let mut open = p.aside.borrow_mut();
        if let Some(last) = open.iter().rposition(|(from, _)| from.overlaps(to)) {
            p.machine.rejoin(open[last].1)?;
            open.drain(..=last);
        }
        Ok(())
    }

    /// Sets the gradient of a rectified value to 0 where the value is; twice does no harm.
    fn mask(&self, p: &Pieces<'_>, y: TensorId, g: &View) -> Result<()> {
        let value = self.value(y, p.n)?;
        Ok(pointwise(p.machine, Pointwise::ReluGradient, g, Some(&value), g, false)?)
    }

    fn complete(&self, p: &Pieces<'_>, unit: usize, n: &NormUnit, residual: Option<TensorId>) -> Result<()> {
        let residual = residual.map(|t| self.gradient(t, p.n)).transpose()?;
        let gathered = self.plan.backward.iter().find_map(|backward| backward.gathered[unit].as_ref());
        let outputs = gathered.iter().flat_map(|g| &g.outputs);
        let outputs = outputs.map(|t| self.gradient(*t, p.n)).collect::<Result<Vec<_>>>()?;
        let outputs: Vec<&View> = outputs.iter().collect();
        let incoming = match (self.gathered.get(unit), &residual) {
            (Some(Some(table)), _) => norm::Incoming::Gathered(table, &outputs),
            (_, Some(residual)) => norm::Incoming::Plus(residual),
            _ => norm::Incoming::Own,
        };
        let (z, g) = (self.value(n.z, p.n)?, self.gradient(n.y, p.n)?);
        let y = self.on_the_way(n.y).is_none().then(|| self.value(n.y, p.n)).transpose()?;
        let other = self.addend_value(n, p.n)?;
        let addend = self.addend(n, other.as_ref());
        let output = norm::Output { y: y.as_ref(), z: &z, state: &self.norms[n.bn], addend, relu: n.relu };
        // Weight, its gradient, the bias's.
        let parameters = |bn: usize| -> Result<[View; 3]> {
            let bn = &self.plan.bns[bn];
            Ok([
                p.weights.value(p.places, bn.weight)?,
                p.weights.gradient(p.places, bn.weight)?,
                p.weights.gradient(p.places, bn.bias)?,
            ])
        };
        let own = parameters(n.bn)?;
        let second = match n.addend {
            Addend::Normalized(_, bn) => Some(parameters(bn)?),
            _ => None,
        };
        let second = second.as_ref().map(gradients);
        Ok(norm::complete(
            p.machine,
            &g,
            incoming,
            &output,
            &gradients(&own),
            second.as_ref(),
            &self.scratch,
        )?)
    }

    /// The gradient of what a normalisation reads, from the completed gradient `g` of its unit.
    fn norm_input(
        &self,
        p: &Pieces<'_>,
        bn: usize,
        z: TensorId,
        g: &View,
        dz: &View,
        accumulate: bool,
    ) -> Result<()> {
        Ok(norm::input_gradient(p.machine, g, &self.value(z, p.n)?, &self.norms[bn], dz, accumulate)?)
    }

    fn conv_gradients(
        &self,
        p: &Pieces<'_>,
        unit: &Unit,
        c: &ConvUnit,
        source: DzSource,
        input: Option<bool>,
    ) -> Result<()> {
        let dz = match source {
            DzSource::Gradient => {
                let g = self.gradient(c.y, p.n)?;
                if c.relu {
                    self.mask(p, c.y, &g)?;
                }
                g
            }
            DzSource::Norm { unit, bn } => {
                let g = self.gradient(self.plan.units[unit].output(), p.n)?;
                let places = self.dz(c.y, p.n)?;
                let dz = Self::free(p, &places);
                Self::about_to_write(p, dz)?;
                self.norm_input(p, bn, c.y, &g, dz, false)?;
                dz.clone()
            }
        };
        let convolution = self.convolution(unit, p.n).expect("it is one");
        self.parameter_gradients(p, &convolution, c.x, (c.weight, c.bias), &dz)?;
        self.about_to_write_dz(p)?;
        match input {
            Some(accumulate) => self.input_gradient(p, &convolution, c.x, c.weight, &dz, accumulate),
            None => Ok(()),
        }
    }

    fn linear_gradients(
        &self,
        p: &Pieces<'_>,
        unit: &Unit,
        l: &LinearUnit,
        input: Option<bool>,
    ) -> Result<()> {
        let g = self.gradient(l.y, p.n)?;
        if l.relu {
            self.mask(p, l.y, &g)?;
        }
        let convolution = self.convolution(unit, p.n).expect("it is one");
        self.parameter_gradients(p, &convolution, l.x, (l.weight, l.bias), &g)?;
        match input {
            Some(accumulate) => self.input_gradient(p, &convolution, l.x, l.weight, &g, accumulate),
            None => Ok(()),
        }
    }

    /// The gradients of weight and bias from that of the output, `g`. Nobody waits for them: they are computed aside.
    fn parameter_gradients(
        &self,
        p: &Pieces<'_>,
        convolution: &Convolution,
        x: TensorId,
        (weight, bias): (usize, Option<usize>),
        g: &View,
    ) -> Result<()> {
        let gradient = |index: usize| p.weights.gradient(p.places, index);
        let (x, to, bias) = (self.value(x, p.n)?, gradient(weight)?, bias.map(gradient).transpose()?);
        let pass = Pass::WeightGradient;
        let half = if self.is_own(pass, convolution) { None } else { self.half_weights(to.len())? };
        let number = aside(p.machine, &mut || {
            if let Some(bias) = &bias {
                columns::column_sums(p.machine, g, &self.weight_scratch, &self.tickets, bias)?;
            }
            let Some(half) = &half else {
                return self.convolve(p.machine, pass, convolution, [&x, &to, g], false);
            };
            self.convolve(p.machine, pass, convolution, [&x, half, g], false)?;
            Ok(convert(p.machine, half, &to, false)?)
        })?;
        p.aside.borrow_mut().push((g.clone(), number));
        Ok(())
    }

    fn input_gradient(
        &self,
        p: &Pieces<'_>,
        convolution: &Convolution,
        x: TensorId,
        weight: usize,
        g: &View,
        accumulate: bool,
    ) -> Result<()> {
        let (to, w) = (self.gradient(x, p.n)?, p.weights.operand(p.places, weight)?);
        self.convolve(p.machine, Pass::InputGradient, convolution, [&to, &w, g], accumulate)
    }

    /// The input's gradient of a unit that has one input and no parameters.
    fn unit_gradient(&self, p: &Pieces<'_>, unit: &Unit, accumulate: bool) -> Result<()> {
        let (machine, n) = (p.machine, p.n);
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
        let (g, to) = (self.gradient(y, n)?, self.gradient(x, n)?);
        let value = || self.value(y, n);
        match unit {
            Unit::Relu6 { .. } => {
                Ok(pointwise(machine, Pointwise::Relu6Gradient, &g, Some(&value()?), &to, accumulate)?)
            }
            Unit::Relu { .. } => {
                Ok(pointwise(machine, Pointwise::ReluGradient, &g, Some(&value()?), &to, accumulate)?)
            }
            Unit::Dropout { p: rate, key, .. } => {
                Ok(self.dropout(y, *rate, *key, n).run(machine, p.key, &g, &to, accumulate)?)
            }
            Unit::MaxPool { window, argmax, .. } => {
                let positions = self.argmax(*argmax, y, n)?;
                Ok(self.pool(x, *window, n).max_gradient(machine, &g, &positions, &to, accumulate)?)
            }
            Unit::AvgPool { window, count_padding, .. } => {
                let pool = self.pool(x, *window, n);
                Ok(pool.avg_gradient(machine, *count_padding, &g, &to, accumulate)?)
            }
            Unit::GlobalAvg { .. } => {
                Ok(pool::global_avg_gradient(machine, n, self.size(x), &g, &to, accumulate)?)
            }
            _ => Ok(pointwise(machine, Pointwise::Copy, &g, None, &to, accumulate)?),
        }
    }
}

fn gradients([gamma, d_gamma, d_beta]: &[View; 3]) -> norm::Gradients<'_> {
    norm::Gradients { gamma, d_gamma, d_beta }
}
