//! Memory of a group of images and of a worker thread.

use crate::plan::{Plan, TensorId, Touched};
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
    /// Partial weight gradients of the current stage.
    pub partial: AlignedBuf,
    /// Sums of the forward pass: for each batch normalisation the sum and the sum of squares per channel.
    pub moments: Vec<f64>,
    /// Sums of the backward pass.
    pub sums: Vec<f64>,
}

impl Group {
    /// Memory for `capacity` images.
    pub fn new(plan: &Plan, capacity: usize, moments: usize) -> Self {
        Self {
            values: plan.slots.iter().map(|s| AlignedBuf::zeros(s.elements * capacity)).collect(),
            argmax: plan.argmax.iter().map(|n| vec![0; n * capacity]).collect(),
            moments: vec![0.0; moments],
            ..Self::default()
        }
    }

    /// Memory of the backward pass, if it is not there yet.
    pub fn prepare_backward(&mut self, plan: &Plan, capacity: usize) {
        let Some(backward) = &plan.backward else { return };
        if self.gradients.is_empty() {
            self.gradients =
                backward.slots.iter().map(|s| AlignedBuf::zeros(s.elements * capacity)).collect();
            self.partial = AlignedBuf::zeros(backward.partial);
            self.sums = vec![0.0; backward.sums_total];
        }
    }

    /// Lets the convolutions to come fetch what is touched of these images.
    pub fn fetch_ahead(&self, plan: &Plan, touched: &Touched, images: Range<usize>) {
        if images.is_empty() {
            return ahead::fetch([]);
        }
        let all =
            |range: &dyn Fn(usize) -> Range<usize>| range(images.start).start..range(images.end - 1).end;
        let values = touched
            .values
            .iter()
            .map(|t| &self.values[plan.tensors[*t].slot][all(&|i| value_range(plan, *t, i))]);
        let gradients = touched
            .gradients
            .iter()
            .map(|t| &self.gradients[plan.tensors[*t].gradient_slot][all(&|i| gradient_range(plan, *t, i))]);
        ahead::fetch(values.chain(gradients));
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

/// Where image `i` of tensor `t` lies in its slot.
pub(super) fn value_range(plan: &Plan, t: TensorId, i: usize) -> Range<usize> {
    let n = plan.tensors[t].map.elements();
    i * n..(i + 1) * n
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
}

impl Worker {
    /// For groups of at most `capacity` images.
    pub fn new(plan: &Plan, capacity: usize) -> Self {
        Self {
            scratch: plan.scratch.iter().map(|s| AlignedBuf::zeros(s.elements(capacity))).collect(),
            channels: vec![0.0; 3 * plan.max_stride],
            conv: AlignedBuf::zeros(plan.conv_scratch),
        }
    }
}
