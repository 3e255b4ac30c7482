//! The images of a group, some at a time, where steps work on them: in the group's memory, or in a window.

use super::clock::Clock;
use super::group::{Group, Worker, range_of};
use super::windows::{Kept, Part, Slot, Window};
use crate::plan::{Plan, Touched};
use dkd_kernels::{AlignedBuf, Isa, half};
use std::ops::Range;

/// Consecutive images of a group.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Their numbers in the group.
    pub images: Range<usize>,
    /// The first one's number in the memory that steps work on.
    pub at: usize,
}

impl Span {
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Their numbers in memory.
    pub fn places(&self) -> Range<usize> {
        self.at..self.at + self.len()
    }
}

/// What the images of a group are taken through.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub isa: Isa,
    pub plan: &'a Plan,
    pub touched: &'a Touched,
    pub window: Option<&'a Window>,
    pub clock: Option<&'a Clock>,
}

impl Pass<'_> {
    /// Calls `f` for the `count` images of a group, as many at a time as the run takes.
    ///
    /// # Panics
    /// It takes all at once.
    pub fn over_images(
        &self,
        group: &mut Group,
        worker: &mut Worker,
        count: usize,
        mut f: impl FnMut(&mut Group, &mut Worker, Span),
    ) {
        let size = self.touched.at_a_time.expect("a run over some images at a time");
        let block = |first: usize| first.min(count)..count.min(first + size);
        let blocks = (0..count).step_by(size).map(|first| (block(first), block(first + size)));
        let Some(window) = self.window else {
            for (images, next) in blocks {
                group.fetch_ahead(self.plan, self.touched, next);
                let at = images.start;
                f(group, worker, Span { images, at });
            }
            return;
        };
        let mut view = std::mem::take(&mut worker.view);
        open(window, group, &mut view, &mut worker.buffers);
        for (images, next) in blocks {
            group.fetch_ahead(self.plan, self.touched, next);
            self.load(window, group, &mut view, &images);
            f(&mut view, worker, Span { images: images.clone(), at: 0 });
            self.store(window, group, &view, &images);
        }
        close(window, group, &mut view, &mut worker.buffers);
        worker.view = view;
    }

    /// Fills the window with what its run reads.
    fn load(&self, window: &Window, group: &Group, view: &mut Group, images: &Range<usize>) {
        let _running = self.clock.map(Clock::conversions);
        for (part, place) in window.parts.iter().filter_map(|part| Some((part, part.load?))) {
            let (single, halves, buffer) = match part.slot {
                Slot::Value(k) => (&group.values[k], &group.half_values[k], &mut view.values[k]),
                Slot::Gradient(k) => (&group.gradients[k], &group.half_gradients[k], &mut view.gradients[k]),
            };
            for (at, image) in images.clone().enumerate() {
                let (from, to) = (range_of(self.plan, place, image), range_of(self.plan, place, at));
                match part.kept {
                    Kept::Single => buffer[to].copy_from_slice(&single[from]),
                    Kept::Half => half::expand(self.isa, &halves[from], &mut buffer[to]),
                    Kept::Nothing => unreachable!("what a run reads is kept"),
                }
            }
        }
    }

    /// Keeps what later runs need.
    fn store(&self, window: &Window, group: &mut Group, view: &Group, images: &Range<usize>) {
        let _running = self.clock.map(Clock::conversions);
        for (part, place) in window.parts.iter().filter_map(|part| Some((part, part.store?))) {
            let (single, halves, buffer) = match part.slot {
                Slot::Value(k) => (&mut group.values[k], &mut group.half_values[k], &view.values[k]),
                Slot::Gradient(k) => {
                    (&mut group.gradients[k], &mut group.half_gradients[k], &view.gradients[k])
                }
            };
            for (at, image) in images.clone().enumerate() {
                let (from, to) = (range_of(self.plan, place, at), range_of(self.plan, place, image));
                match part.kept {
                    Kept::Single => single[to].copy_from_slice(&buffer[from]),
                    Kept::Half => half::round(self.isa, &buffer[from], &mut halves[to]),
                    Kept::Nothing => unreachable!("what later runs need is kept"),
                }
            }
        }
    }
}

/// Gives the view the window's memory, and what a group has besides values and gradients.
fn open(window: &Window, group: &mut Group, view: &mut Group, buffers: &mut [AlignedBuf]) {
    for (part, buffer) in window.parts.iter().zip(buffers) {
        match (part.slot, part.load) {
            // Kernels leave borders alone, and the channels that only fill a vector.
            (Slot::Value(_), None) => buffer[..part.size].fill(0.0),
            // In tests, what should have been written before it is read is noticed.
            (Slot::Gradient(_), None) if cfg!(debug_assertions) => buffer[..part.size].fill(f32::NAN),
            _ => {}
        }
        std::mem::swap(slot(view, part), buffer);
    }
    swap_sums(group, view);
}

/// Takes all of it back.
fn close(window: &Window, group: &mut Group, view: &mut Group, buffers: &mut [AlignedBuf]) {
    for (part, buffer) in window.parts.iter().zip(buffers) {
        std::mem::swap(slot(view, part), buffer);
    }
    swap_sums(group, view);
}

fn slot<'a>(view: &'a mut Group, part: &Part) -> &'a mut AlignedBuf {
    match part.slot {
        Slot::Value(k) => &mut view.values[k],
        Slot::Gradient(k) => &mut view.gradients[k],
    }
}

fn swap_sums(group: &mut Group, view: &mut Group) {
    std::mem::swap(&mut group.argmax, &mut view.argmax);
    std::mem::swap(&mut group.partial, &mut view.partial);
    std::mem::swap(&mut group.moments, &mut view.moments);
    std::mem::swap(&mut group.sums, &mut view.sums);
}
