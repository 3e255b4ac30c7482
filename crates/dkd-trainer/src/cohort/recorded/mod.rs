//! Training steps that stay on a device: batches are made there, and the whole step is recorded once and replayed.
//!
//! That is possible where every loss has a kernel ([`terms`]). Nothing waits for the device inside an epoch but where the log does: every
//! so many steps the sums over them are read, and told as one step.

mod images;
mod student;
mod terms;
#[cfg(test)]
mod tests;

use super::loaders::Loaders;
use super::row::{Life, Position, Row};
use super::teacher::Teacher;
use super::train::Context;
use crate::debug::Origin;
use crate::record::{Diverged, RowResult};
use crate::{Error, Event, Metrics, NonFinite, Result, TeacherMode};
use dkd_datasets::Loader;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::counters::{self, Counts};
use dkd_kernels::gpu::{Element, GpuError, Recorded, TensorMachine, View};
use images::Images;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use student::Student;
use terms::Terms;

/// Steps between two looks at the device.
const INTERVAL: usize = 50;

/// A cohort whose steps are recorded.
pub(super) struct Recording {
    machine: Arc<dyn TensorMachine>,
    train: Images,
    test: Images,
    validation: Option<Images>,
    students: Vec<Student>,
    /// By the number of images.
    steps: Vec<(usize, Box<dyn Recorded>)>,
    /// Of an evaluation: what is counted for each row, and the counts.
    counted: View,
    counts: View,
    /// Since the last look.
    pending: usize,
    since: Instant,
}

/// The session of a row, which is on a device.
fn session(row: &mut Row) -> Result<&mut GpuSession> {
    let network = row.network.on_gpu();
    let network =
        network.ok_or_else(|| Error::Invalid(format!("row `{}` is not on the device", row.recipe.id)))?;
    Ok(network.session())
}

fn gpu(error: GpuError) -> Error {
    dkd_engine::Error::from(error).into()
}

impl Recording {
    /// For rows that have not begun or were restored, if all of this can be recorded.
    pub fn new(
        loaders: &Loaders,
        rows: &mut [Row],
        mut teacher: Option<&mut Teacher>,
        context: &Context<'_>,
    ) -> Result<Option<Self>> {
        let device = context.compute.gpu.as_ref().filter(|gpu| gpu.recorded && context.probe.is_none());
        let Some(device) = device else { return Ok(None) };
        let machine = &device.machine;
        // Everything still works; it only takes longer.
        let not_recorded = |row: &str, why: &str| {
            tracing::warn!("row `{row}`: no kernel for {why}: losses are computed on the CPU, step by step");
            Ok(None)
        };
        let classes = loaders.train.split().num_classes;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows.iter_mut() {
            let policy = row.recipe.nonfinite;
            if !matches!(policy, NonFinite::Stop | NonFinite::Mark | NonFinite::Continue) {
                return not_recorded(&row.recipe.id, &format!("`nonfinite = \"{}\"`", policy.name()));
            }
            if row.network.on_gpu().is_none() {
                return not_recorded(&row.recipe.id, "a network from outside");
            }
            let terms = match Terms::of(&row.recipe, classes) {
                Ok(terms) => terms,
                Err(why) => return not_recorded(&row.recipe.id, &why),
            };
            let mode = row.recipe.teacher_mode;
            if terms.taught() && teacher.as_mut().and_then(|t| t.session(mode)).is_none() {
                return not_recorded(&row.recipe.id, "a teacher with kept answers or from outside");
            }
            all.push(terms);
        }
        let Some(train) = Images::new(&**machine, &loaders.train)? else {
            let first = rows.first().map_or("", |r| &r.recipe.id);
            return not_recorded(first, "mixed images or several views");
        };
        let Some(test) = Images::new(&**machine, &loaders.test)? else { return Ok(None) };
        let validation = match &loaders.validation {
            Some(loader) => Images::new(&**machine, loader)?,
            None => None,
        };
        let mut students = Vec::with_capacity(rows.len());
        for (row, terms) in rows.iter_mut().zip(all) {
            let (start, limit) = (row.momentum().to_vec(), row.recipe.clip_norm.unwrap_or(0.0));
            students.push(Student::new(&**machine, session(row)?, terms, &start, limit).map_err(gpu)?);
        }
        let zeros = |element: Element, n: usize| machine.zeros(element, n).map_err(gpu);
        Ok(Some(Self {
            train,
            test,
            validation,
            students,
            steps: Vec::new(),
            counted: zeros(Element::F64, loaders.largest_batch * Counts::COLUMNS)?,
            counts: zeros(Element::U64, Counts::LEN)?,
            pending: 0,
            since: Instant::now(),
            machine: Arc::clone(machine),
        }))
    }

    /// One step of all rows that are alive, on the batch at `at`; how many images it has.
    pub fn step(
        &mut self,
        rows: &mut [Row],
        mut teacher: Option<&mut Teacher>,
        loader: &Loader,
        at: Position,
    ) -> Result<usize> {
        let machine = &*self.machine;
        let (size, all) = (loader.config().batch_size, loader.split().len());
        let n = size.min(all - at.batch * size);
        if rows.iter().all(|r| r.life != Life::Alive) {
            return Ok(n);
        }
        self.train.select(machine, loader, at.epoch as u32, at.batch)?;
        for (row, student) in rows.iter_mut().zip(&self.students).filter(|(r, _)| r.life == Life::Alive) {
            student.select(machine, row, at).map_err(gpu)?;
            let session = session(row)?;
            session.set_key(at.dropout())?;
            session.prepare(Mode::Train, n)?;
        }
        for (_, session) in teacher.iter_mut().flat_map(|t| t.sessions()) {
            session.set_key(at.dropout())?;
        }
        if !self.steps.iter().any(|(images, _)| *images == n) {
            let step = self.record(rows, teacher, n)?;
            self.steps.push((n, step));
        }
        let step = self.steps.iter().find(|(images, _)| *images == n);
        step.map_or(Ok(()), |(_, step)| step.replay()).map_err(gpu)?;
        rows.iter_mut().filter(|r| r.life == Life::Alive).for_each(Row::updated);
        self.pending += 1;
        Ok(n)
    }

    /// Records a step with `n` images.
    fn record(
        &self,
        rows: &mut [Row],
        mut teacher: Option<&mut Teacher>,
        n: usize,
    ) -> Result<Box<dyn Recorded>> {
        for (mode, session) in teacher.iter_mut().flat_map(|t| t.sessions()) {
            session.prepare(mode.of_engine(), n)?;
        }
        let mut failed = None;
        let recorded = self.machine.record(&mut || {
            self.whole_step(rows, teacher.as_deref_mut(), n).map_err(|e| {
                // The machine knows its own errors only; this one is told below.
                failed = Some(e);
                GpuError::Recording("a step that failed")
            })
        });
        match (recorded, failed) {
            (_, Some(e)) => Err(e),
            (recorded, None) => recorded.map_err(gpu),
        }
    }

    fn whole_step(&self, rows: &mut [Row], mut teacher: Option<&mut Teacher>, n: usize) -> Result<()> {
        let machine = &*self.machine;
        let asked = |mode: TeacherMode, rows: &[Row]| {
            let mut alive = rows.iter().zip(&self.students).filter(|(r, _)| r.life == Life::Alive);
            alive.any(|(r, s)| s.terms.taught() && r.recipe.teacher_mode == mode)
        };
        // Made once, and everybody has it before anybody runs: an evaluation may use its input's memory again.
        let mut inputs = Vec::new();
        for (mode, session) in teacher.iter_mut().flat_map(|t| t.sessions()) {
            if asked(mode, rows) {
                inputs.push(session.input(mode.of_engine(), n)?);
            }
        }
        for row in rows.iter_mut().filter(|r| r.life == Life::Alive) {
            inputs.push(session(row)?.input(Mode::Train, n)?);
        }
        if let Some((first, others)) = inputs.split_first() {
            self.train.make(machine, n, first).map_err(gpu)?;
            others.iter().try_for_each(|to| machine.copy(first, to)).map_err(gpu)?;
        }
        let mut answers = BTreeMap::new();
        for (mode, session) in teacher.iter_mut().flat_map(|t| t.sessions()) {
            if asked(mode, rows) {
                session.run(mode.of_engine(), n)?;
                answers.insert(mode, session.logits_view(mode.of_engine(), n)?);
            }
        }
        let labels = self.train.labels(n).map_err(gpu)?;
        for (row, student) in rows.iter_mut().zip(&self.students).filter(|(r, _)| r.life == Life::Alive) {
            let answers = answers.get(&row.recipe.teacher_mode);
            student.step(machine, session(row)?, &labels, answers, n)?;
        }
        Ok(())
    }

    /// Whether it is time for a look at the device, after so many batches of an epoch.
    pub fn is_due(&self, done: usize, batches: usize) -> bool {
        self.pending >= INTERVAL || done == batches
    }

    /// Tells what the steps since the last look gave.
    pub fn look(
        &mut self,
        rows: &mut [Row],
        results: &mut [RowResult],
        at: Position,
        context: &mut Context<'_>,
    ) -> Result<()> {
        let steps = std::mem::take(&mut self.pending);
        let alive = rows.iter().filter(|r| r.life == Life::Alive).count();
        if steps == 0 || alive == 0 {
            return Ok(());
        }
        let mut ended = false;
        for ((row, student), result) in rows.iter_mut().zip(&self.students).zip(results) {
            if row.life != Life::Alive {
                continue;
            }
            let (totals, bad) = student.take(&*self.machine).map_err(gpu)?;
            let (loss, terms) = student.terms.means(&totals, at.epoch);
            // Reading has waited for the steps.
            result.seconds += self.since.elapsed().as_secs_f64() / alive as f64;
            row.add_steps(steps, loss, &totals);
            let id = row.recipe.id.clone();
            let (epoch, step, policy) = (at.epoch, at.step, row.recipe.nonfinite);
            if bad && (policy == NonFinite::Stop || result.diverged.is_none()) {
                let goes_on = policy == NonFinite::Continue;
                let term = terms.iter().find(|t| !t.value.is_finite());
                let term = term.map_or_else(|| "a gradient".to_owned(), |t| t.name.clone());
                context.sink.event(&Event::Diverged {
                    row: id.clone(),
                    epoch,
                    step,
                    term: term.clone(),
                    goes_on,
                })?;
                let place = format!("one of the {steps} steps up to here: they stay on the device");
                if policy == NonFinite::Stop {
                    let origin = Box::new(Origin { place, samples: Vec::new() });
                    return Err(Error::NonFinite {
                        row: id,
                        term,
                        value: f64::NAN,
                        epoch,
                        step,
                        origin,
                        tried: None,
                    });
                }
                result.diverged = Some(Diverged { epoch, step, term, origin: place });
                if !goes_on {
                    row.life = Life::Ended;
                    ended = true;
                    continue;
                }
            }
            let (images, lr) = (totals.rows as usize, row.rate(at));
            let event = Event::Step { row: id, epoch, step, images, lr, loss, terms, gradient_norm: None };
            context.sink.event(&event)?;
        }
        if ended {
            // The others go on without it.
            self.steps.clear();
        }
        self.since = Instant::now();
        Ok(())
    }

    /// Brings what is only on the device to the rows: momenta, for a checkpoint or the end.
    pub fn bring_home(&self, rows: &mut [Row]) -> Result<()> {
        for (row, student) in rows.iter_mut().zip(&self.students) {
            let momentum = student.momentum(&*self.machine).map_err(gpu)?;
            row.set_momentum(momentum);
        }
        Ok(())
    }

    /// Evaluates all rows that are not ended on a split, in their order.
    pub fn evaluate(&mut self, rows: &mut [&mut Row], loader: &Loader, test: bool) -> Result<Vec<Metrics>> {
        let machine = &*self.machine;
        let images = if test { Some(&mut self.test) } else { self.validation.as_mut() };
        let images = images.ok_or_else(|| Error::Invalid("the split is not on the device".to_owned()))?;
        let (size, all) = (loader.config().batch_size, loader.split().len());
        let mut metrics = Vec::with_capacity(rows.len());
        for row in rows {
            machine.clear(&self.counts).map_err(gpu)?;
            let session = session(row)?;
            for batch in 0..loader.batches() {
                let n = size.min(all - batch * size);
                images.select(machine, loader, 1, batch)?;
                session.prepare(Mode::Eval, n)?;
                images.make(machine, n, &session.input(Mode::Eval, n)?).map_err(gpu)?;
                session.run(Mode::Eval, n)?;
                let logits = session.logits_view(Mode::Eval, n)?;
                let rows = self.counted.first(n * Counts::COLUMNS).map_err(gpu)?;
                let labels = images.labels(n).map_err(gpu)?;
                counters::count(machine, &logits, &labels, &rows, &self.counts).map_err(gpu)?;
            }
            let counts = Counts::read(machine, &self.counts).map_err(gpu)?;
            let percent = |n: u64| 100.0 * n as f64 / counts.images.max(1) as f64;
            metrics.push(Metrics {
                top1: percent(counts.top1),
                top5: percent(counts.top5),
                loss: counts.loss / counts.images.max(1) as f64,
                images: counts.images as usize,
            });
        }
        Ok(metrics)
    }
}
