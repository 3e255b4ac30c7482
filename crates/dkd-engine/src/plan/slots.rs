//! Memory of values and gradients.

use super::Purpose;
use super::lower::Lowered;
use super::unit::TensorId;
use dkd_kernels::Map;

/// A piece of a group's memory: `elements` for each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub elements: usize,
}

/// A buffer of a worker, used within one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scratch {
    pub map: Map,
    /// Whether it holds several images ([`super::MANY`]) or one.
    pub many: bool,
}

impl Scratch {
    /// Elements, in a group of at most `capacity` images.
    pub fn elements(&self, capacity: usize) -> usize {
        self.map.elements() * if self.many { super::MANY.min(capacity) } else { 1 }
    }
}

/// Gives every stored tensor a slot. Training keeps all of them; otherwise a slot is free again after the last reader,
/// for tensors of exactly the same layout, so that borders stay zero.
pub(super) fn values(lowered: &mut Lowered, purpose: Purpose) -> Vec<Slot> {
    let last_read = last_reads(lowered);
    let mut slots: Vec<(Map, Option<TensorId>)> = Vec::new();
    let mut take = |t: TensorId, map: Map, now: usize| {
        let free = |owner: &Option<TensorId>| owner.is_none_or(|o| last_read[o] < now);
        let found = match purpose {
            Purpose::Train => None,
            Purpose::Infer => slots.iter().position(|(m, owner)| *m == map && free(owner)),
        };
        let slot = found.unwrap_or_else(|| {
            slots.push((map, None));
            slots.len() - 1
        });
        slots[slot].1 = Some(t);
        slot
    };
    lowered.tensors[lowered.input].slot = take(lowered.input, lowered.tensors[lowered.input].map, 0);
    for (index, unit) in lowered.units.iter().enumerate() {
        let t = unit.output();
        if lowered.tensors[t].recomputed_by.is_none() {
            lowered.tensors[t].slot = take(t, lowered.tensors[t].map, index);
        }
    }
    slots.into_iter().map(|(map, _)| Slot { elements: map.elements() }).collect()
}

/// The last unit that reads each tensor; a reader of a tensor that is made again reads what it is made from.
fn last_reads(lowered: &Lowered) -> Vec<usize> {
    let mut last = vec![0; lowered.tensors.len()];
    for (index, unit) in lowered.units.iter().enumerate() {
        unit.inputs().into_iter().flat_map(|t| lowered.stored(t)).for_each(|t| last[t] = index);
        last[unit.output()] = last[unit.output()].max(index);
    }
    lowered.boundaries.iter().for_each(|t| last[*t] = usize::MAX);
    last
}

/// When a gradient is written first and read last, in steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub tensor: TensorId,
    pub from: usize,
    pub to: usize,
}

/// Gives every gradient a slot; one whose life is over is used again for a gradient that fits and fills at least half.
pub(super) fn gradients(lowered: &mut Lowered, mut lives: Vec<Life>) -> Vec<Slot> {
    lives.sort_by_key(|l| (l.from, l.tensor));
    let mut slots: Vec<(Slot, usize)> = Vec::new();
    for life in lives {
        let n = lowered.tensors[life.tensor].gradient_map().elements();
        let fits = |s: &(Slot, usize)| s.1 < life.from && s.0.elements >= n && s.0.elements <= 2 * n;
        let found = slots.iter().enumerate().filter(|(_, s)| fits(s)).min_by_key(|(_, s)| s.0.elements);
        let slot = match found.map(|(i, _)| i) {
            Some(i) => i,
            None => {
                slots.push((Slot { elements: n }, 0));
                slots.len() - 1
            }
        };
        slots[slot].1 = life.to;
        lowered.tensors[life.tensor].gradient_slot = slot;
    }
    slots.into_iter().map(|(slot, _)| slot).collect()
}
