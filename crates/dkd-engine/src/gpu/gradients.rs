//! Where gradients of values lie: which share memory, as their lives do not overlap or as one is a copy of the other.

use super::executor::elements;
use super::slots;
use crate::plan::{Backward, BackwardStep, DzSource, Plan, TensorId, Unit};

/// What a step does with gradients of values.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub read: Vec<TensorId>,
    pub written: Vec<TensorId>,
}

impl Uses {
    /// Of a step of the plan's.
    pub fn of(plan: &Plan, step: &BackwardStep) -> Self {
        let unit = |unit: usize| &plan.units[unit];
        let output = |of: usize| unit(of).output();
        // A mask is set where the gradient is.
        let masked = |relu: bool, of: usize| relu.then(|| output(of));
        match *step {
            BackwardStep::Load { boundary, .. } => {
                Self { read: Vec::new(), written: vec![plan.boundaries[boundary]] }
            }
            BackwardStep::Copy { from, to, .. } => Self { read: vec![from], written: vec![to] },
            BackwardStep::Complete { unit, residual } => {
                let gathered = plan.backward.as_ref().and_then(|b| b.gathered[unit].as_ref());
                let own = if gathered.is_some() { None } else { Some(output(unit)) };
                let sources = gathered.iter().flat_map(|g| &g.outputs).copied();
                Self { read: sources.chain(own).chain(residual).collect(), written: vec![output(unit)] }
            }
            BackwardStep::NormInput { unit, z, .. } => Self { read: vec![output(unit)], written: vec![z] },
            BackwardStep::Conv { unit: of, source, input, .. } => {
                let from = match source {
                    DzSource::Gradient => of,
                    DzSource::Norm { unit, .. } => unit,
                };
                let relu = matches!(unit(of), Unit::Conv(c) if c.relu && source == DzSource::Gradient);
                let to = input.map(|_| unit(of).inputs()[0]);
                Self { read: vec![output(from)], written: to.into_iter().chain(masked(relu, of)).collect() }
            }
            BackwardStep::Linear { unit: of, input } => {
                let relu = matches!(unit(of), Unit::Linear(l) if l.relu);
                let to = input.map(|_| unit(of).inputs()[0]);
                Self { read: vec![output(of)], written: to.into_iter().chain(masked(relu, of)).collect() }
            }
            BackwardStep::Channels { unit: of, input, .. } => {
                let relu = matches!(unit(of), Unit::Channels(c) if c.relu);
                let to = unit(of).inputs()[input];
                Self { read: vec![output(of)], written: [to].into_iter().chain(masked(relu, of)).collect() }
            }
            BackwardStep::Unit { unit: of, .. } => {
                Self { read: vec![output(of)], written: vec![unit(of).inputs()[0]] }
            }
        }
    }
}

/// Places of all gradients.
#[derive(Debug)]
pub(super) struct Slots {
    /// By tensor; none without a gradient. Tensors of one root lie in the same place although their lives overlap.
    pub of: Vec<Option<usize>>,
    /// Numbers of one image in each place.
    pub elements: Vec<usize>,
}

/// Steps in which a gradient is used.
#[derive(Clone, Debug, Default)]
struct Life {
    uses: Vec<usize>,
    writes: Vec<usize>,
}

impl Life {
    fn last(&self) -> usize {
        self.uses.last().copied().unwrap_or(0)
    }

    /// The first time that it is written after step `k`.
    fn written_after(&self, k: usize) -> usize {
        self.writes.iter().copied().find(|w| *w > k).unwrap_or(usize::MAX)
    }
}

impl Slots {
    /// Of a plan's gradients. A copy that is first at its place is none where the original can be used for it: nobody writes one of the two while
    /// the other is still read.
    pub fn new(plan: &Plan) -> Self {
        let steps: Vec<_> = plan.backward.iter().flat_map(Backward::steps).collect();
        let mut lives = vec![Life::default(); plan.tensors.len()];
        for (k, step) in steps.iter().enumerate() {
            let Uses { read, written } = Uses::of(plan, step);
            for t in read.iter().chain(&written) {
                lives[*t].uses.push(k);
            }
            written.iter().for_each(|t| lives[*t].writes.push(k));
        }
        let mut roots: Vec<TensorId> = (0..lives.len()).collect();
        for (k, step) in steps.iter().enumerate() {
            if let BackwardStep::Copy { from, to, accumulate: false } = **step
                && elements(plan, from) == elements(plan, to)
            {
                let root = roots[from];
                let apart = |t: TensorId| {
                    lives[t].last() < lives[to].written_after(k)
                        && lives[to].last() < lives[t].written_after(k)
                };
                if lives[to].uses[0] == k && (0..lives.len()).filter(|t| roots[*t] == root).all(apart) {
                    roots[to] = root;
                }
            }
        }
        Self::assign(plan, &lives, &roots)
    }

    /// Gives every root a place.
    fn assign(plan: &Plan, lives: &[Life], roots: &[TensorId]) -> Self {
        let mut spans: Vec<Option<(usize, usize)>> = vec![None; lives.len()];
        for (life, root) in lives.iter().zip(roots).filter(|(life, _)| !life.uses.is_empty()) {
            let (from, to) = spans[*root].get_or_insert((life.uses[0], life.last()));
            (*from, *to) = (life.uses[0].min(*from), life.last().max(*to));
        }
        let (places, elements) = slots::assign(plan, &spans);
        Self { of: roots.iter().map(|root| places[*root]).collect(), elements }
    }
}
