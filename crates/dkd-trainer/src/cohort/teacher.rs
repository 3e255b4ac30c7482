//! The teacher's answers, computed once per batch and mode.

use super::row::{Answers, Position, views_of};
use crate::network::Network;
use crate::teacher_cache::TeacherCache;
use crate::{Error, Result, RowRecipe, TeacherMode};
use candle_core::{Device, Tensor};
use dkd_datasets::Batch as Images;
use dkd_engine::gpu::GpuSession;
use dkd_losses::Outputs;
use std::collections::BTreeMap;

/// A teacher in the modes that its students ask for.
///
/// Each mode has a network of its own: a pass in training mode moves the running statistics, which a student that is taught in
/// evaluation mode must not feel.
pub(super) struct Teacher {
    networks: BTreeMap<TeacherMode, Box<dyn Network>>,
    parameters: BTreeMap<String, Tensor>,
    taps: Vec<String>,
    /// One for each view.
    answers: BTreeMap<TeacherMode, Vec<Outputs>>,
    /// Of the answers in evaluation mode.
    cache: Option<TeacherCache>,
}

impl Teacher {
    /// A teacher with these weights, each of whose networks has loaded them.
    pub fn new(
        networks: BTreeMap<TeacherMode, Box<dyn Network>>,
        parameters: BTreeMap<String, Tensor>,
        taps: Vec<String>,
        cache: Option<TeacherCache>,
    ) -> Self {
        Self { networks, parameters, taps, answers: BTreeMap::new(), cache }
    }

    /// Runs the first `views` views of a batch in every mode.
    pub fn answer(&mut self, images: &Images, views: usize, at: Position) -> Result<()> {
        for (mode, network) in &mut self.networks {
            if let (TeacherMode::Eval, Some(cache)) = (mode, &mut self.cache) {
                let outputs = cache.answer(&mut **network, images, at.epoch, at.dropout())?;
                self.answers.insert(*mode, vec![outputs]);
                continue;
            }
            // The next view overwrites the network's tensors.
            let kept = |tensor: Tensor| if views > 1 { tensor.copy() } else { Ok(tensor) };
            let mut answers = Vec::with_capacity(views);
            for (view, pictures) in views_of(images).take(views).enumerate() {
                network.forward(pictures, mode.of_engine(), at.dropout_of(view))?;
                // Constants for the losses, whatever the network's own tensors are.
                let mut outputs = Outputs::new(kept(network.logits()?.detach())?);
                for name in &self.taps {
                    // Dense once, rather than in every row that reads it.
                    outputs.taps.insert(name.clone(), kept(network.tap(name)?.detach().contiguous()?)?);
                }
                answers.push(outputs);
            }
            self.answers.insert(*mode, answers);
        }
        Ok(())
    }

    /// Its sessions by mode, as far as they are on a device and their answers are not kept.
    pub fn sessions(&mut self) -> impl Iterator<Item = (TeacherMode, &mut GpuSession)> {
        let kept = self.cache.is_some();
        let networks = self.networks.iter_mut().filter(move |(mode, _)| !kept || **mode != TeacherMode::Eval);
        networks.filter_map(|(mode, network)| Some((*mode, network.on_gpu()?.session())))
    }

    /// The session of one mode.
    pub fn session(&mut self, mode: TeacherMode) -> Option<&mut GpuSession> {
        self.sessions().find(|(m, _)| *m == mode).map(|(_, session)| session)
    }

    /// What the last run of a mode's session gave for `n` images, as constants on `device`.
    pub fn publish(&mut self, mode: TeacherMode, n: usize, device: &Device) -> Result<Outputs> {
        let missing = || Error::Invalid("the teacher is not on the device".to_owned());
        let network = self.networks.get_mut(&mode).and_then(|network| network.on_gpu());
        let session = network.ok_or_else(missing)?.session();
        session.publish(mode.of_engine(), n, device)?;
        let mut outputs = Outputs::new(session.logits()?.detach());
        for name in &self.taps {
            outputs.taps.insert(name.clone(), session.tap(name)?.detach().contiguous()?);
        }
        Ok(outputs)
    }

    /// Its parameters, by name.
    pub fn parameters(&self) -> &BTreeMap<String, Tensor> {
        &self.parameters
    }

    /// What a row gets to see of the last batch's answers.
    pub fn answers(&self, row: &RowRecipe) -> Answers<'_> {
        if row.needs_teacher() {
            Some((self.answers.get(&row.teacher_mode)?, &self.parameters))
        } else {
            None
        }
    }
}
