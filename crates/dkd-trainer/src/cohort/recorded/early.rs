//! A teacher that is a batch ahead: while students learn from one, it answers the next.
//!
//! Nothing that students do changes what it says. Its sessions hold images and logits of the next batch; a step begins with a copy of what they
//! hold, and what comes then is beside the students' work.

use super::images::Images;
use crate::{Result, TeacherMode};
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Element, Machine, View, beside};
use std::collections::BTreeMap;

/// The teacher's sessions that are asked, by mode.
pub(super) type Asked<'a> = Vec<(TeacherMode, &'a mut GpuSession)>;

/// What students learn from, and how far their teacher is.
#[derive(Debug)]
pub(super) struct Early {
    /// Of the batch that students learn from: the teacher's logits, and labels.
    answers: BTreeMap<TeacherMode, View>,
    labels: View,
    classes: usize,
    /// Epoch and number of the batch that the teacher holds.
    held: Option<(usize, usize)>,
}

impl Early {
    /// For batches of up to `most` images.
    pub fn new(machine: &dyn Machine, most: usize, classes: usize) -> dkd_kernels::gpu::Result<Self> {
        let answers = [TeacherMode::Eval, TeacherMode::Train]
            .map(|mode| Ok((mode, machine.zeros(Element::F32, most * classes)?)));
        let answers = answers.into_iter().collect::<dkd_kernels::gpu::Result<_>>()?;
        Ok(Self { answers, labels: machine.zeros(Element::U32, most)?, classes, held: None })
    }

    /// Labels of the `n` images that students learn from, after [`Early::take`].
    pub fn labels(&self, n: usize) -> dkd_kernels::gpu::Result<View> {
        self.labels.first(n)
    }

    /// The teacher's logits `[n, classes]` for them.
    pub fn answers(&self, mode: TeacherMode, n: usize) -> dkd_kernels::gpu::Result<View> {
        self.answers[&mode].first(n * self.classes)
    }

    /// Whether the teacher holds this batch of an epoch.
    pub fn holds(&self, epoch: usize, batch: usize) -> bool {
        self.held == Some((epoch, batch))
    }

    /// Notes what the teacher holds.
    pub fn hold(&mut self, held: Option<(usize, usize)>) {
        self.held = held;
    }

    /// Copies the `n` images that the teacher holds to `batch`, and its answers and their labels; may be recorded.
    pub fn take(
        &self,
        machine: &dyn Machine,
        images: &Images,
        teacher: &Asked<'_>,
        batch: &View,
        n: usize,
    ) -> Result<()> {
        if let Some((mode, session)) = teacher.first() {
            machine.copy(&session.input(mode.of_engine(), n)?, batch)?;
        }
        for (mode, session) in teacher {
            machine.copy(&session.logits_view(mode.of_engine(), n)?, &self.answers(*mode, n)?)?;
        }
        Ok(machine.copy(&images.labels(n)?, &self.labels(n)?)?)
    }

    /// Lets the teacher answer the selected batch of `n` images beside all that comes afterwards; may be recorded.
    pub fn next(
        &self,
        machine: &dyn Machine,
        images: &Images,
        teacher: &mut Asked<'_>,
        n: usize,
    ) -> Result<()> {
        beside(machine, &mut || answer(machine, images, teacher, n))
    }
}

/// Makes the selected batch of `n` images, and lets the teacher answer it, which has been made ready for as many.
pub(super) fn answer(
    machine: &dyn Machine,
    images: &Images,
    teacher: &mut Asked<'_>,
    n: usize,
) -> Result<()> {
    let mut made: Option<View> = None;
    for (mode, session) in teacher {
        let input = session.input(mode.of_engine(), n)?;
        match &made {
            Some(made) => machine.copy(made, &input)?,
            None => images.make(machine, n, &input)?,
        }
        made.get_or_insert(input);
        session.run(mode.of_engine(), n)?;
    }
    Ok(())
}
