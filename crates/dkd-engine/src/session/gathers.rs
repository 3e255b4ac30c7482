//! Channels that are rearranged, and normalised on the way where the normalised value is not stored.

use super::group::Group;
use super::statistics::NormState;
use crate::plan::{ChannelsUnit, NormUnit, Plan, TensorId, Unit};
use dkd_kernels::channels::ChannelAffine;
use dkd_kernels::{Isa, Map};

/// What becomes of the channels of every unit that rearranges normalised values.
#[derive(Debug)]
pub(super) struct Gathers {
    /// By unit.
    affine: Vec<Option<ChannelAffine>>,
}

impl Gathers {
    pub fn new(plan: &Plan) -> Self {
        let affine = plan.units.iter().map(|unit| match unit {
            Unit::Channels(c) if c.inputs.iter().any(|t| made_by(plan, *t).is_some()) => {
                Some(ChannelAffine::identity(c.forward.channels()))
            }
            _ => None,
        });
        Self { affine: affine.collect() }
    }

    /// Takes the affine maps of the batch normalisations that have changed.
    pub fn refresh(&mut self, plan: &Plan, norms: &[NormState], changed: impl Fn(usize) -> bool) {
        for (unit, affine) in plan.units.iter().zip(&mut self.affine) {
            let (Unit::Channels(c), Some(affine)) = (unit, affine) else { continue };
            for (source, t) in c.inputs.iter().enumerate() {
                let Some(n) = made_by(plan, *t).filter(|n| changed(n.bn)) else { continue };
                let state = &norms[n.bn];
                for (output, from) in c.forward.from().iter().enumerate() {
                    if let Some((_, channel)) = from.filter(|(s, _)| *s == source) {
                        affine.set(output, state.scale[channel], state.shift[channel], n.relu);
                    }
                }
            }
        }
    }

    /// Runs `unit`, which is `c`, for image `i`.
    pub fn run(
        &self,
        isa: Isa,
        plan: &Plan,
        (unit, c): (usize, &ChannelsUnit),
        group: &Group,
        i: usize,
        y: &mut [f32],
        y_map: Map,
    ) {
        let inputs = c.inputs.iter().map(|t| {
            let stored = made_by(plan, *t).map_or(*t, |n| n.z);
            (group.value(plan, stored, i), plan.tensors[stored].map)
        });
        match &self.affine[unit] {
            None => c.forward.run(isa, inputs, y, y_map, c.relu, false),
            Some(affine) => c.forward.run_affine(isa, inputs, affine, y, y_map, c.relu),
        }
    }
}

/// The batch normalisation that makes `t` again.
fn made_by(plan: &Plan, t: TensorId) -> Option<&NormUnit> {
    match &plan.units[plan.tensors[t].recomputed_by?] {
        Unit::Norm(n) => Some(n),
        _ => None,
    }
}
