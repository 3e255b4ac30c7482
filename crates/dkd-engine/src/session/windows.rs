//! Values and gradients kept in bf16.
//!
//! The kernels compute in f32. So where a plan's maps are kept in bf16, a worker has *windows*: f32 memory for the places that one
//! run of steps uses, for as many images as it takes at a time. What the run reads is expanded into them, its steps run there, and
//! what later runs need is rounded on the way back. A map that no other run needs exists in a window alone.

use super::group::{gradient_stride, value_stride};
use crate::plan::{Place, Plan, Run, TensorId, Touched, Unit};
use std::collections::HashMap;

/// What there is of a slot for every image of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// f32: what losses and linear layers read or write.
    Single,
    /// bf16.
    Half,
    /// It is only there within a run.
    Nothing,
}

/// A slot of values or of gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Value(usize),
    Gradient(usize),
}

impl Slot {
    /// Where a place lies.
    pub fn of(plan: &Plan, place: Place) -> Self {
        match place {
            Place::Value(t) => Self::Value(plan.tensors[t].slot),
            Place::Gradient(t) => Self::Gradient(plan.tensors[t].gradient_slot),
        }
    }
}

/// A slot's part of a window.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub slot: Slot,
    pub kept: Kept,
    /// Elements for all images of the window.
    pub size: usize,
    /// What is there before the run, if that is read.
    pub load: Option<Place>,
    /// What later runs need.
    pub store: Option<Place>,
}

/// The window of a run: part k lies in the worker's buffer k.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub parts: Vec<Part>,
}

/// The windows of a plan.
#[derive(Debug)]
pub(super) struct Windows {
    values: Vec<Kept>,
    gradients: Vec<Kept>,
    /// By stage and run; none for a run over a group's memory.
    forward: Vec<Vec<Option<Window>>>,
    backward: Vec<Vec<Option<Window>>>,
    /// Sizes of a worker's buffers.
    pub buffers: Vec<usize>,
}

/// What is known of a place over all runs, which have ascending numbers.
#[derive(Clone, Copy)]
struct Use {
    first: usize,
    last: usize,
    /// Whether it is also used outside of windows.
    outside: bool,
}

type Uses = HashMap<Place, Use>;

impl Windows {
    /// `half` is how maps are kept that neither losses nor linear layers need.
    pub fn new(plan: &Plan, half: Kept) -> Self {
        let backward = plan.backward.iter().flat_map(|backward| &backward.stages);
        let forward: Vec<Vec<&Touched>> = plan.stages.iter().map(|stage| touched(&stage.runs)).collect();
        let backward: Vec<Vec<&Touched>> = backward.map(|stage| touched(&stage.runs)).collect();
        let uses = uses(plan, forward.iter().chain(&backward).flatten());
        let mut windows = Self {
            values: vec![Kept::Nothing; plan.slots.len()],
            gradients: vec![Kept::Nothing; plan.backward.as_ref().map_or(0, |b| b.slots.len())],
            forward: Vec::new(),
            backward: Vec::new(),
            buffers: Vec::new(),
        };
        for (place, place_use) in &uses {
            let kept = match Slot::of(plan, *place) {
                Slot::Value(slot) => &mut windows.values[slot],
                Slot::Gradient(slot) => &mut windows.gradients[slot],
            };
            if place_use.outside {
                *kept = Kept::Single;
            } else if place_use.first < place_use.last && *kept == Kept::Nothing {
                *kept = half;
            }
        }
        let mut number = 0;
        let mut of_stages = |stages: &[Vec<&Touched>]| {
            let mut of_run = |touched: &&Touched| {
                number += 1;
                touched.at_a_time.map(|images| windows.window(plan, &uses, touched, images, number - 1))
            };
            stages.iter().map(|runs| runs.iter().map(&mut of_run).collect()).collect()
        };
        (windows.forward, windows.backward) = (of_stages(&forward), of_stages(&backward));
        windows
    }

    /// The window of run `number`, which takes so many images at a time.
    fn window(
        &mut self,
        plan: &Plan,
        uses: &Uses,
        touched: &Touched,
        images: usize,
        number: usize,
    ) -> Window {
        let mut parts: Vec<Part> = Vec::new();
        for touch in &touched.places {
            let (place, slot) = (touch.place, Slot::of(plan, touch.place));
            let size = images
                * match place {
                    Place::Value(t) => value_stride(plan, t),
                    Place::Gradient(t) => gradient_stride(plan, t),
                };
            // Values of boundaries are exported in the end; whatever uses a gradient is a run.
            let exported = uses[&place].outside && matches!(place, Place::Value(_));
            let needed = uses[&place].last > number || exported;
            let store = (touch.written && needed).then_some(place);
            match parts.iter_mut().find(|part| part.slot == slot) {
                // Another tensor's turn in the same memory: the one before is not needed any more.
                Some(part) => {
                    debug_assert!(!touch.read && part.store.is_none(), "{place:?} takes a place in use");
                    part.store = store;
                    part.size = part.size.max(size);
                }
                None => {
                    let (kept, load) = (self.kept(slot), touch.read.then_some(place));
                    parts.push(Part { slot, kept, size, load, store });
                }
            }
        }
        parts.sort_by_key(|part| std::cmp::Reverse(part.size));
        self.buffers.resize(self.buffers.len().max(parts.len()), 0);
        for (buffer, part) in self.buffers.iter_mut().zip(&parts) {
            *buffer = part.size.max(*buffer);
        }
        Window { parts }
    }

    /// What there is of a slot.
    pub fn kept(&self, slot: Slot) -> Kept {
        match slot {
            Slot::Value(slot) => self.values[slot],
            Slot::Gradient(slot) => self.gradients[slot],
        }
    }

    /// The windows of a stage of the forward pass.
    pub fn forward(&self, stage: usize) -> &[Option<Window>] {
        &self.forward[stage]
    }

    /// The windows of a stage of the backward pass.
    pub fn backward(&self, stage: usize) -> &[Option<Window>] {
        &self.backward[stage]
    }
}

fn touched<S>(runs: &[Run<S>]) -> Vec<&Touched> {
    runs.iter().map(Run::touched).collect()
}

/// How the runs, in their order, and whatever works without windows use every place.
fn uses<'a>(plan: &Plan, runs: impl Iterator<Item = &'a &'a Touched>) -> Uses {
    let mut uses = Uses::new();
    for (number, touched) in runs.enumerate() {
        for touch in &touched.places {
            let outside = touched.at_a_time.is_none();
            let place_use = uses.entry(touch.place).or_insert(Use { first: number, last: number, outside });
            place_use.last = number;
            place_use.outside |= outside;
        }
    }
    let linear = plan.units.iter().filter(|unit| matches!(unit, Unit::Linear(_)));
    let linear = linear.flat_map(|unit| [unit.inputs(), vec![unit.output()]].concat());
    let outside: Vec<TensorId> = plan.boundaries.iter().copied().chain(linear).collect();
    for place in outside.into_iter().flat_map(|t| [Place::Value(t), Place::Gradient(t)]) {
        if let Some(place_use) = uses.get_mut(&place) {
            place_use.outside = true;
        }
    }
    uses
}
