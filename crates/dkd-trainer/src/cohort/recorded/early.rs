//! A teacher that answers early: while students learn from a batch, it answers the next one.
//!
//! It only answers, so nothing that students do changes what it says. Its session holds the images and logits of the next batch; a step begins
//! with a copy of what it holds, and what comes then is beside the students' work.

use super::images::Images;
use crate::Result;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Element, Machine, View, beside};

/// Place of a batch: epoch and number.
pub(super) type Place = (usize, usize);

/// What students learn from, and how far their teacher is.
#[derive(Debug)]
pub(super) struct Early {
    /// The teacher's logits and labels of the batch that students learn from.
    answers: View,
    labels: View,
    classes: usize,
    /// The batch that the teacher holds.
    held: Option<Place>,
}

impl Early {
    /// For batches of up to `most` images.
    pub fn new(machine: &dyn Machine, most: usize, classes: usize) -> dkd_kernels::gpu::Result<Self> {
        let answers = machine.zeros(Element::F32, most * classes)?;
        let labels = machine.zeros(Element::U32, most)?;
        Ok(Self { answers, labels, classes, held: None })
    }

    /// The teacher's logits `[n, classes]`, and labels, after [`Early::take`].
    pub fn learned(&self, n: usize) -> dkd_kernels::gpu::Result<[View; 2]> {
        Ok([self.answers.first(n * self.classes)?, self.labels.first(n)?])
    }

    /// Whether the teacher holds a batch.
    pub fn holds(&self, place: Place) -> bool {
        self.held == Some(place)
    }

    /// Notes which batch the teacher holds after a step, if any.
    pub fn hold(&mut self, place: Option<Place>) {
        self.held = place;
    }

    /// Copies the `n` images that the teacher holds to `batch`, its answers and their labels to [`Early::learned`]; may be recorded.
    pub fn take(
        &self,
        machine: &dyn Machine,
        images: &Images,
        teacher: &GpuSession,
        batch: &View,
        n: usize,
    ) -> Result<()> {
        let [answers, labels] = self.learned(n)?;
        machine.copy(&teacher.input(Mode::Eval, n)?, batch)?;
        machine.copy(&teacher.logits_view(Mode::Eval, n)?, &answers)?;
        Ok(machine.copy(&images.labels(n)?, &labels)?)
    }

    /// Lets the teacher answer the selected batch of `n` images beside all that comes afterwards; may be recorded.
    pub fn next(
        &self,
        machine: &dyn Machine,
        images: &Images,
        teacher: &mut GpuSession,
        n: usize,
    ) -> Result<()> {
        beside(machine, &mut || answer(machine, images, teacher, n))
    }
}

/// Makes the selected batch of `n` images, and lets the teacher answer it, which has been made ready for as many.
pub(super) fn answer(
    machine: &dyn Machine,
    images: &Images,
    teacher: &mut GpuSession,
    n: usize,
) -> Result<()> {
    images.make(machine, n, &teacher.input(Mode::Eval, n)?)?;
    Ok(teacher.run(Mode::Eval, n)?)
}
