//! The teacher's answers, computed once per batch and mode.

use crate::network::Network;
use crate::{Result, TeacherMode};
use candle_core::Tensor;
use dkd_engine::{DropoutKey, Mode};
use dkd_losses::Outputs;
use std::collections::BTreeMap;

/// A teacher with the modes and taps that its students ask for.
pub(super) struct Teacher {
    network: Box<dyn Network>,
    pub parameters: BTreeMap<String, Tensor>,
    modes: Vec<TeacherMode>,
    taps: Vec<String>,
    answers: BTreeMap<TeacherMode, Outputs>,
}

impl Teacher {
    pub fn new(network: Box<dyn Network>, mut modes: Vec<TeacherMode>, taps: Vec<String>) -> Result<Self> {
        modes.sort_unstable();
        modes.dedup();
        let parameters = network.state_dict()?.into_iter().collect();
        Ok(Self { network, parameters, modes, taps, answers: BTreeMap::new() })
    }

    /// Runs a batch in every mode that is needed.
    pub fn answer(&mut self, images: &Tensor, key: DropoutKey) -> Result<()> {
        for mode in &self.modes {
            let engine_mode = match mode {
                TeacherMode::Eval => Mode::Eval,
                TeacherMode::Train => Mode::Train,
            };
            self.network.forward(images, engine_mode, key)?;
            // Copies: the next mode, or the next batch, overwrites the network's own tensors.
            let copy = |t: Tensor| t.detach().copy();
            let mut outputs = Outputs::new(copy(self.network.logits()?)?);
            for name in &self.taps {
                outputs.taps.insert(name.clone(), copy(self.network.tap(name)?)?);
            }
            self.answers.insert(*mode, outputs);
        }
        Ok(())
    }

    /// The answer to the last batch.
    pub fn outputs(&self, mode: TeacherMode) -> Option<Outputs> {
        self.answers.get(&mode).cloned()
    }
}
