//! One student of a cohort.

mod between;
mod examine;
mod state;
mod step;

#[cfg(test)]
mod tests;

pub(super) use between::Differentiated;
pub(super) use step::Bad;

use crate::evaluate::Counter;
use crate::network::Network;
use crate::{RowRecipe, Sgd};
use candle_core::Tensor;
use dkd_datasets::Batch as Images;
use dkd_engine::DropoutKey;
use dkd_kernels::Cpu;
use dkd_kernels::gpu::losses::Totals;
use dkd_losses::{Distiller, Objective, Outputs, RequiredTaps};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Steps of a run are below 2 to this power; dropout's streams have room for a few more bits.
const VIEW_SHIFT: u32 = 34;

/// Where the run is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Whether the teacher's own training is meant.
    pub teacher: bool,
    pub seed: u64,
    /// From 1.
    pub epoch: usize,
    /// Over all epochs, from 0.
    pub step: u64,
    /// In its epoch, from 0.
    pub batch: usize,
    /// In an epoch.
    pub batches: usize,
    /// Of the run.
    pub epochs: usize,
}

impl Position {
    /// What dropout masks depend on.
    pub fn dropout(&self) -> DropoutKey {
        DropoutKey { seed: self.seed, epoch: self.epoch as u32, step: self.step }
    }

    /// The same for one view: the second has masks of its own, with step numbers that no run reaches.
    pub fn dropout_of(&self, view: usize) -> DropoutKey {
        let key = self.dropout();
        DropoutKey { step: key.step + ((view as u64) << VIEW_SHIFT), ..key }
    }
}

/// What the teacher says about each view of a batch, and its parameters.
pub(super) type Answers<'a> = Option<(&'a [Outputs], &'a BTreeMap<String, Tensor>)>;

/// What the teacher says about one view.
fn answer_to(view: usize, teacher: Answers<'_>) -> Option<&Outputs> {
    teacher.and_then(|(answers, _)| answers.get(view))
}

/// What a loss is told about a batch beside what networks say of it.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// `[n]`, on the CPU.
    pub labels: &'a Tensor,
    /// Positions in the training set.
    pub indices: &'a [u32],
}

impl<'a> From<&'a Images> for About<'a> {
    fn from(images: &'a Images) -> Self {
        Self { labels: &images.label_tensor, indices: &images.indices }
    }
}

/// The images of a batch, view by view.
pub(super) fn views_of(images: &Images) -> impl Iterator<Item = &Tensor> {
    std::iter::once(&images.images).chain(&images.more_views)
}

/// Whether a row still trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// As it should.
    Alive,
    /// All its logits are NaN: no update can change that, so none is computed.
    Nan,
    /// Taken out after a loss that was not finite.
    Ended,
}

impl Life {
    const ALL: [Self; 3] = [Self::Alive, Self::Nan, Self::Ended];

    /// Name in checkpoints.
    fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Nan => "nan",
            Self::Ended => "ended",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.name() == name)
    }
}

/// A student with its loss and optimizer.
pub(super) struct Row {
    pub recipe: RowRecipe,
    pub network: Box<dyn Network>,
    pub life: Life,
    cpu: Arc<Cpu>,
    objective: Distiller,
    /// One for each momentum of the recipe.
    sgd: Vec<Sgd>,
    /// For the loss's own parameters.
    own_sgd: Sgd,
    taps: Vec<String>,
    /// The student's parameters that its loss reads.
    read: Vec<String>,
    counter: Counter,
    loss_sum: f64,
    steps: usize,
    /// Factor of the learning rate: below 1 once the row was rewound.
    pub lr_factor: f64,
    /// Batches left out since the last one that was not.
    pub skipped_in_a_row: usize,
}

impl Row {
    /// A row that has not begun; `objective` is prepared for `network`.
    pub fn new(recipe: RowRecipe, objective: Distiller, network: Box<dyn Network>, cpu: &Arc<Cpu>) -> Self {
        let RequiredTaps { student, .. } = objective.taps();
        Self {
            cpu: Arc::clone(cpu),
            sgd: recipe.optimizers().into_iter().map(|r| Sgd::new(r, Arc::clone(cpu))).collect(),
            own_sgd: Sgd::new(recipe.optimizer, Arc::clone(cpu)),
            recipe,
            network,
            life: Life::Alive,
            read: objective.student_parameters(),
            objective,
            taps: student,
            counter: Counter::default(),
            loss_sum: 0.0,
            steps: 0,
            lr_factor: 1.0,
            skipped_in_a_row: 0,
        }
    }

    /// The teacher's feature maps that its loss reads.
    pub fn teacher_taps(&self) -> Vec<String> {
        self.objective.taps().teacher
    }

    /// Mean loss and accuracy in percent since the last call.
    pub fn take_epoch(&mut self) -> (f64, f64) {
        let result = (self.loss_sum / self.steps.max(1) as f64, self.counter.metrics().top1);
        (self.loss_sum, self.steps, self.counter) = (0.0, 0, Counter::default());
        result
    }

    /// The momentum, in the order of the weights; empty before the first step.
    pub fn momentum(&self) -> &[f32] {
        self.sgd[0].momentum()
    }

    /// Puts in its place what steps elsewhere have made of it.
    pub fn set_momentum(&mut self, momentum: Vec<f32>) {
        let steps = self.sgd[0].steps();
        self.sgd[0].restore(steps, momentum, HashMap::new());
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.sgd[0].steps()
    }

    /// Notes an update that was made elsewhere.
    pub fn updated(&mut self) {
        self.sgd[0].count();
    }

    /// Notes steps that were made elsewhere, of this mean loss.
    pub fn add_steps(&mut self, steps: usize, loss: f64, totals: &Totals) {
        self.counter.add_counts(totals.correct as usize, totals.rows as usize, totals.ce);
        self.loss_sum += loss * steps as f64;
        self.steps += steps;
    }

    /// A step of a row whose logits are all NaN: what it would have given, without computing it.
    pub fn step_nan(&mut self, images: &Images) {
        self.counter.add_nan(&images.labels);
        self.loss_sum = f64::NAN;
        self.steps += 1;
    }
}
