//! A row's state, for checkpoints, and what a batch that is left out must not change.

use super::{Life, Row};
use crate::checkpoint::RowState;
use crate::evaluate::Counter;
use crate::record::RowResult;
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_losses::Objective;
use std::collections::HashMap;

/// What a step changes before it knows whether its update will be made.
pub(super) struct UndoPoint {
    running: Vec<f32>,
    buffers: Vec<(String, Tensor)>,
    counter: Counter,
    loss_sum: f64,
    steps: usize,
}

/// What the momentum of an optimizer of the row is called in a checkpoint.
fn momentum_kind(optimizer: usize) -> String {
    if optimizer == 0 { "momentum".to_owned() } else { format!("momentum{optimizer}") }
}

impl Row {
    /// Where the row is before a step.
    pub(super) fn undo_point(&self) -> Result<UndoPoint> {
        let buffers = self.objective.buffers().into_iter().map(|(name, t)| Ok((name, t.copy()?)));
        Ok(UndoPoint {
            running: self.network.running()?,
            buffers: buffers.collect::<Result<_>>()?,
            counter: self.counter,
            loss_sum: self.loss_sum,
            steps: self.steps,
        })
    }

    /// Takes back a step whose update was not made.
    pub(super) fn undo(&mut self, to: UndoPoint) -> Result<()> {
        self.network.set_running(&to.running)?;
        for (name, value) in &to.buffers {
            self.objective.set_buffer(name, value)?;
        }
        (self.counter, self.loss_sum, self.steps) = (to.counter, to.loss_sum, to.steps);
        Ok(())
    }

    /// Everything that the next step depends on: numbers, and tensors for `tensors`.
    pub fn snapshot(&self, result: &RowResult, tensors: &mut Vec<(String, Tensor)>) -> Result<RowState> {
        let id = &self.recipe.id;
        let mut add =
            |kind: &str, name: &str, tensor: Tensor| tensors.push((format!("{id}/{kind}/{name}"), tensor));
        for (name, tensor) in self.network.state_dict()? {
            add("weights", &name, tensor);
        }
        for (i, sgd) in self.sgd.iter().enumerate().filter(|(_, sgd)| !sgd.momentum().is_empty()) {
            for (name, tensor) in self.network.unpack(sgd.momentum())? {
                add(&momentum_kind(i), &name, tensor);
            }
        }
        // The loss's own tensors move on while the checkpoint is being written; those above are copies already.
        for (name, var) in self.objective.parameters() {
            add("loss", &name, var.as_tensor().copy()?);
        }
        for (name, tensor) in self.own_sgd.loss_momentum() {
            add("loss_momentum", name, tensor.copy()?);
        }
        for (name, tensor) in self.objective.buffers() {
            add("loss_buffer", &name, tensor.copy()?);
        }
        Ok(RowState {
            id: id.clone(),
            life: self.life.name().to_owned(),
            updates: self.sgd[0].steps(),
            steps: self.steps,
            loss_sum: self.loss_sum.to_bits(),
            seen: [self.counter.images, self.counter.top1, self.counter.top5],
            cross_entropy: self.counter.loss.to_bits(),
            lr_factor: self.lr_factor,
            skipped_in_a_row: self.skipped_in_a_row,
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
        for (i, sgd) in self.sgd.iter_mut().enumerate() {
            let momentum = of(&momentum_kind(i));
            let momentum = if momentum.is_empty() { Vec::new() } else { self.network.pack(&momentum)? };
            sgd.restore(state.updates, momentum, HashMap::new());
        }
        self.own_sgd.restore(state.updates, Vec::new(), of("loss_momentum"));
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
        (self.lr_factor, self.skipped_in_a_row) = (state.lr_factor, state.skipped_in_a_row);
        let [images, top1, top5] = state.seen;
        self.counter = Counter { top1, top5, loss: f64::from_bits(state.cross_entropy), images };
        Ok(())
    }
}
