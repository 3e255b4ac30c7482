//! One student of a cohort.

#[cfg(test)]
mod tests;

use crate::checkpoint::RowState;
use crate::event::TermValue;
use crate::network::Network;
use crate::record::RowResult;
use crate::{Error, NonFinite, Result, RowRecipe, Sgd};
use candle_core::Tensor;
use dkd_datasets::Batch as Images;
use dkd_engine::{DropoutKey, Mode};
use dkd_kernels::Cpu;
use dkd_losses::{
    Batch, Checks, Distiller, Objective, Outputs, Part, RequiredTaps, Setup, StepDraw, View, total,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::evaluate::Counter;

/// Where the run is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
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

/// What a step gave.
pub(super) struct StepResult {
    pub lr: f64,
    pub loss: f64,
    pub terms: Vec<TermValue>,
    /// A term that was not finite.
    pub bad: Option<TermValue>,
}

/// A student with its loss and optimizer.
pub(super) struct Row {
    pub recipe: RowRecipe,
    pub network: Box<dyn Network>,
    pub life: Life,
    objective: Distiller,
    sgd: Sgd,
    taps: Vec<String>,
    counter: Counter,
    loss_sum: f64,
    steps: usize,
}

impl Row {
    /// The loss of a row.
    pub fn objective(recipe: &RowRecipe) -> Result<Distiller> {
        let mut objective = Distiller::new().checks(Checks::None);
        for part in &recipe.parts {
            let built = Part::boxed(part.name.clone(), part.method.build()?);
            objective = objective.with(built.weight(part.weight).warmup(part.warmup))?;
        }
        Ok(objective)
    }

    /// A row that has not begun; `setup` tells its loss about networks and data.
    pub fn new(
        recipe: RowRecipe,
        network: Box<dyn Network>,
        setup: &Setup<'_>,
        cpu: &Arc<Cpu>,
    ) -> Result<Self> {
        let objective = Self::objective(&recipe)?;
        Self::with_objective(recipe, objective, network, setup, cpu)
    }

    /// [`Row::new`] with a loss that is not the recipe's.
    fn with_objective(
        recipe: RowRecipe,
        mut objective: Distiller,
        network: Box<dyn Network>,
        setup: &Setup<'_>,
        cpu: &Arc<Cpu>,
    ) -> Result<Self> {
        objective.prepare(setup)?;
        let RequiredTaps { student, .. } = objective.taps();
        Ok(Self {
            sgd: Sgd::new(recipe.optimizer, Arc::clone(cpu)),
            recipe,
            network,
            life: Life::Alive,
            objective,
            taps: student,
            counter: Counter::default(),
            loss_sum: 0.0,
            steps: 0,
        })
    }

    /// Everything that the next step depends on: numbers, and tensors for `tensors`.
    pub fn snapshot(&self, result: &RowResult, tensors: &mut Vec<(String, Tensor)>) -> Result<RowState> {
        let id = &self.recipe.id;
        let mut add =
            |kind: &str, name: &str, tensor: Tensor| tensors.push((format!("{id}/{kind}/{name}"), tensor));
        for (name, tensor) in self.network.state_dict()? {
            add("weights", &name, tensor);
        }
        if !self.sgd.momentum().is_empty() {
            for (name, tensor) in self.network.unpack(self.sgd.momentum())? {
                add("momentum", &name, tensor);
            }
        }
        // The loss's own tensors move on while the checkpoint is being written; those above are copies already.
        for (name, var) in self.objective.parameters() {
            add("loss", &name, var.as_tensor().copy()?);
        }
        for (name, tensor) in self.sgd.loss_momentum() {
            add("loss_momentum", name, tensor.copy()?);
        }
        for (name, tensor) in self.objective.buffers() {
            add("loss_buffer", &name, tensor.copy()?);
        }
        Ok(RowState {
            id: id.clone(),
            life: self.life.name().to_owned(),
            updates: self.sgd.steps(),
            steps: self.steps,
            loss_sum: self.loss_sum.to_bits(),
            seen: [self.counter.images, self.counter.top1, self.counter.top5],
            cross_entropy: self.counter.loss.to_bits(),
            result: result.clone(),
        })
    }

    /// Takes the row to where [`Row::snapshot`] was made; `tensors` are those of all rows.
    pub fn restore(&mut self, state: &RowState, tensors: &[(String, Tensor)]) -> Result<()> {
        let of = |kind: &str| -> HashMap<String, Tensor> {
            let prefix = format!("{}/{kind}/", state.id);
            let own =
                tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_owned(), t.clone())));
            own.collect()
        };
        self.life = Life::named(&state.life).ok_or_else(|| {
            Error::Invalid(format!("row `{}` is neither alive nor ended: `{}`", state.id, state.life))
        })?;
        self.network.load_state_dict(&of("weights"))?;
        let momentum = of("momentum");
        let momentum = if momentum.is_empty() { Vec::new() } else { self.network.pack(&momentum)? };
        self.sgd.restore(state.updates, momentum, of("loss_momentum"));
        let own = of("loss");
        for (name, var) in self.objective.parameters() {
            let value = own.get(&name).ok_or_else(|| {
                Error::Invalid(format!("row `{}`: the loss's parameter `{name}` is missing", state.id))
            })?;
            var.set(value)?;
        }
        for (name, value) in of("loss_buffer") {
            self.objective.set_buffer(&name, &value)?;
        }
        (self.loss_sum, self.steps) = (f64::from_bits(state.loss_sum), state.steps);
        let [images, top1, top5] = state.seen;
        self.counter = Counter { top1, top5, loss: f64::from_bits(state.cross_entropy), images };
        Ok(())
    }

    /// Mean loss and accuracy in percent since the last call.
    pub fn take_epoch(&mut self) -> (f64, f64) {
        let result = (self.loss_sum / self.steps.max(1) as f64, self.counter.metrics().top1);
        (self.loss_sum, self.steps, self.counter) = (0.0, 0, Counter::default());
        result
    }

    /// A step of a row whose logits are all NaN: what it would have given, without computing it.
    pub fn step_nan(&mut self, images: &Images) {
        self.counter.add_nan(&images.labels);
        self.loss_sum = f64::NAN;
        self.steps += 1;
    }

    /// One step: forward, loss, backward, update. With a loss that is not finite, the update is made only if the row is to
    /// go on regardless.
    pub fn step(
        &mut self,
        images: &Images,
        teacher: Option<(Outputs, &BTreeMap<String, Tensor>)>,
        at: Position,
    ) -> Result<StepResult> {
        let key = DropoutKey { seed: at.seed, epoch: at.epoch as u32, step: at.step };
        let factor = self.recipe.schedule.factor(at.epoch, at.batch, at.batches, at.epochs);
        let lr = self.recipe.optimizer.lr * factor;
        self.network.forward(&images.images, Mode::Train, key)?;
        let mut outputs = Outputs::new(self.network.logits()?);
        for name in &self.taps {
            outputs.taps.insert(name.clone(), self.network.tap(name)?);
        }
        self.counter.add(&outputs.logits, &images.labels)?;
        let (answers, parameters) = match teacher {
            Some((answers, parameters)) => (Some(answers), Some(parameters)),
            None => (None, None),
        };
        let views = [View { student: outputs, teacher: answers }];
        let draw = StepDraw { seed: at.seed, step: at.step };
        let mut batch = Batch {
            indices: &images.indices,
            epoch: at.epoch,
            step: at.step,
            draw: &draw,
            ..Batch::new(&views, &images.label_tensor)
        };
        if let Some(parameters) = parameters {
            batch.teacher = parameters;
        }
        let terms = self.objective.terms(&batch)?;
        let mut result = StepResult { lr, loss: 0.0, terms: Vec::with_capacity(terms.len()), bad: None };
        for term in &terms {
            let value = f64::from(term.value.to_scalar::<f32>()?);
            result.loss += term.weight * value;
            result.terms.push(TermValue { name: term.name.clone(), value });
        }
        self.loss_sum += result.loss;
        self.steps += 1;
        result.bad = result.terms.iter().find(|t| !t.value.is_finite()).cloned();
        if result.bad.is_some() {
            if self.recipe.nonfinite != NonFinite::Continue {
                return Ok(result);
            }
            let logits = views[0].student.logits.flatten_all()?.to_vec1::<f32>()?;
            if logits.iter().all(|v| v.is_nan()) {
                self.life = Life::Nan;
                return Ok(result);
            }
        }
        let groups = total(&terms)?;
        drop(terms);
        let mut sum: Vec<f32> = Vec::new();
        let several = groups.len() > 1;
        let parameters = self.objective.parameters();
        let mut own: Vec<Option<Tensor>> = vec![None; parameters.len()];
        for (_, loss) in groups {
            let store = loss.backward()?;
            self.network.backward(&store)?;
            for ((_, var), sum) in parameters.iter().zip(&mut own) {
                if let Some(gradient) = store.get(var.as_tensor()) {
                    *sum = Some(match sum.take() {
                        Some(sum) => (sum + gradient)?,
                        None => gradient.clone(),
                    });
                }
            }
            if several {
                sum.resize(self.network.gradients().len(), 0.0);
                sum.iter_mut().zip(self.network.gradients()).for_each(|(s, g)| *s += g);
            }
        }
        self.sgd.step_loss(lr, &parameters, &own)?;
        let sgd = &mut self.sgd;
        self.network
            .update(&mut |weights, gradients| sgd.step(lr, weights, if several { &sum } else { gradients }));
        Ok(result)
    }
}
