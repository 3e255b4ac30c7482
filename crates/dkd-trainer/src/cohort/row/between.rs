//! A row's loss between two recorded parts of a step.

use super::{About, Answers, Position, Row, answer_to};
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_losses::{Objective, Term, total};

/// A loss whose gradients are where the step's second part finds them.
pub(in crate::cohort) struct Differentiated {
    pub terms: Vec<Term>,
    /// Their weighted sum.
    pub loss: Tensor,
    /// Its gradient by weights of the student, in the order of the weights, if the loss reads any.
    pub by_weights: Option<Vec<f32>>,
}

impl Row {
    /// The loss of what the network, which is on a device, has published. Gradients of logits and taps go there; the loss's own
    /// parameters are updated.
    pub fn differentiate(
        &mut self,
        about: About<'_>,
        teacher: Answers<'_>,
        at: Position,
    ) -> Result<Differentiated> {
        let terms = self.terms(self.outputs()?, about, answer_to(0, teacher), teacher, at)?;
        let mut sum: Option<Tensor> = None;
        for (_, group) in total(&terms)? {
            sum = Some(match sum {
                Some(sum) => (sum + group)?,
                None => group,
            });
        }
        let loss = sum.ok_or_else(|| Error::Invalid(format!("row `{}`: no terms", self.recipe.id)))?;
        let store = loss.backward()?;
        let own = self.objective.parameters();
        let gradients: Vec<_> = own.iter().map(|(_, var)| store.get(var.as_tensor()).cloned()).collect();
        self.own_sgd.step_loss(self.rate(at), 1.0, &own, &gradients)?;
        let network = self.network.on_gpu();
        let network = network
            .ok_or_else(|| Error::Invalid(format!("row `{}` is not on the device", self.recipe.id)))?;
        network.session().take_gradients(&store)?;
        let mut by_weights = None;
        if !self.read.is_empty() {
            let mut flat = vec![0.0; network.session().values().len()];
            network.add_leaves(&store, &mut flat)?;
            by_weights = Some(flat);
        }
        Ok(Differentiated { terms, loss, by_weights })
    }

    /// The parts of its loss that are computed on the CPU.
    pub fn on_host(&self) -> Vec<&str> {
        self.objective.on_host()
    }

    /// Whether its loss has parameters of its own.
    pub fn has_own_parameters(&self) -> bool {
        !self.objective.parameters().is_empty()
    }

    /// Whether its loss reads weights of the student.
    pub fn reads_weights(&self) -> bool {
        !self.read.is_empty()
    }
}
