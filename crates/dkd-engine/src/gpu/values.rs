//! Where values lie.

use super::executor::{elements, on_the_way};
use super::{fuse, slots};
use crate::Result;
use crate::plan::{Plan, Purpose, TensorId, stored};
use dkd_kernels::gpu::View;

/// Memory of all values; `map` allocates so many numbers for each image. Training keeps each value; otherwise a place is used again after the
/// last reader, and a value that is made again for a convolution lies where all such values do. What gathers normalise on the way has none.
pub(super) fn allocate(plan: &Plan, map: impl Fn(usize) -> Result<View>) -> Result<Vec<Option<View>>> {
    let all = 0..plan.tensors.len();
    let made_again = |t: TensorId| plan.tensors[t].recomputed_by.is_some();
    let is_kept = |t: TensorId| on_the_way(plan, t).is_none();
    if plan.purpose == Purpose::Train {
        return all.map(|t| is_kept(t).then(|| map(elements(plan, t))).transpose()).collect();
    }
    let (places, sizes) = slots::assign(plan, &lives(plan));
    let memory = sizes.into_iter().map(&map).collect::<Result<Vec<_>>>()?;
    let again = all.clone().filter(|t| made_again(*t) && is_kept(*t)).map(|t| elements(plan, t)).max();
    let again = again.map(&map).transpose()?;
    let place = |t: TensorId| match places[t] {
        Some(place) => Some(memory[place].clone()),
        None => again.clone().filter(|_| made_again(t) && is_kept(t)),
    };
    Ok(all.map(place).collect())
}

/// When each value that is stored is made, and read for the last time, by numbers of units: whether convolutions and what follows them are
/// computed in one or apart.
pub(super) fn lives(plan: &Plan) -> Vec<Option<(usize, usize)>> {
    let mut lives = vec![None; plan.tensors.len()];
    // Batches come between two runs.
    lives[plan.input] = Some((0, usize::MAX));
    for (index, unit) in plan.units.iter().enumerate() {
        if plan.tensors[unit.output()].recomputed_by.is_none() {
            lives[unit.output()] = Some((index, index));
        }
    }
    let mut read = |t: TensorId, at: usize| {
        for t in stored(&plan.tensors, &plan.units, t) {
            if let Some((_, to)) = &mut lives[t] {
                *to = at.max(*to);
            }
        }
    };
    for (index, unit) in plan.units.iter().enumerate() {
        unit.inputs().into_iter().for_each(|t| read(t, index));
    }
    for pair in fuse::pairs(plan) {
        plan.units[pair.conv].inputs().into_iter().for_each(|t| read(t, pair.norm));
    }
    plan.boundaries.iter().for_each(|t| read(*t, usize::MAX));
    lives
}
