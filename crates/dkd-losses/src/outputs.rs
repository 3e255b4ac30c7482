//! What a network hands to a loss.
use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{Error, Result, listed};

/// Logits and feature maps of one network for one view of a batch.
///
/// The tensors belong to the network and are overwritten by its next forward pass: an objective that wants to keep
/// one copies it (`Tensor::copy`).
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Class scores before softmax, shape [B, C], f32.
    pub logits: Tensor,
    /// Feature maps by name, shape [B, channels, height, width] or [B, n]. Only those asked for by
    /// [`Objective::taps`](crate::Objective::taps).
    pub taps: BTreeMap<String, Tensor>,
}

impl Outputs {
    /// Outputs without feature maps.
    pub fn new(logits: Tensor) -> Self {
        Self { logits, taps: BTreeMap::new() }
    }

    /// The feature map `name`; `side` (`student` or `teacher`) is for the error message.
    ///
    /// # Errors
    /// [`Error::MissingTap`] when the network did not hand it out.
    pub fn tap(&self, side: &'static str, name: &str) -> Result<&Tensor> {
        self.taps.get(name).ok_or_else(|| Error::MissingTap {
            side,
            name: name.into(),
            available: listed(self.taps.keys().map(String::as_str)),
        })
    }
}

/// One view (one augmentation of every sample) of a batch as the networks saw it.
#[derive(Clone, Debug)]
pub struct View {
    /// The student's outputs: gradients flow into these tensors.
    pub student: Outputs,
    /// The teacher's outputs on the same view: constants.
    pub teacher: Option<Outputs>,
}

impl View {
    /// A view with logits only.
    pub fn new(student_logits: Tensor, teacher_logits: Option<Tensor>) -> Self {
        Self { student: Outputs::new(student_logits), teacher: teacher_logits.map(Outputs::new) }
    }
}
