//! The interface of an objective and the terms it returns.
use candle_core::{Tensor, Var};

use crate::{Batch, Error, Result, Setup};

/// Names of the feature maps that an objective reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredTaps {
    /// Taps of the student.
    pub student: Vec<String>,
    /// Taps of the teacher.
    pub teacher: Vec<String>,
}

impl RequiredTaps {
    /// Adds those of `other` that are not there yet.
    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in [(&mut self.student, other.student), (&mut self.teacher, other.teacher)] {
            for name in theirs {
                if !mine.contains(&name) {
                    mine.push(name);
                }
            }
        }
    }
}

/// One named part of a loss.
#[derive(Clone, Debug)]
pub struct Term {
    /// What logs and reports call it.
    pub name: String,
    /// Unweighted value: a scalar, f32.
    pub value: Tensor,
    /// What the value is multiplied by in the total.
    pub weight: f64,
    /// Terms of different groups are back-propagated separately, each group giving a gradient of its own.
    pub group: usize,
}

impl Term {
    /// A term of group 0.
    pub fn new(name: impl Into<String>, value: Tensor, weight: f64) -> Self {
        Self { name: name.into(), value, weight, group: 0 }
    }

    /// The same term in `group`.
    pub fn in_group(self, group: usize) -> Self {
        Self { group, ..self }
    }
}

/// The weighted sum of each group's terms, in ascending order of the groups.
///
/// A weight of 0 still multiplies: 0 times an infinite value or derivative is NaN, as in PyTorch.
///
/// # Errors
/// Only those of candle.
pub fn total(terms: &[Term]) -> Result<Vec<(usize, Tensor)>> {
    let mut groups = std::collections::BTreeMap::<usize, Tensor>::new();
    for term in terms {
        let weighted = match term.weight {
            1.0 => term.value.clone(),
            // A number: candle would not differentiate what is multiplied by it.
            0.0 => (&term.value * term.value.zeros_like()?)?,
            weight => (&term.value * weight)?,
        };
        let sum = match groups.remove(&term.group) {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        };
        groups.insert(term.group, sum);
    }
    Ok(groups.into_iter().collect())
}

/// A training objective: from what student and teacher say about a batch to named scalar terms.
///
/// It may own parameters, which are optimised together with the student's, and buffers, which are saved with them. For
/// an exact resume everything that outlives a step must be one of the two; randomness comes from [`Batch::draw`].
pub trait Objective: Send {
    /// The feature maps it reads; asked for after [`Objective::prepare`], which may decide them.
    fn taps(&self) -> RequiredTaps {
        RequiredTaps::default()
    }

    /// The student's parameters that it reads in [`Batch::student`], by name; asked for after [`Objective::prepare`].
    fn student_parameters(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether [`View::teacher`](crate::View::teacher) has to be there.
    fn needs_teacher(&self) -> bool;

    /// Whether [`Objective::terms`] and its gradient may be computed where the networks' outputs lie on a GPU: all of it is candle's own
    /// operations, and no value of an output is read to the host, which would wait there. Labels are on the CPU then. Asked for
    /// after [`Objective::prepare`]; objectives that do not say so get everything on the CPU.
    fn on_device(&self) -> bool {
        false
    }

    /// Bytes that the terms of `batch` images and their gradient take on a device at most, beside the networks' outputs: an estimate, for a plan
    /// of its memory. It is 0 where that is little. Asked for after [`Objective::prepare`].
    fn device_bytes(&self, _batch: usize) -> u64 {
        0
    }

    /// Called once before the first step (and before a checkpoint is loaded): creates parameters and buffers whose
    /// size depends on the networks or the data.
    ///
    /// # Errors
    /// When the objective cannot work with these networks.
    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let _ = setup;
        Ok(())
    }

    /// The terms for one batch, differentiable with respect to the student's outputs and [`Objective::parameters`].
    ///
    /// The objectives of this crate check shapes and labels here, but not whether logits are finite: that is the
    /// [`Distiller`](crate::Distiller)'s, once for all its parts and only if it is to.
    ///
    /// # Errors
    /// When the batch does not fit the objective.
    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>>;

    /// Named parameters, always in the same order. They share storage with the objective: setting one changes it.
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    /// Named state that is not optimised, always in the same order.
    fn buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Replaces the buffer `name` when a run is resumed.
    ///
    /// # Errors
    /// [`Error::UnknownBuffer`], or a shape that does not fit.
    fn set_buffer(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let _ = value;
        Err(Error::UnknownBuffer { name: name.into() })
    }
}
