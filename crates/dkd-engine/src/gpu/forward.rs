//! The forward pass: one launch or a few for every unit of the plan.

use super::executor::Executor;
use super::places::Places;
use super::weights::Weights;
use crate::Result;
use crate::plan::{Addend, ChannelsUnit, ConvUnit, LinearUnit, NormUnit, Purpose, TensorId, Unit};
use dkd_kernels::gpu::channels::Source;
use dkd_kernels::gpu::convolution::Pass;
use dkd_kernels::gpu::dropout::Dropout;
use dkd_kernels::gpu::pointwise::{Pointwise, pointwise};
use dkd_kernels::gpu::pool::{self, Pool};
use dkd_kernels::gpu::{Machine, View, columns, norm};
use dkd_kernels::pool::Window;
use std::cell::RefCell;

/// What every step of a pass reads.
pub(super) struct Pieces<'a> {
    pub machine: &'a dyn Machine,
    pub places: &'a Places,
    pub weights: &'a Weights,
    /// What dropout masks depend on.
    pub key: &'a View,
    /// Images.
    pub n: usize,
    /// Gradients of outputs that those of weights are made of, aside, with their numbers: nothing may be written there before they rejoin.
    pub aside: RefCell<Vec<(View, usize)>>,
}

impl Executor {
    /// Runs the images of the input.
    pub fn forward(
        &self,
        machine: &dyn Machine,
        places: &Places,
        weights: &Weights,
        key: &View,
        n: usize,
    ) -> Result<()> {
        let p = Pieces { machine, places, weights, key, n, aside: RefCell::default() };
        if self.plan.purpose == Purpose::Infer && !weights.frozen {
            self.all_running(&p)?;
        }
        self.moments(&p, self.plan.input)?;
        for (index, unit) in self.plan.units.iter().enumerate() {
            // A value that a single convolution reads is made when that one needs it.
            if self.plan.tensors[unit.output()].recomputed_by.is_none() {
                self.unit(&p, index, unit)?;
                self.moments(&p, unit.output())?;
            }
        }
        Ok(())
    }

    /// The affine maps of all normalisations, from running statistics.
    pub fn all_running(&self, p: &Pieces<'_>) -> Result<()> {
        (0..self.plan.bns.len()).try_for_each(|bn| self.running(p, bn))
    }

    /// Batch statistics of everything that normalises tensor `t`.
    fn moments(&self, p: &Pieces<'_>, t: TensorId) -> Result<()> {
        if self.plan.purpose == Purpose::Infer {
            return Ok(());
        }
        for (index, bn) in self.plan.bns.iter().enumerate().filter(|(_, bn)| bn.z == t) {
            let z = self.value(bn.z, p.n)?;
            self.with_affine(p, index, |affine, state| {
                norm::moments(p.machine, &z, affine, &self.scratch, state)
            })?;
        }
        Ok(())
    }

    /// The affine map of a batch normalisation from its running statistics.
    fn running(&self, p: &Pieces<'_>, index: usize) -> Result<()> {
        self.with_affine(p, index, |affine, state| norm::running(p.machine, affine, state))
    }

    /// Calls `f` with a batch normalisation's parameters and state.
    fn with_affine(
        &self,
        p: &Pieces<'_>,
        index: usize,
        f: impl FnOnce(&norm::Affine<'_>, &norm::Channels) -> dkd_kernels::gpu::Result<()>,
    ) -> Result<()> {
        let bn = &self.plan.bns[index];
        let (gamma, beta) = (p.weights.value(p.places, bn.weight)?, p.weights.value(p.places, bn.bias)?);
        let mean = p.weights.statistic(p.places, bn.running_mean)?;
        let var = p.weights.statistic(p.places, bn.running_var)?;
        let (running, eps, momentum) = ([&mean, &var], bn.eps, bn.momentum);
        let lacking = self.lacking(p, bn.z)?;
        let affine =
            norm::Affine { gamma: &gamma, beta: &beta, lacking: lacking.as_ref(), running, eps, momentum };
        Ok(f(&affine, &self.norms[index])?)
    }

    fn unit(&self, p: &Pieces<'_>, index: usize, unit: &Unit) -> Result<()> {
        let (machine, n) = (p.machine, p.n);
        let value = |t: TensorId| self.value(t, n);
        match unit {
            Unit::Conv(c) => self.conv(p, index, c),
            Unit::Linear(l) => self.linear(p, unit, l),
            Unit::Norm(norm) => self.norm(p, index, norm),
            Unit::Channels(c) => self.gather(p, index, c),
            Unit::Relu { x, y } => {
                Ok(pointwise(machine, Pointwise::Relu, &value(*x)?, None, &value(*y)?, false)?)
            }
            Unit::Relu6 { x, y } => {
                Ok(pointwise(machine, Pointwise::Relu6, &value(*x)?, None, &value(*y)?, false)?)
            }
            Unit::Add { a, b, y } => {
                let b = value(*b)?;
                Ok(pointwise(machine, Pointwise::Add, &value(*a)?, Some(&b), &value(*y)?, false)?)
            }
            Unit::Copy { x, y } => {
                Ok(pointwise(machine, Pointwise::Copy, &value(*x)?, None, &value(*y)?, false)?)
            }
            Unit::MaxPool { x, y, window, argmax, .. } => {
                let positions = self.argmax(*argmax, *y, n)?;
                let (pool, bias) = (self.pool(*x, *window, n), self.lacking(p, *x)?);
                Ok(pool.max(machine, &value(*x)?, bias.as_ref(), &value(*y)?, &positions)?)
            }
            Unit::AvgPool { x, y, window, count_padding, .. } => {
                let pool = self.pool(*x, *window, n);
                Ok(pool.avg(machine, *count_padding, &value(*x)?, &value(*y)?)?)
            }
            Unit::GlobalAvg { x, y, .. } => {
                Ok(pool::global_avg(machine, n, self.size(*x), &value(*x)?, &value(*y)?)?)
            }
            Unit::Dropout { x, y, p: rate, key } => {
                let dropout = self.dropout(*y, *rate, *key, n);
                Ok(dropout.run(machine, p.key, &value(*x)?, &value(*y)?, false)?)
            }
        }
    }

    /// Pooling of tensor `x`.
    pub(super) fn pool(&self, x: TensorId, window: Window, images: usize) -> Pool {
        Pool { images, input: self.size(x), window }
    }

    /// Dropout of a tensor like `y`.
    pub(super) fn dropout(&self, y: TensorId, p: f32, layer: u64, images: usize) -> Dropout {
        let (height, width, channels) = self.size(y);
        Dropout { shape: [images, height, width, channels], p, layer }
    }

    /// The value that a convolution reads, made first if it is not kept.
    pub(super) fn made(&self, p: &Pieces<'_>, t: TensorId) -> Result<View> {
        if let Some(maker) = self.plan.tensors[t].recomputed_by {
            let unit = &self.plan.units[maker];
            if let Unit::Norm(n) = unit
                && self.is_fused(maker, p.n)
            {
                return self.value(n.z, p.n);
            }
            self.unit(p, maker, unit)?;
        }
        self.value(t, p.n)
    }

    fn conv(&self, p: &Pieces<'_>, index: usize, c: &ConvUnit) -> Result<()> {
        if let Some(pair) = self.fused_pair(index, p.n) {
            return self.begin_pair(p, pair);
        }
        let unit = &self.plan.units[index];
        let (x, y) = (self.made(p, c.x)?, self.value(c.y, p.n)?);
        let w = p.weights.operand(p.places, c.weight)?;
        let convolution = self.convolution(unit, p.n).expect("it is one");
        self.convolve(p.machine, Pass::Forward, &convolution, [&x, &w, &y], false)?;
        if self.lacking[c.y].is_some() {
            return Ok(());
        }
        self.bias(p, c.bias, c.relu, &y)
    }

    /// The bias that tensor `t` lacks.
    fn lacking(&self, p: &Pieces<'_>, t: TensorId) -> Result<Option<View>> {
        self.lacking[t].map(|bias| p.weights.value(p.places, bias)).transpose()
    }

    fn linear(&self, p: &Pieces<'_>, unit: &Unit, l: &LinearUnit) -> Result<()> {
        let (x, y) = (self.value(l.x, p.n)?, self.value(l.y, p.n)?);
        let w = p.weights.operand(p.places, l.weight)?;
        if let Some(linear) = self.long_linear(unit, p.n) {
            let bias = l.bias.map(|bias| p.weights.value(p.places, bias)).transpose()?;
            return Ok(linear.forward(p.machine, [&x, &w, &y], (bias.as_ref(), l.relu), &self.scratch)?);
        }
        let convolution = self.convolution(unit, p.n).expect("it is one");
        self.convolve(p.machine, Pass::Forward, &convolution, [&x, &w, &y], false)?;
        self.bias(p, l.bias, l.relu, &y)
    }

    /// Adds a bias, and rectifies.
    fn bias(&self, p: &Pieces<'_>, bias: Option<usize>, relu: bool, y: &View) -> Result<()> {
        match bias {
            Some(i) => Ok(columns::add_bias(p.machine, y, &p.weights.value(p.places, i)?, relu)?),
            None if relu => Ok(pointwise(p.machine, Pointwise::Relu, y, None, y, false)?),
            None => Ok(()),
        }
    }

    /// Channels in another order, of what is stored and of what is normalised on the way.
    fn gather(&self, p: &Pieces<'_>, index: usize, c: &ChannelsUnit) -> Result<()> {
        let norms: Vec<_> = c.inputs.iter().map(|t| self.on_the_way(*t)).collect();
        let read = c.inputs.iter().zip(&norms).map(|(t, norm)| norm.map_or(*t, |norm| norm.z));
        let views = read.map(|t| self.value(t, p.n)).collect::<Result<Vec<_>>>()?;
        let sources = views.iter().zip(norms).map(|(view, norm)| match norm {
            Some(norm) => Source::Normalized { z: view, state: &self.norms[norm.bn], relu: norm.relu },
            None => Source::Value(view),
        });
        let table = &self.tables[index].as_ref().expect("made for every such unit").forward;
        Ok(table.run(p.machine, &sources.collect::<Vec<_>>(), &self.value(c.y, p.n)?, c.relu, false)?)
    }

    fn norm(&self, p: &Pieces<'_>, index: usize, n: &NormUnit) -> Result<()> {
        if self.is_fused(index, p.n) {
            return self.complete_pair(p, index);
        }
        let (z, y) = (self.value(n.z, p.n)?, self.value(n.y, p.n)?);
        let other = self.addend_value(n, p.n)?;
        let addend = self.addend(n, other.as_ref());
        Ok(norm::apply(p.machine, &z, &self.norms[n.bn], addend, n.relu, &y)?)
    }

    /// The tensor that a normalised value is added to.
    pub(super) fn addend_value(&self, n: &NormUnit, images: usize) -> Result<Option<View>> {
        match n.addend {
            Addend::None => Ok(None),
            Addend::Value(t) | Addend::Normalized(t, _) => Ok(Some(self.value(t, images)?)),
        }
    }

    /// The same for a kernel.
    pub(super) fn addend<'a>(&'a self, n: &NormUnit, value: Option<&'a View>) -> norm::Addend<'a> {
        match (n.addend, value) {
            (Addend::Value(_), Some(value)) => norm::Addend::Value(value),
            (Addend::Normalized(_, bn), Some(value)) => norm::Addend::Normalized(value, &self.norms[bn]),
            _ => norm::Addend::None,
        }
    }
}
