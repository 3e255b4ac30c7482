//! Evaluations on a device: a batch is made there, every row answers it on a branch, and what is counted is read once.

use super::images::Images;
use super::session;
use crate::cohort::row::Row;
use crate::{Error, Metrics, Result};
use dkd_datasets::Loader;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::counters::{self, Counts};
use dkd_kernels::gpu::{Element, Machine, Recorded, View, branches, record};

/// The recorded evaluation of one batch.
#[derive(Debug)]
struct Step {
    /// Whether it is one of the test split.
    test: bool,
    images: usize,
    recorded: Box<dyn Recorded>,
}

/// Evaluations of a cohort.
#[derive(Debug)]
pub(super) struct Evaluations {
    /// The batch: networks write over their inputs.
    batch: View,
    /// By row: what is counted for each image, and the counts.
    counted: Vec<View>,
    counts: Vec<View>,
    /// Who answers in the steps.
    rows: Vec<String>,
    steps: Vec<Step>,
}

impl Evaluations {
    /// For so many rows, and batches of up to `most` images of `image` numbers.
    pub fn new(
        machine: &dyn Machine,
        element: Element,
        rows: usize,
        most: usize,
        image: usize,
    ) -> dkd_kernels::gpu::Result<Self> {
        let each = |element: Element, n: usize| -> dkd_kernels::gpu::Result<Vec<View>> {
            (0..rows).map(|_| machine.zeros(element, n)).collect()
        };
        Ok(Self {
            batch: machine.zeros(element, most * image)?,
            counted: each(Element::F64, most * Counts::COLUMNS)?,
            counts: each(Element::U64, Counts::LEN)?,
            rows: Vec::new(),
            steps: Vec::new(),
        })
    }

    /// Evaluates rows on the test split, or the validation split, whose images are those of the loader.
    pub fn run(
        &mut self,
        machine: &dyn Machine,
        rows: &mut [&mut Row],
        (test, images): (bool, &mut Images),
        loader: &Loader,
    ) -> Result<Vec<Metrics>> {
        let (size, all) = (loader.config().batch_size, loader.split().len());
        self.counts[..rows.len()].iter().try_for_each(|counts| machine.clear(counts))?;
        let ids: Vec<String> = rows.iter().map(|row| row.recipe.id.clone()).collect();
        // Rows end, and do not come back.
        if self.rows != ids {
            self.steps.clear();
            self.rows = ids;
        }
        // Scales and shifts are made of running statistics here, and not in every batch.
        rows.iter_mut().try_for_each(|row| Ok::<_, Error>(session(row)?.freeze(size.min(all))?))?;
        for batch in 0..loader.batches() {
            let n = size.min(all - batch * size);
            images.select(machine, loader, 1, batch)?;
            for row in rows.iter_mut() {
                session(row)?.prepare(Mode::Eval, n)?;
            }
            let place = match self.steps.iter().position(|step| step.test == test && step.images == n) {
                Some(place) => place,
                None => {
                    machine.prepare_branches(rows.len())?;
                    let recorded = record(machine, &mut || self.batch(machine, rows, images, n))?;
                    self.steps.push(Step { test, images: n, recorded });
                    self.steps.len() - 1
                }
            };
            self.steps[place].recorded.replay()?;
        }
        rows.iter_mut().try_for_each(|row| session(row).map(GpuSession::thaw))?;
        self.counts[..rows.len()].iter().map(|counts| Ok(metrics(Counts::read(machine, counts)?))).collect()
    }

    /// One batch of `n` images.
    fn batch(&self, machine: &dyn Machine, rows: &mut [&mut Row], images: &Images, n: usize) -> Result<()> {
        let Some(first) = rows.first_mut() else { return Ok(()) };
        let batch = self.batch.first(session(first)?.input(Mode::Eval, n)?.len())?;
        images.make(machine, n, &batch)?;
        let labels = images.labels(n)?;
        branches(machine, rows.len(), &mut |i| {
            let session = session(rows[i])?;
            machine.copy(&batch, &session.input(Mode::Eval, n)?)?;
            session.run(Mode::Eval, n)?;
            let logits = session.logits_view(Mode::Eval, n)?;
            let counted = self.counted[i].first(n * Counts::COLUMNS)?;
            Ok(counters::count(machine, &logits, &labels, &counted, &self.counts[i])?)
        })
    }
}

fn metrics(counts: Counts) -> Metrics {
    let images = counts.images.max(1) as f64;
    Metrics {
        top1: 100.0 * counts.top1 as f64 / images,
        top5: 100.0 * counts.top5 as f64 / images,
        loss: counts.loss / images,
        images: counts.images as usize,
    }
}
