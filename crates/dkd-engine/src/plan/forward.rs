//! Stages of the forward pass.

use super::Purpose;
use super::lower::Lowered;
use super::touched::{Touched, note_forward};
use super::unit::{TensorId, Unit};

/// One step of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ForwardStep {
    /// The image comes in.
    Load,
    /// A unit.
    Unit(usize),
    /// Sums of a batch normalisation's input.
    Moments(usize),
}

/// Steps that are done image by image, or one for a whole group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Run<S> {
    /// Every step for one image, then the next image: what a step made is still in the cache.
    Images {
        steps: Vec<S>,
        /// What the steps read and write.
        touched: Touched,
    },
    /// All images of the group, or several at once.
    Group {
        step: S,
        /// What it reads and writes.
        touched: Touched,
    },
}

impl<S> Run<S> {
    /// A step that takes several images at once.
    pub fn group(step: S) -> Self {
        Self::Group { step, touched: Touched::default() }
    }

    /// All steps.
    pub fn steps(&self) -> &[S] {
        match self {
            Self::Images { steps, .. } => steps,
            Self::Group { step, .. } => std::slice::from_ref(step),
        }
    }

    /// All steps, and what they touch, to be noted.
    pub(super) fn steps_mut(&mut self) -> (&[S], &mut Touched) {
        match self {
            Self::Images { steps, touched } => (steps, touched),
            Self::Group { step, touched } => (std::slice::from_ref(step), touched),
        }
    }

    /// What the steps touch.
    pub fn touched(&self) -> &Touched {
        match self {
            Self::Images { touched, .. } | Self::Group { touched, .. } => touched,
        }
    }

    /// Appends a step that is done image by image.
    pub fn push_image(runs: &mut Vec<Self>, step: S) {
        match runs.last_mut() {
            Some(Self::Images { steps, .. }) => steps.push(step),
            _ => runs.push(Self::Images { steps: vec![step], touched: Touched::default() }),
        }
    }
}

/// What happens between two barriers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    pub runs: Vec<Run<ForwardStep>>,
    /// Batch normalisations whose sums are complete afterwards.
    pub finalize: Vec<usize>,
}

/// Cuts the units into stages: a stage ends where a batch normalisation is applied whose sums it gathers.
pub(super) fn stages(lowered: &Lowered, purpose: Purpose) -> Vec<Stage> {
    let train = purpose == Purpose::Train;
    let mut stages = Vec::new();
    let mut stage = Stage::default();
    Run::push_image(&mut stage.runs, ForwardStep::Load);
    if train {
        push_moments(&mut stage, lowered, lowered.input);
    }
    for (index, unit) in lowered.units.iter().enumerate() {
        let is_recomputed = lowered.tensors[unit.output()].recomputed_by.is_some();
        let made_again = unit.inputs().into_iter().flat_map(|t| lowered.makers(t));
        let mut needed: Vec<usize> = made_again.flat_map(|maker| lowered.units[maker].bns()).collect();
        needed.extend(unit.bns());
        if train && !is_recomputed && needed.iter().any(|bn| stage.finalize.contains(bn)) {
            stages.push(std::mem::take(&mut stage));
        }
        if !is_recomputed {
            match unit {
                Unit::Linear(_) => stage.runs.push(Run::group(ForwardStep::Unit(index))),
                Unit::Conv(c) if c.many => stage.runs.push(Run::group(ForwardStep::Unit(index))),
                _ => Run::push_image(&mut stage.runs, ForwardStep::Unit(index)),
            }
        }
        if train {
            push_moments(&mut stage, lowered, unit.output());
        }
    }
    stages.push(stage);
    note_forward(&mut stages, lowered);
    stages
}

/// The sums that batch normalisations need of tensor `t`.
fn push_moments(stage: &mut Stage, lowered: &Lowered, t: TensorId) {
    for (bn, _) in lowered.bns.iter().enumerate().filter(|(_, b)| b.z == t) {
        Run::push_image(&mut stage.runs, ForwardStep::Moments(bn));
        stage.finalize.push(bn);
    }
}
