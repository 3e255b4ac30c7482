//! A loss without a kernel: candle computes and differentiates it between two recorded parts of a step.
//!
//! Its tensors are on the machine's own device if all that it does exists there, and sums over steps stay there until the next look:
//! then nobody waits. Otherwise logits and taps come to the CPU and their gradients go back, in every step.

use super::student::Seen;
use super::{Student, session};
use crate::cohort::row::{About, Differentiated, Life, Position, Row};
use crate::cohort::teacher::Teacher;
use crate::event::TermValue;
use crate::{NonFinite, Result, TeacherMode};
use candle_core::{DType, Device, Tensor};
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::counters::{self, Counts};
use dkd_kernels::gpu::losses::Totals;
use dkd_kernels::gpu::pointwise::{Pointwise, pointwise};
use dkd_kernels::gpu::{Element, Machine, TensorMachine, View};
use dkd_losses::Outputs;
use std::slice;

/// What one student's loss reads and writes.
pub(super) struct Between {
    /// Where the loss is computed.
    device: Device,
    /// Whether that is the CPU because the loss cannot be computed elsewhere.
    on_host: bool,
    /// Of every row of the largest batch, and the counts.
    counted: View,
    counts: View,
    /// The loss's gradient by the student's weights, if it reads any.
    by_weights: Option<View>,
    /// Sums over images of the weighted sum of terms, and of each term.
    loss: Option<Tensor>,
    terms: Vec<(String, Tensor)>,
    /// Set as soon as a term that is at hand is not finite, if that ends something.
    alarm: bool,
}

fn add(sum: Option<&Tensor>, value: &Tensor, n: usize) -> candle_core::Result<Tensor> {
    let value = (value.detach().to_dtype(DType::F64)? * n as f64)?;
    match sum {
        Some(sum) => sum + value,
        None => Ok(value),
    }
}

impl Between {
    /// For a row whose loss has no kernel for `why`.
    pub fn new(machine: &dyn TensorMachine, row: &mut Row, why: &str) -> Result<Self> {
        let (parts, id) = (row.on_host().join("`, `"), &row.recipe.id);
        let on_host = !parts.is_empty();
        if on_host {
            tracing::warn!(
                "row `{id}`: `{parts}` cannot be computed on the device: it waits for the CPU in every step"
            );
        } else {
            tracing::info!(
                "row `{id}`: no kernel for {why}: the loss is computed between two recorded parts"
            );
        }
        let reads = row.reads_weights();
        let session = session(row)?;
        let zeros = |element: Element, n: usize| machine.zeros(element, n);
        Ok(Self {
            device: if on_host { Device::Cpu } else { machine.device().clone() },
            on_host,
            counted: zeros(Element::F64, session.max_batch() * Counts::COLUMNS)?,
            counts: zeros(Element::U64, Counts::LEN)?,
            by_weights: if reads { Some(zeros(Element::F32, session.values().len())?) } else { None },
            loss: None,
            terms: Vec::new(),
            alarm: false,
        })
    }

    /// Counts what the `n` images that the session has run were taken for; may be recorded.
    pub fn count(
        &self,
        machine: &dyn Machine,
        session: &GpuSession,
        labels: &View,
        n: usize,
    ) -> dkd_engine::Result<()> {
        let rows = self.counted.first(n * Counts::COLUMNS)?;
        Ok(counters::count(machine, &session.logits_view(Mode::Train, n)?, labels, &rows, &self.counts)?)
    }

    /// Gradients of all weights from what the loss has left; may be recorded.
    pub fn backward(&self, machine: &dyn Machine, session: &mut GpuSession) -> dkd_engine::Result<()> {
        session.run_backward_with_taps()?;
        if let Some(read) = &self.by_weights {
            pointwise(machine, Pointwise::Copy, read, None, session.gradients(), true)?;
        }
        Ok(())
    }

    /// Keeps what a loss of `n` images has given.
    fn note(&mut self, machine: &dyn Machine, found: &Differentiated, n: usize, stays: bool) -> Result<()> {
        if let (Some(to), Some(values)) = (&self.by_weights, &found.by_weights) {
            machine.write_floats(to, values)?;
        }
        self.loss = Some(add(self.loss.as_ref(), &found.loss, n)?);
        for term in &found.terms {
            match self.terms.iter_mut().find(|(name, _)| *name == term.name) {
                Some((_, sum)) => *sum = add(Some(sum), &term.value, n)?,
                None => self.terms.push((term.name.clone(), add(None, &term.value, n)?)),
            }
            if self.on_host && !stays {
                self.alarm |= !term.value.to_scalar::<f32>()?.is_finite();
            }
        }
        Ok(())
    }

    /// Whether a look is due at once.
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// What the steps since the last call have given; `square` is the last gradient's squared norm.
    pub fn take(&mut self, machine: &dyn Machine, square: f64) -> Result<Seen> {
        let counts = Counts::read(machine, &self.counts)?;
        machine.clear(&self.counts)?;
        self.alarm = false;
        let images = counts.images as f64;
        let mean = |sum: &Tensor| Ok::<_, crate::Error>(sum.to_scalar::<f64>()? / images.max(1.0));
        let loss = self.loss.take().map_or(Ok(0.0), |sum| mean(&sum))?;
        let mut terms = Vec::with_capacity(self.terms.len());
        for (name, sum) in self.terms.drain(..) {
            terms.push(TermValue { name, value: mean(&sum)? });
        }
        // A gradient that was not finite in an earlier step has made this one's weights, and its loss, so.
        let bad = !(loss.is_finite() && square.is_finite()) || terms.iter().any(|t| !t.value.is_finite());
        let totals =
            Totals { ce: counts.loss, correct: counts.top1 as f64, rows: images, ..Totals::default() };
        Ok(Seen { totals, loss, terms, bad })
    }
}

/// The losses without a kernel of all rows that are alive, for the `n` images that their sessions have run, with all gradients.
pub(super) fn losses(
    machine: &dyn TensorMachine,
    rows: &mut [Row],
    students: &mut [Student],
    mut teacher: Option<&mut Teacher>,
    (about, n): (About<'_>, usize),
    at: Position,
) -> Result<()> {
    // By mode and place, for all rows that ask.
    let mut published: Vec<(TeacherMode, bool, Outputs)> = Vec::new();
    for (row, student) in rows.iter_mut().zip(students).filter(|(r, _)| r.life == Life::Alive) {
        let Some(between) = student.between() else { continue };
        session(row)?.publish(Mode::Train, n, &between.device)?;
        let key = (row.recipe.teacher_mode, between.on_host);
        let mut answers = None;
        if let Some(teacher) = teacher.as_deref_mut().filter(|_| row.recipe.needs_teacher()) {
            let place = published.iter().position(|(mode, host, _)| (*mode, *host) == key);
            if place.is_none() {
                published.push((key.0, key.1, teacher.publish(key.0, n, &between.device)?));
            }
            let outputs = &published[place.unwrap_or(published.len() - 1)].2;
            answers = Some((slice::from_ref(outputs), teacher.parameters()));
        }
        let found = row.differentiate(about, answers, at)?;
        between.note(machine, &found, n, row.recipe.nonfinite == NonFinite::Continue)?;
    }
    Ok(())
}
