//! Memory of a group of images and of a worker thread.

use super::windows::{Kept, Slot, Windows};
use crate::plan::{self, Place, Plan, TensorId, Touched};
use dkd_kernels::ahead::Wanted;
use dkd_kernels::{AlignedBuf, ahead};
use std::ops::Range;

/// Images that are processed by one thread at a time: their values and gradients, and the group's own sums.
///
/// The groups, not the threads, decide in which order numbers are added: that is why results do not depend on the number
/// of threads.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By value slot.
    pub values: Vec<AlignedBuf>,
    /// Positions of the maxima, by max pooling.
    pub argmax: Vec<Vec<u8>>,
    /// By gradient slot; empty before the first backward pass.
    pub gradients: Vec<AlignedBuf>,
    /// Slots that are kept in bf16, and empty above.
    pub half_values: Vec<AlignedBuf<u16>>,
    pub half_gradients: Vec<AlignedBuf<u16>>,
    /// Partial weight gradients of the current stage.
    pub partial: AlignedBuf,
    /// Sums of the forward pass: for each batch normalisation the sum and the sum of squares per channel.
    pub moments: Vec<f64>,
    /// Sums of the backward pass.
    pub sums: Vec<f64>,
}

/// Elements of a slot, for every image, that are kept in f32 and in bf16.
pub(super) fn kept_elements(windows: Option<&Windows>, slot: Slot, elements: usize) -> (usize, usize) {
    match windows.map_or(Kept::Single, |windows| windows.kept(slot)) {
        Kept::Single => (elements, 0),
        Kept::Half => (0, elements),
        Kept::Nothing => (0, 0),
    }
}

/// Memory of slots for `capacity` images, in f32 and in bf16.
fn buffers(
    windows: Option<&Windows>,
    slots: &[plan::Slot],
    numbered: impl Fn(usize) -> Slot,
    capacity: usize,
) -> (Vec<AlignedBuf>, Vec<AlignedBuf<u16>>) {
    let of = |(k, slot): (usize, &plan::Slot)| {
        let (single, half) = kept_elements(windows, numbered(k), slot.elements * capacity);
        (AlignedBuf::zeros(single), AlignedBuf::zeros(half))
    };
    slots.iter().enumerate().map(of).unzip()
}

impl Group {
    /// Memory for `capacity` images.
    pub fn new(plan: &Plan, windows: Option<&Windows>, capacity: usize, moments: usize) -> Self {
        let (values, half_values) = buffers(windows, &plan.slots, Slot::Value, capacity);
        Self {
            values,
            half_values,
            argmax: plan.argmax.iter().map(|n| vec![0; n * capacity]).collect(),
            moments: vec![0.0; moments],
            ..Self::default()
        }
    }

    /// Slots without memory.
    fn empty(plan: &Plan) -> Self {
        let slots = |n: usize| (0..n).map(|_| AlignedBuf::default()).collect();
        let gradients = plan.backward.as_ref().map_or(0, |backward| backward.slots.len());
        Self { values: slots(plan.slots.len()), gradients: slots(gradients), ..Self::default() }
    }

    /// Memory of the backward pass, if it is not there yet.
    pub fn prepare_backward(&mut self, plan: &Plan, windows: Option<&Windows>, capacity: usize) {
        let Some(backward) = &plan.backward else { return };
        if self.gradients.is_empty() {
            (self.gradients, self.half_gradients) =
                buffers(windows, &backward.slots, Slot::Gradient, capacity);
            self.partial = AlignedBuf::zeros(backward.partial);
            self.sums = vec![0.0; backward.sums_total];
        }
    }

    /// Lets the convolutions to come fetch what is touched of these images.
    pub fn fetch_ahead(&self, plan: &Plan, touched: &Touched, images: Range<usize>) {
        if images.is_empty() || !touched.ahead {
            return ahead::fetch([]);
        }
        ahead::fetch(touched.places.iter().map(|touch| self.wanted(plan, touch.place, &images)));
    }

    /// Where a place of these images lies.
    fn wanted(&self, plan: &Plan, place: Place, images: &Range<usize>) -> Wanted {
        let range = range_of(plan, place, images.start).start..range_of(plan, place, images.end - 1).end;
        let (single, half) = match Slot::of(plan, place) {
            Slot::Value(slot) => (&self.values[slot], self.half_values.get(slot)),
            Slot::Gradient(slot) => (&self.gradients[slot], self.half_gradients.get(slot)),
        };
        match half {
            _ if !single.is_empty() => Wanted::from(&single[range]),
            Some(half) if !half.is_empty() => Wanted::from(&half[range]),
            _ => Wanted::from(&single[..]),
        }
    }

    /// Value of tensor `t` for image `i` of the group.
    pub fn value(&self, plan: &Plan, t: TensorId, i: usize) -> &[f32] {
        &self.values[plan.tensors[t].slot][value_range(plan, t, i)]
    }

    /// Gradient of tensor `t` for image `i` of the group.
    pub fn gradient(&self, plan: &Plan, t: TensorId, i: usize) -> &[f32] {
        &self.gradients[plan.tensors[t].gradient_slot][gradient_range(plan, t, i)]
    }
}

/// Where image `i` of a place lies in its slot.
pub(super) fn range_of(plan: &Plan, place: Place, i: usize) -> Range<usize> {
    match place {
        Place::Value(t) => value_range(plan, t, i),
        Place::Gradient(t) => gradient_range(plan, t, i),
    }
}

/// Where image `i` of tensor `t` lies in its slot.
pub(super) fn value_range(plan: &Plan, t: TensorId, i: usize) -> Range<usize> {
    let n = value_stride(plan, t);
    i * n..(i + 1) * n
}

/// Elements from one image's value of tensor `t` to the next one's.
pub(super) fn value_stride(plan: &Plan, t: TensorId) -> usize {
    plan.tensors[t].map.elements()
}

/// Where the gradient of image `i` of tensor `t` lies in its slot. Images are as far apart as the slot's largest tensor
/// asks for, so that tensors of different sizes never overlap another image's part.
pub(super) fn gradient_range(plan: &Plan, t: TensorId, i: usize) -> Range<usize> {
    let start = i * gradient_stride(plan, t);
    start..start + plan.tensors[t].gradient_map().elements()
}

/// Elements from one image's gradient of tensor `t` to the next one's.
pub(super) fn gradient_stride(plan: &Plan, t: TensorId) -> usize {
    let backward = plan.backward.as_ref().expect("gradients exist only in training plans");
    backward.slots[plan.tensors[t].gradient_slot].elements
}

/// What a worker thread needs for itself.
#[derive(Debug)]
pub(super) struct Worker {
    /// By number in [`Plan::scratch`].
    pub scratch: Vec<AlignedBuf>,
    /// Three values per channel.
    pub channels: Vec<f32>,
    /// Scratch memory of convolutions.
    pub conv: AlignedBuf,
    /// Where windows lie.
    pub buffers: Vec<AlignedBuf>,
    /// A group of the images in a window; its slots are empty in between.
    pub view: Group,
}

impl Worker {
    /// For groups of at most `capacity` images.
    pub fn new(plan: &Plan, windows: Option<&Windows>, capacity: usize) -> Self {
        let view = match windows {
            Some(_) => Group::empty(plan),
            None => Group::default(),
        };
        Self {
            scratch: plan.scratch.iter().map(|s| AlignedBuf::zeros(s.elements(capacity))).collect(),
            channels: vec![0.0; 3 * plan.max_stride],
            conv: AlignedBuf::zeros(plan.conv_scratch),
            buffers: windows.iter().flat_map(|w| &w.buffers).map(|n| AlignedBuf::zeros(*n)).collect(),
            view,
        }
    }
}
