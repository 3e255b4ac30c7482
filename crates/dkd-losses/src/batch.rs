//! What an objective gets at every step, and what it gets once before the first.
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use dkd_kernels::Cpu;

use crate::check::{Checks, check_logits};
use crate::error::{Error, Result};
use crate::{Draw, NamedTensors, NoParameters, Outputs, StepDraw, View};

/// One training batch, seen by student and teacher.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// The views; ordinary training has one.
    pub views: &'a [View],
    /// Class numbers, u32, shape `[B]`; on the CPU, also where the views are elsewhere
    /// ([`Objective::on_device`](crate::Objective::on_device)).
    pub labels: &'a Tensor,
    /// Position of each sample in the training set.
    pub indices: &'a [u32],
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Step of the run, counted from 0 over all epochs.
    pub step: u64,
    /// Random numbers for this step.
    pub draw: &'a dyn Draw,
    /// The teacher's parameters by name.
    pub teacher: &'a dyn NamedTensors,
    /// The student's parameters of [`Objective::student_parameters`](crate::Objective::student_parameters), as leaves: gradients
    /// flow into them.
    pub student: &'a dyn NamedTensors,
}

impl<'a> Batch<'a> {
    /// A batch of epoch 1, step 0, without sample positions and without parameters; a caller that has more
    /// sets the other fields: `Batch { epoch: 3, ..Batch::new(&views, &labels) }`.
    pub fn new(views: &'a [View], labels: &'a Tensor) -> Self {
        const DRAW: StepDraw = StepDraw { seed: 0, step: 0 };
        let (teacher, student) = (&NoParameters, &NoParameters);
        Self { views, labels, indices: &[], epoch: 1, step: 0, draw: &DRAW, teacher, student }
    }

    /// View number `view`.
    ///
    /// # Errors
    /// [`Error::MissingView`].
    pub fn view(&self, view: usize) -> Result<&'a View> {
        self.views.get(view).ok_or(Error::MissingView { view, views: self.views.len() })
    }

    /// The student's logits on the first view, shape [B, C].
    ///
    /// # Errors
    /// [`Error::MissingView`].
    pub fn student_logits(&self) -> Result<&'a Tensor> {
        Ok(&self.view(0)?.student.logits)
    }

    /// The teacher's outputs on view number `view`; `objective` names who asks, for the message.
    ///
    /// # Errors
    /// [`Error::MissingView`], [`Error::MissingTeacher`].
    pub fn teacher_outputs(&self, objective: &str, view: usize) -> Result<&'a Outputs> {
        let missing = || Error::MissingTeacher { objective: objective.into(), view };
        self.view(view)?.teacher.as_ref().ok_or_else(missing)
    }

    /// The teacher's logits on the first view, shape [B, C].
    ///
    /// # Errors
    /// [`Error::MissingView`], [`Error::MissingTeacher`].
    pub fn teacher_logits(&self, objective: &str) -> Result<&'a Tensor> {
        Ok(&self.teacher_outputs(objective, 0)?.logits)
    }

    /// Looks for NaN and infinity in the logits of all views, as `checks` says.
    ///
    /// # Errors
    /// [`Error::NotFinite`], naming the tensor (`student logits`, `teacher logits`) and the row.
    pub fn check(&self, checks: Checks) -> Result<()> {
        if checks == Checks::None {
            return Ok(());
        }
        for view in self.views {
            check_logits(&view.student.logits, view.teacher.as_ref().map(|t| &t.logits))?;
        }
        Ok(())
    }
}

/// A network's classifier: logits are `weight · mean(map) + bias`, the mean over all positions of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tap of the map.
    pub map: String,
    /// Name of the weight [C, channels].
    pub weight: String,
    /// Name of the bias `[C]`, if there is one.
    pub bias: Option<String>,
}

/// What is known before the first step: enough to size adapters and memories.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// Where parameters and buffers are to live.
    pub device: &'a Device,
    /// Threads and instruction set for the kernels of adapters.
    pub cpu: &'a Arc<Cpu>,
    /// Number of classes C.
    pub num_classes: usize,
    /// Class of each training sample, by its position in the training set.
    pub train_labels: &'a [u32],
    /// Shape of each student tap without the batch dimension: [channels, height, width] or `[n]`.
    pub student_taps: &'a BTreeMap<String, Vec<usize>>,
    /// Shape of each teacher tap without the batch dimension.
    pub teacher_taps: &'a BTreeMap<String, Vec<usize>>,
    /// Of each teacher tap that a batch norm makes, or a sum whose first part one makes: its name, to which `.weight` and
    /// `.bias` are added for its parameters.
    pub teacher_norms: &'a BTreeMap<String, String>,
    /// How the student makes logits from a map, if it does so by averaging and one linear layer.
    pub student_head: Option<&'a Head>,
    /// The same of the teacher.
    pub teacher_head: Option<&'a Head>,
    /// Random numbers for initial values, keyed by the run's seed.
    pub draw: &'a dyn Draw,
}
