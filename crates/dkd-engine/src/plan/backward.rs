//! Stages of the backward pass.
//!
//! Units are visited in reverse. The first contribution to a tensor's gradient writes it, later ones add to it. The
//! gradient of `relu(norm(z) + …)` is *completed* (residual added, ReLU's mask applied) while the sums for the
//! normalisation are gathered; after the barrier, the convolution that made z forms its output gradient from it on the
//! fly.

use super::Gathers;
use super::forward::Run;
use super::lower::Lowered;
use super::slots::{self, Life, Slot};
use super::touched::note_backward;
use super::unit::{Addend, ChannelsUnit, ConvUnit, LinearUnit, NormUnit, TensorId, Unit};
use crate::params::ParamTable;
use dkd_kernels::LANES;
use dkd_kernels::channels::{ChannelMap, MAX_SOURCES};
use std::ops::Range;

/// Longest piece of a weight gradient that one thread sums over the groups at a time.
const REDUCE_ELEMENTS: usize = 8 * 1024;

/// Inputs of a linear layer whose weight gradient one thread computes at a time: the piece stays in the first-level cache.
const LINEAR_INPUTS: usize = 256;

/// Where a convolution's output gradient comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum DzSource {
    /// The gradient slot of its output.
    Gradient,
    /// The completed gradient of the normalisation `unit` that alone reads the output, through `bn`.
    Norm { unit: usize, bn: usize },
}

/// One step of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BackwardStep {
    /// The loss's gradient of a boundary comes in (for the whole group).
    Load { boundary: usize, accumulate: bool },
    /// One tensor's gradient is (part of) another's.
    Copy { from: TensorId, to: TensorId, accumulate: bool },
    /// Completes a normalisation's output gradient, wherever it comes from ([`Backward::gathered`]), and gathers its sums.
    Complete { unit: usize, residual: Option<TensorId> },
    /// Gradient of a normalisation's input, for inputs that no convolution makes.
    NormInput { unit: usize, bn: usize, z: TensorId, accumulate: bool },
    /// Weight and input gradients of a convolution; `input` tells whether to add, if it is wanted at all.
    Conv { unit: usize, source: DzSource, partial: usize, input: Option<bool> },
    /// Input gradient and bias sums of a linear layer (for the whole group).
    Linear { unit: usize, input: Option<bool> },
    /// Gradient of one input of a unit that rearranges channels.
    Channels { unit: usize, input: usize, accumulate: bool },
    /// Input gradient of any other unit with one input.
    Unit { unit: usize, accumulate: bool },
}

/// The sum of weight gradients over the groups, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reduce {
    /// Ascending pieces of the flat gradient.
    pub ranges: Vec<Range<usize>>,
    /// Where each piece begins in a group's partial gradient.
    pub partial: Vec<usize>,
}

/// Weight gradient of a linear layer, computed over all groups in pieces of 16 outputs and some inputs.
#[derive(Clone, Debug)]
pub(crate) struct LinearWeights {
    pub unit: usize,
    /// Ascending pieces of the flat gradient.
    pub ranges: Vec<Range<usize>>,
    /// For each piece the block of outputs and the inputs.
    pub parts: Vec<(usize, Range<usize>)>,
}

/// Where the gradient of a normalised value is that only gathers read ([`Gathers::Folded`]).
#[derive(Clone, Debug)]
pub(crate) struct GatheredGradient {
    /// The gathers' outputs.
    pub outputs: Vec<TensorId>,
    /// For each of its channels, which of which of them is its gradient; none if it has no influence.
    pub map: ChannelMap,
}

/// What happens between two barriers, and at the second.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackwardStage {
    pub runs: Vec<Run<BackwardStep>>,
    /// Normalisation units whose sums are complete.
    pub finalize: Vec<usize>,
    /// Convolutions and linear layers whose bias sums are complete.
    pub biases: Vec<usize>,
    /// Linear layers whose output gradient is complete.
    pub linear: Vec<LinearWeights>,
    pub reduce: Reduce,
}

/// The backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Backward {
    pub stages: Vec<BackwardStage>,
    pub slots: Vec<Slot>,
    /// Elements of a group's partial weight gradients.
    pub partial: usize,
    /// Offset of each unit's sums.
    pub sums: Vec<usize>,
    /// Length of all sums.
    pub sums_total: usize,
    /// By unit; absent if a normalisation's gradient is where it is completed.
    pub gathered: Vec<Option<GatheredGradient>>,
}

impl Backward {
    /// All steps in their order.
    pub fn steps(&self) -> impl Iterator<Item = &BackwardStep> {
        self.stages.iter().flat_map(|stage| &stage.runs).flat_map(Run::steps)
    }
}

struct Planner<'a> {
    lowered: &'a Lowered,
    params: &'a ParamTable,
    stages: Vec<BackwardStage>,
    stage: BackwardStage,
    weights: Vec<(Range<usize>, usize)>,
    stage_partial: usize,
    partial: usize,
    written: Vec<bool>,
    /// A completed gradient that is to be added when this tensor's own is completed.
    residual: Vec<Option<TensorId>>,
    /// For outputs of convolutions that only a normalisation reads.
    direct: Vec<Option<DzSource>>,
    /// Tensors whose gradient is read from those of gathers.
    folded: Vec<bool>,
    gathered: Vec<Option<GatheredGradient>>,
    lives: Vec<Option<Life>>,
    now: usize,
}

/// Plans the backward pass and assigns gradient slots.
pub(super) fn plan(lowered: &mut Lowered, params: &ParamTable, gathers: Gathers) -> Backward {
    let n = lowered.tensors.len();
    let folded = (0..n).map(|t| gathers == Gathers::Folded && can_be_folded(lowered, t));
    let mut p = Planner {
        lowered,
        params,
        stages: Vec::new(),
        stage: BackwardStage::default(),
        weights: Vec::new(),
        stage_partial: 0,
        partial: 0,
        written: vec![false; n],
        residual: vec![None; n],
        direct: vec![None; n],
        folded: folded.collect(),
        gathered: vec![None; lowered.units.len()],
        lives: vec![None; n],
        now: 0,
    };
    for (boundary, t) in p.lowered.boundaries.iter().enumerate() {
        if p.lowered.tensors[*t].needs_gradient {
            let accumulate = p.contribute(*t);
            p.stage.runs.push(Run::group(BackwardStep::Load { boundary, accumulate }));
            p.now += 1;
        }
    }
    for unit in (0..p.lowered.units.len()).rev() {
        p.unit(unit);
    }
    p.barrier();
    let (mut stages, partial, gathered) = (p.stages, p.partial, p.gathered);
    let lives = p.lives.into_iter().flatten().collect();
    note_backward(&mut stages, lowered);
    let mut total = 0;
    let sums = lowered.units.iter().map(|unit| {
        let start = total;
        total += sums_of(unit) * lowered.tensors[unit.output()].map.stride;
        start
    });
    let sums = sums.collect();
    let slots = slots::gradients(lowered, lives);
    Backward { stages, slots, partial, sums, sums_total: total, gathered }
}

/// The units that gather channels of `t`.
fn gathers_of(lowered: &Lowered, t: TensorId) -> impl Iterator<Item = &ChannelsUnit> {
    lowered.units.iter().filter_map(move |unit| match unit {
        Unit::Channels(c) if c.inputs.contains(&t) => Some(&**c),
        _ => None,
    })
}

/// For every channel of `t` that a gather takes, that channel and the one of the output that it becomes.
fn taken(c: &ChannelsUnit, t: TensorId) -> impl Iterator<Item = (usize, usize)> {
    let from = c.forward.from().iter().enumerate();
    from.filter_map(move |(output, from)| from.filter(|(s, _)| c.inputs[*s] == t).map(|(_, x)| (x, output)))
}

/// Whether the gradient of `t` can be read from those of the gathers that read it: nothing else reads it, each of its channels
/// goes to one place at most, and no ReLU comes after it there.
fn can_be_folded(lowered: &Lowered, t: TensorId) -> bool {
    let maker = lowered.tensors[t].recomputed_by.map(|unit| &lowered.units[unit]);
    let gathers: Vec<_> = gathers_of(lowered, t).collect();
    let mut seen = vec![false; lowered.tensors[t].map.channels];
    let twice = gathers.iter().flat_map(|c| taken(c, t)).any(|(x, _)| std::mem::replace(&mut seen[x], true));
    // A normalised value that gathers read is made again only if nothing else does.
    matches!(maker, Some(Unit::Norm(_)))
        && (1..=MAX_SOURCES).contains(&gathers.len())
        && gathers.iter().all(|c| !c.relu)
        && !twice
}

/// Sums per channel that a unit gathers: of g, g z and g times the addend; of a bias gradient and the unused squares.
fn sums_of(unit: &Unit) -> usize {
    match unit {
        Unit::Norm(_) => 3,
        Unit::Conv(c) if c.bias.is_some() => 2,
        Unit::Linear(l) if l.bias.is_some() => 1,
        _ => 0,
    }
}

impl Planner<'_> {
    /// Notes that the gradient of `t` is used in the current step.
    fn touch(&mut self, t: TensorId) {
        let now = self.now;
        let life = self.lives[t].get_or_insert(Life { tensor: t, from: now, to: now });
        life.to = now;
    }

    /// Notes a contribution to the gradient of `t`: whether it is added to an earlier one.
    fn contribute(&mut self, t: TensorId) -> bool {
        self.touch(t);
        std::mem::replace(&mut self.written[t], true)
    }

    fn image(&mut self, step: BackwardStep) {
        Run::push_image(&mut self.stage.runs, step);
        self.now += 1;
    }

    fn barrier(&mut self) {
        let mut weights = std::mem::take(&mut self.weights);
        weights.sort_by_key(|(range, _)| range.start);
        for (range, partial) in weights {
            for start in range.clone().step_by(REDUCE_ELEMENTS) {
                self.stage.reduce.ranges.push(start..range.end.min(start + REDUCE_ELEMENTS));
                self.stage.reduce.partial.push(partial + start - range.start);
            }
        }
        self.stage_partial = 0;
        self.stages.push(std::mem::take(&mut self.stage));
        self.now += 1;
    }

    fn needs(&self, t: TensorId) -> bool {
        self.lowered.tensors[t].needs_gradient
    }

    fn unit(&mut self, index: usize) {
        let unit = &self.lowered.units[index];
        let y = unit.output();
        if let Some(from) = self.residual[y].filter(|_| !self.written[y]) {
            self.residual[y] = None;
            self.copy(from, y);
        }
        if !self.written[y] {
            return; // Nothing that a loss sees depends on it.
        }
        match unit {
            Unit::Norm(n) => self.norm(index, n),
            Unit::Conv(c) => self.conv(index, c),
            Unit::Linear(l) => self.linear(index, l),
            Unit::Add { a, b, .. } => {
                for t in [*a, *b] {
                    if self.needs(t) {
                        self.copy(y, t);
                    }
                }
            }
            Unit::Channels(c) => {
                for (input, x) in c.inputs.iter().enumerate() {
                    if self.folded[*x] {
                        self.written[*x] = true; // Its normalisation takes it from here.
                    } else if self.needs(*x) {
                        self.touch(y);
                        let accumulate = self.contribute(*x);
                        self.image(BackwardStep::Channels { unit: index, input, accumulate });
                    }
                }
            }
            Unit::Relu { x, .. }
            | Unit::Relu6 { x, .. }
            | Unit::MaxPool { x, .. }
            | Unit::AvgPool { x, .. }
            | Unit::GlobalAvg { x, .. }
            | Unit::Dropout { x, .. }
            | Unit::Copy { x, .. } => {
                if self.needs(*x) {
                    self.touch(y);
                    let accumulate = self.contribute(*x);
                    self.image(BackwardStep::Unit { unit: index, accumulate });
                }
            }
        }
    }

    fn copy(&mut self, from: TensorId, to: TensorId) {
        self.touch(from);
        let accumulate = self.contribute(to);
        self.image(BackwardStep::Copy { from, to, accumulate });
    }

    fn norm(&mut self, index: usize, n: &NormUnit) {
        let residual = self.residual[n.y].take();
        self.touch(n.y);
        if let Some(r) = residual {
            self.touch(r);
        }
        if self.folded[n.y] {
            self.gathered[index] = Some(self.gather(n.y));
        }
        self.image(BackwardStep::Complete { unit: index, residual });
        self.stage.finalize.push(index);
        self.barrier();
        if let Addend::Value(t) = n.addend
            && self.needs(t)
        {
            let by_norm = self.lowered.units.iter().any(|u| matches!(u, Unit::Norm(m) if m.y == t));
            if by_norm && self.residual[t].is_none() {
                self.residual[t] = Some(n.y);
            } else {
                self.copy(n.y, t);
            }
        }
        self.norm_input(index, n.bn, n.z, n.y);
        if let Addend::Normalized(t, bn) = n.addend {
            self.norm_input(index, bn, t, n.y);
        }
    }

    /// Where the gradient of `t` is.
    fn gather(&mut self, t: TensorId) -> GatheredGradient {
        let lowered = self.lowered;
        let all: Vec<_> = gathers_of(lowered, t).filter(|c| self.written[c.y]).collect();
        let mut from = vec![None; lowered.tensors[t].map.channels];
        for (source, c) in all.iter().enumerate() {
            self.touch(c.y);
            taken(c, t).for_each(|(x, output)| from[x] = Some((source, output)));
        }
        let widths: Vec<_> = all.iter().map(|c| c.forward.channels()).collect();
        GatheredGradient { outputs: all.iter().map(|c| c.y).collect(), map: ChannelMap::new(&widths, &from) }
    }

    /// The way from a completed gradient to the normalisation's input.
    fn norm_input(&mut self, unit: usize, bn: usize, z: TensorId, y: TensorId) {
        if !self.needs(z) {
            return;
        }
        let readers = self.lowered.units.iter().flat_map(Unit::inputs).filter(|t| *t == z).count();
        let by_conv = self.lowered.units.iter().any(|u| matches!(u, Unit::Conv(c) if c.y == z && !c.relu));
        if by_conv && readers == 1 && !self.lowered.boundaries.contains(&z) {
            self.direct[z] = Some(DzSource::Norm { unit, bn });
            self.written[z] = true;
            return;
        }
        self.touch(y);
        let accumulate = self.contribute(z);
        self.image(BackwardStep::NormInput { unit, bn, z, accumulate });
    }

    fn conv(&mut self, index: usize, c: &ConvUnit) {
        let source = self.direct[c.y].unwrap_or(DzSource::Gradient);
        match source {
            DzSource::Gradient => self.touch(c.y),
            DzSource::Norm { unit, .. } => self.touch(self.lowered.units[unit].output()),
        }
        let input = self.needs(c.x).then(|| self.contribute(c.x));
        let range = self.params.places[c.weight].range.clone();
        let partial = self.stage_partial;
        self.stage_partial += range.len();
        self.partial = self.partial.max(self.stage_partial);
        self.weights.push((range, partial));
        if c.bias.is_some() {
            self.stage.biases.push(index);
        }
        let step = BackwardStep::Conv { unit: index, source, partial, input };
        if c.many {
            self.stage.runs.push(Run::group(step));
            self.now += 1;
        } else {
            self.image(step);
        }
    }

    fn linear(&mut self, index: usize, l: &LinearUnit) {
        self.touch(l.y);
        let input = self.needs(l.x).then(|| self.contribute(l.x));
        self.stage.runs.push(Run::group(BackwardStep::Linear { unit: index, input }));
        self.now += 1;
        self.touch(l.y);
        let weight = self.params.places[l.weight].range.start;
        let mut weights = LinearWeights { unit: index, ranges: Vec::new(), parts: Vec::new() };
        for block in 0..l.outputs.div_ceil(LANES) {
            for start in (0..l.inputs).step_by(LINEAR_INPUTS) {
                let part = start..l.inputs.min(start + LINEAR_INPUTS);
                let at = |input: usize| weight + (block * l.inputs + input) * LANES;
                weights.ranges.push(at(part.start)..at(part.end));
                weights.parts.push((block, part));
            }
        }
        self.stage.linear.push(weights);
        if l.bias.is_some() {
            self.stage.biases.push(index);
        }
        self.barrier();
    }
}
