//! Training steps that stay on a device: batches are made there, and the whole step is recorded once and replayed.
//!
//! A row's whole step is one recorded part if its loss has a kernel ([`terms`]), else two, with the loss between them ([`between`]). Nothing
//! waits for the device inside an epoch but losses that are computed on the CPU, and the log: every so many steps the sums over them are
//! read, and told as one step.

mod between;
mod early;
mod evaluation;
mod images;
mod kernels;
mod student;
mod terms;
#[cfg(test)]
mod tests;

use super::loaders::Loaders;
use super::row::{About, Life, Position, Row};
use super::teacher::Teacher;
use super::train::Context;
use crate::debug::Origin;
use crate::record::{Diverged, RowResult};
use crate::{Error, Event, Metrics, NonFinite, Result};
use between::Between;
use dkd_datasets::Loader;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Machine, Recorded, TensorMachine, View, branches, record};
use early::{Asked, Early, answer};
use evaluation::Evaluations;
use images::Images;
use kernels::Kernel;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use student::{Seen, Student, Way};
use terms::Terms;

/// Steps between two looks at the device.
const INTERVAL: usize = 50;

/// A recorded step.
struct Step {
    images: usize,
    /// Of the batch that the teacher answers meanwhile, if it is ahead.
    next: Option<usize>,
    /// All of it, or what comes before losses without a kernel.
    first: Box<dyn Recorded>,
    /// What comes after them, if there are any.
    rest: Option<Box<dyn Recorded>>,
}

/// A cohort whose steps are recorded.
pub(super) struct Recording {
    machine: Arc<dyn TensorMachine>,
    train: Images,
    test: Images,
    validation: Option<Images>,
    students: Vec<Student>,
    early: Early,
    /// Numbers of images that the teacher is ready for.
    ready: Vec<usize>,
    steps: Vec<Step>,
    evaluations: Evaluations,
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

/// Makes a teacher ready for batches of `n` images, of which a training has so many.
fn make_ready(mut teacher: Option<&mut Teacher>, n: usize, runs: usize) -> Result<()> {
    for (mode, session) in teacher.iter_mut().flat_map(|t| t.sessions()) {
        session.prepare(mode.of_engine(), n)?;
        if mode.of_engine() == Mode::Eval {
            session.freeze(n)?;
            session.fuse(n, runs as u64)?;
        }
    }
    Ok(())
}

/// Images of a batch; none behind the last.
fn images_of(loader: &Loader, batch: usize) -> usize {
    let (size, all) = (loader.config().batch_size, loader.split().len());
    size.min(all.saturating_sub(batch * size))
}

/// A row that is trained, and what it is on the device.
type Living<'a> = (&'a mut Row, &'a Student);

/// The sessions of a teacher that rows which are trained ask.
fn asked<'a>(teacher: Option<&'a mut Teacher>, rows: &[Row]) -> Asked<'a> {
    let alive = || rows.iter().filter(|row| row.life == Life::Alive && row.recipe.needs_teacher());
    let sessions = teacher.into_iter().flat_map(|t| t.sessions());
    sessions.filter(|(mode, _)| alive().any(|row| row.recipe.teacher_mode == *mode)).collect()
}

/// Says what the teacher's dropout depends on.
fn set_keys(asked: &mut Asked<'_>, at: Position) -> Result<()> {
    asked.iter_mut().try_for_each(|(_, session)| Ok(session.set_key(at.dropout())?))
}

/// A student's forward pass, of images that it copies if it does not have them.
fn forward(machine: &dyn Machine, session: &mut GpuSession, batch: Option<&View>, n: usize) -> Result<()> {
    if let Some(batch) = batch {
        machine.copy(batch, &session.input(Mode::Train, n)?)?;
    }
    Ok(session.run(Mode::Train, n)?)
}

/// Why the steps of a row cannot be recorded, whatever its loss is.
fn prevented(row: &mut Row, teacher: Option<&mut Teacher>) -> Option<String> {
    let policy = row.recipe.nonfinite;
    if !matches!(policy, NonFinite::Stop | NonFinite::Mark | NonFinite::Continue) {
        return Some(format!("`nonfinite = \"{}\"`", policy.name()));
    }
    if row.network.on_gpu().is_none() {
        return Some("a network from outside".to_owned());
    }
    if row.recipe.views > 1 {
        return Some("two views".to_owned());
    }
    if let Some(part) = row.recipe.parts.iter().find(|p| p.own_momentum.is_some()) {
        return Some(format!("a momentum of its own for `{}`", part.name));
    }
    if row.recipe.clip_norm.is_some() && row.has_own_parameters() {
        return Some("a largest norm of gradients, some of which are the loss's own".to_owned());
    }
    let mode = row.recipe.teacher_mode;
    if row.recipe.needs_teacher() && teacher.and_then(|t| t.session(mode)).is_none() {
        return Some("a teacher with kept answers or from outside".to_owned());
    }
    None
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
            tracing::warn!(
                "row `{row}`: steps with {why} are not recorded: batches are made, and losses computed, on the CPU"
            );
            Ok(None)
        };
        for row in rows.iter_mut() {
            if let Some(why) = prevented(row, teacher.as_deref_mut()) {
                return not_recorded(&row.recipe.id, &why);
            }
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
        let classes = loaders.train.split().num_classes;
        for row in rows.iter_mut() {
            let (start, limit) = (row.momentum().to_vec(), row.recipe.clip_norm.unwrap_or(0.0));
            let way = match Terms::of(&row.recipe, classes) {
                Ok(terms) => {
                    let largest = session(row)?.max_batch();
                    Way::Kernel(Kernel::new(&**machine, terms, largest)?)
                }
                Err(why) => Way::Between(Between::new(&**machine, row, &why)?),
            };
            students.push(Student::new(&**machine, session(row)?, way, &start, limit)?);
        }
        // The CPU leaves out steps of a row whose logits are all NaN. Here they cost little, and tell what there is to tell.
        for row in rows.iter_mut().filter(|r| r.life == Life::Nan) {
            row.life = Life::Alive;
        }
        let (most, split) = (loaders.largest_batch, loaders.train.split());
        let image = split.height * split.width * 3;
        let evaluations = Evaluations::new(&**machine, device.arithmetic.element(), rows.len(), most, image)?;
        Ok(Some(Self {
            train,
            test,
            validation,
            students,
            early: Early::new(&**machine, most, classes)?,
            ready: Vec::new(),
            steps: Vec::new(),
            evaluations,
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
        let n = images_of(loader, at.batch);
        if rows.iter().all(|r| r.life != Life::Alive) {
            return Ok(n);
        }
        let next = self.select(rows, teacher.as_deref_mut(), loader, at)?;
        let machine = &*self.machine;
        for (row, student) in rows.iter_mut().zip(&mut self.students).filter(|(r, _)| r.life == Life::Alive) {
            student.select(machine, row, at)?;
            let session = session(row)?;
            session.set_key(at.dropout())?;
            session.prepare(Mode::Train, n)?;
        }
        let place = match self.steps.iter().position(|step| (step.images, step.next) == (n, next)) {
            Some(place) => place,
            None => {
                let step = self.record(rows, teacher.as_deref_mut(), n, next)?;
                self.steps.push(step);
                self.steps.len() - 1
            }
        };
        let step = &self.steps[place];
        step.first.replay()?;
        self.early.hold(next.filter(|next| *next > 0).map(|_| (at.epoch, at.batch + 1)));
        if let Some(rest) = &step.rest {
            let (labels, indices) = self.train.told(loader, at.batch, n)?;
            let about = About { labels: &labels, indices: &indices };
            between::losses(machine, rows, &mut self.students, teacher, (about, n), at)?;
            rest.replay()?;
        }
        rows.iter_mut().filter(|r| r.life == Life::Alive).for_each(Row::updated);
        self.pending += 1;
        Ok(n)
    }

    /// Selects the batch of a step. Where the teacher is a batch ahead, it holds that one afterwards, the next one is selected, and this is how
    /// many images that has: 0 at the end of an epoch.
    fn select(
        &mut self,
        rows: &[Row],
        mut teacher: Option<&mut Teacher>,
        loader: &Loader,
        at: Position,
    ) -> Result<Option<usize>> {
        let machine = &*self.machine;
        let (n, next) = (images_of(loader, at.batch), images_of(loader, at.batch + 1));
        let (epoch, is_early) = (at.epoch as u32, self.is_early(rows) && at.batches > 1);
        for n in [n, next].into_iter().filter(|n| *n > 0) {
            if self.ready.contains(&n) {
                continue;
            }
            // In all epochs: a run that is resumed does what it would have done.
            let whole = loader.split().len() / loader.config().batch_size;
            let runs = at.epochs * if n == loader.config().batch_size { whole } else { 1 };
            make_ready(teacher.as_deref_mut(), n, runs)?;
            self.ready.push(n);
        }
        let mut asked = asked(teacher, rows);
        if !is_early {
            self.train.select(machine, loader, epoch, at.batch)?;
            set_keys(&mut asked, at)?;
            return Ok(None);
        }
        if !self.early.holds(at.epoch, at.batch) {
            self.train.select(machine, loader, epoch, at.batch)?;
            set_keys(&mut asked, at)?;
            answer(machine, &self.train, &mut asked, n)?;
        }
        if next > 0 {
            let at = Position { batch: at.batch + 1, step: at.step + 1, ..at };
            self.train.select(machine, loader, epoch, at.batch)?;
            set_keys(&mut asked, at)?;
        }
        Ok(Some(next))
    }

    /// Whether there are rows that need a teacher, and all of them learn within the recorded step: then it can be a batch ahead.
    fn is_early(&self, rows: &[Row]) -> bool {
        let taught = |(row, _): &(&Row, &Student)| row.life == Life::Alive && row.recipe.needs_teacher();
        let mut taught = rows.iter().zip(&self.students).filter(taught).peekable();
        taught.peek().is_some() && taught.all(|(_, student)| !student.is_parted())
    }

    /// Records a step with `n` images, while the teacher answers the `next` ones if it is a batch ahead.
    fn record(
        &self,
        rows: &mut [Row],
        mut teacher: Option<&mut Teacher>,
        n: usize,
        next: Option<usize>,
    ) -> Result<Step> {
        let mut count = teacher.iter_mut().flat_map(|t| t.sessions()).count();
        for row in rows.iter_mut().filter(|r| r.life == Life::Alive) {
            // What evaluations need first: branches take of what is left.
            session(row)?.prepare(Mode::Eval, n)?;
            count += 1;
        }
        let machine = &*self.machine;
        // The teacher is no branch where it is ahead, but beside them, and then one student's gradients of weights are aside.
        machine.prepare_branches(if next.is_some() { count.max(3) } else { count })?;
        let first = record(machine, &mut || match next {
            Some(next) => self.early_step(rows, teacher.as_deref_mut(), n, next),
            None => self.whole_step(rows, teacher.as_deref_mut(), n),
        })?;
        let mut living = rows.iter().zip(&self.students).filter(|(r, _)| r.life == Life::Alive);
        let parted = living.any(|(_, student)| student.is_parted());
        let rest = parted.then(|| record(machine, &mut || self.rest(rows))).transpose()?;
        Ok(Step { images: n, next, first, rest })
    }

    /// What comes after losses without a kernel, every student on a branch.
    fn rest(&self, rows: &mut [Row]) -> Result<()> {
        let living = rows.iter_mut().zip(&self.students).filter(|(r, _)| r.life == Life::Alive);
        let mut parted: Vec<_> = living.filter(|(_, student)| student.is_parted()).collect();
        branches(&*self.machine, parted.len(), &mut |i| {
            let (row, student) = &mut parted[i];
            student.rest(&*self.machine, session(row)?)
        })
    }

    /// Students that are trained, and where the first of them finds the batch, which the others copy.
    fn living<'a>(&'a self, rows: &'a mut [Row], n: usize) -> Result<Option<(Vec<Living<'a>>, View)>> {
        let rows = rows.iter_mut().zip(&self.students);
        let mut alive: Vec<_> = rows.filter(|(r, _)| r.life == Life::Alive).collect();
        let Some((first, _)) = alive.first_mut() else { return Ok(None) };
        let batch = session(first)?.input(Mode::Train, n)?;
        Ok(Some((alive, batch)))
    }

    /// A whole step of students whose teacher is a batch ahead: it answers the `next` images beside them. Every student is on a branch.
    fn early_step(
        &self,
        rows: &mut [Row],
        teacher: Option<&mut Teacher>,
        n: usize,
        next: usize,
    ) -> Result<()> {
        let machine = &*self.machine;
        let mut asked = asked(teacher, rows);
        let Some((mut alive, batch)) = self.living(rows, n)? else { return Ok(()) };
        self.early.take(machine, &self.train, &asked, &batch, n)?;
        if next > 0 {
            self.early.next(machine, &self.train, &mut asked, next)?;
        }
        let labels = self.early.labels(n)?;
        branches(machine, alive.len(), &mut |i| {
            let (row, student) = &mut alive[i];
            let answers = self.early.answers(row.recipe.teacher_mode, n)?;
            let answers = Some(&answers).filter(|_| row.recipe.needs_teacher());
            forward(machine, session(row)?, Some(&batch).filter(|_| i > 0), n)?;
            student.learn(machine, session(row)?, &labels, answers, n)
        })
    }

    /// All of a step but [`Recording::rest`]: the batch; on branches the forward passes of teacher and students, and all else of students
    /// without a teacher; then all else of the others.
    fn whole_step(&self, rows: &mut [Row], teacher: Option<&mut Teacher>, n: usize) -> Result<()> {
        let machine = &*self.machine;
        let mut asked = asked(teacher, rows);
        let Some((mut alive, batch)) = self.living(rows, n)? else { return Ok(()) };
        self.train.make(machine, n, &batch)?;
        let (labels, teachers) = (self.train.labels(n)?, asked.len());
        // Teachers are the largest, so they begin.
        branches(machine, teachers + alive.len(), &mut |i| {
            if let Some((mode, session)) = asked.get_mut(i) {
                machine.copy(&batch, &session.input(mode.of_engine(), n)?)?;
                return Ok(session.run(mode.of_engine(), n)?);
            }
            let (row, student) = &mut alive[i - teachers];
            forward(machine, session(row)?, Some(&batch).filter(|_| i > teachers), n)?;
            let taught = row.recipe.needs_teacher();
            if taught { Ok(()) } else { student.learn(machine, session(row)?, &labels, None, n) }
        })?;
        let answers =
            asked.iter().map(|(mode, session)| Ok((*mode, session.logits_view(mode.of_engine(), n)?)));
        let answers: BTreeMap<_, _> = answers.collect::<Result<_>>()?;
        let mut taught: Vec<_> = alive.into_iter().filter(|(row, _)| row.recipe.needs_teacher()).collect();
        if taught.is_empty() {
            return Ok(());
        }
        branches(machine, taught.len(), &mut |i| {
            let (row, student) = &mut taught[i];
            let answers = answers.get(&row.recipe.teacher_mode);
            student.learn(machine, session(row)?, &labels, answers, n)
        })
    }

    /// Whether it is time for a look at the device, after so many batches of an epoch.
    pub fn is_due(&self, done: usize, batches: usize) -> bool {
        self.pending >= INTERVAL || done == batches || self.students.iter().any(Student::alarm)
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
        for ((row, student), result) in rows.iter_mut().zip(&mut self.students).zip(results) {
            if row.life != Life::Alive {
                continue;
            }
            let Seen { totals, loss, terms, bad } = student.take(&*self.machine, at.epoch)?;
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
            let momentum = student.momentum(&*self.machine)?;
            row.set_momentum(momentum);
        }
        Ok(())
    }

    /// Evaluates rows that are not ended, in their order, on the test or the validation split.
    pub fn evaluate(&mut self, rows: &mut [&mut Row], loader: &Loader, test: bool) -> Result<Vec<Metrics>> {
        let images = if test { Some(&mut self.test) } else { self.validation.as_mut() };
        let images = images.ok_or_else(|| Error::Invalid("the split is not on the device".to_owned()))?;
        self.evaluations.run(&*self.machine, rows, (test, images), loader)
    }
}
