//! One training step of one row.

use super::{About, Answers, Life, Position, Row, answer_to, views_of};
use crate::event::TermValue;
use crate::optim::clip_scale;
use crate::{NonFinite, Result};
use candle_core::{Tensor, Var};
use dkd_datasets::Batch as Images;
use dkd_engine::Mode;
use dkd_kernels::flat;
use dkd_losses::{Batch, Objective, Outputs, StepDraw, Term, View, total};

/// What a step gave.
pub(in crate::cohort) struct StepResult {
    pub lr: f64,
    pub loss: f64,
    pub terms: Vec<TermValue>,
    /// Norm of all gradients, if they are clipped.
    pub gradient_norm: Option<f64>,
    /// Set if something was not finite; the update was made only if the row goes on regardless.
    pub bad: Option<Bad>,
}

impl StepResult {
    /// Adds what another view gave.
    fn add(&mut self, loss: f64, terms: Vec<TermValue>) {
        self.loss += loss;
        for term in terms {
            match self.terms.iter_mut().find(|t| t.name == term.name) {
                Some(sum) => sum.value += term.value,
                None => self.terms.push(term),
            }
        }
    }
}

/// Something that is not finite.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cohort) struct Bad {
    /// A term, or `gradient of NAME`.
    pub term: String,
    pub value: f64,
    /// The view after which it was seen.
    pub view: usize,
}

impl Bad {
    const GRADIENT: &str = "gradient of ";

    /// Whether the loss was finite, and a gradient was not.
    pub fn is_gradient(&self) -> bool {
        self.term.starts_with(Self::GRADIENT)
    }
}

/// Gradients of everything that is trained.
pub(super) struct Gradients {
    /// The sum over several backward passes; empty after a single one, whose gradients are still in the network.
    sum: Vec<f32>,
    /// Each pass's own, if the row keeps a momentum for each.
    apart: Vec<Vec<f32>>,
    /// Those of the loss's own parameters.
    pub own: Vec<Option<Tensor>>,
}

/// The weighted sum of terms, and their values.
pub(super) fn loss_of(terms: &[Term]) -> Result<(f64, Vec<TermValue>)> {
    let mut loss = 0.0;
    let mut values = Vec::with_capacity(terms.len());
    for term in terms {
        let value = f64::from(term.value.to_scalar::<f32>()?);
        loss += term.weight * value;
        values.push(TermValue { name: term.name.clone(), value });
    }
    Ok((loss, values))
}

impl Row {
    /// One step: forward, loss, backward, update.
    pub fn step(&mut self, images: &Images, teacher: Answers<'_>, at: Position) -> Result<StepResult> {
        let skips = self.recipe.nonfinite == NonFinite::Skip;
        let before = skips.then(|| self.undo_point()).transpose()?;
        let result = self.try_step(images, teacher, at)?;
        match before {
            Some(before) if result.bad.is_some() => {
                self.undo(before)?;
                self.skipped_in_a_row += 1;
            }
            _ => self.skipped_in_a_row = 0,
        }
        Ok(result)
    }

    fn try_step(&mut self, images: &Images, teacher: Answers<'_>, at: Position) -> Result<StepResult> {
        let mut result =
            StepResult { lr: self.rate(at), loss: 0.0, terms: Vec::new(), gradient_norm: None, bad: None };
        let goes_on = self.recipe.nonfinite == NonFinite::Continue;
        let mut gradients = self.no_gradients();
        let mut parameters = Vec::new();
        // The loss is a sum over the views: so is its gradient, and one view's layers are in memory at a time.
        for (view, pictures) in views_of(images).take(self.recipe.views).enumerate() {
            self.network.forward(pictures, Mode::Train, at.dropout_of(view))?;
            let outputs = self.outputs()?;
            if view == 0 {
                self.counter.add(&outputs.logits, &images.labels)?;
            }
            let logits = outputs.logits.clone();
            let terms = self.terms(outputs, images.into(), answer_to(view, teacher), teacher, at)?;
            let (loss, values) = loss_of(&terms)?;
            self.loss_sum += loss;
            let bad = values.iter().find(|t| !t.value.is_finite());
            let bad = bad.map(|t| Bad { term: t.name.clone(), value: t.value, view });
            result.add(loss, values);
            if view == 0 {
                self.steps += 1;
            }
            if let Some(bad) = bad {
                result.bad.get_or_insert(bad);
                if !goes_on {
                    return Ok(result);
                }
                if logits.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_nan()) {
                    self.life = Life::Nan;
                    return Ok(result);
                }
            }
            parameters = self.objective.parameters();
            self.backward(terms, &parameters, &mut gradients)?;
            if !goes_on {
                result.bad = self.bad_gradient(&gradients, &parameters, view)?;
                if result.bad.is_some() {
                    return Ok(result);
                }
            }
        }
        let mut scale = 1.0;
        if let Some(limit) = self.recipe.clip_norm {
            let norm = self.gradient_norm(&gradients)?;
            scale = clip_scale(norm, limit);
            result.gradient_norm = Some(norm);
        }
        self.own_sgd.step_loss(result.lr, scale, &parameters, &gradients.own)?;
        let (momenta, Gradients { sum, apart, .. }, lr) = (&mut self.sgd, &gradients, result.lr);
        self.network.update(&mut |weights, gradients| match &mut momenta[..] {
            [sgd] => sgd.step(lr, scale, weights, if sum.is_empty() { gradients } else { sum }),
            // Only the first has a weight decay, so that the others' steps do not depend on the weights: one after the other
            // is all at once.
            all => all.iter_mut().zip(apart).for_each(|(sgd, g)| sgd.step(lr, scale, weights, g)),
        })?;
        Ok(result)
    }

    /// Learning rate of a step.
    pub(in crate::cohort) fn rate(&self, at: Position) -> f64 {
        let factor = self.recipe.schedule.factor(at.epoch, at.batch, at.batches, at.epochs);
        self.recipe.optimizer.lr * factor * self.lr_factor
    }

    /// What the loss sees of the network.
    pub(super) fn outputs(&self) -> Result<Outputs> {
        let mut outputs = Outputs::new(self.network.logits()?);
        for name in &self.taps {
            outputs.taps.insert(name.clone(), self.network.tap(name)?);
        }
        Ok(outputs)
    }

    /// The loss's terms for one view.
    pub(super) fn terms(
        &mut self,
        outputs: Outputs,
        about: About<'_>,
        answer: Option<&Outputs>,
        teacher: Answers<'_>,
        at: Position,
    ) -> Result<Vec<Term>> {
        let views = [View { student: outputs, teacher: answer.cloned() }];
        let draw = StepDraw { seed: at.seed, step: at.step };
        let mut batch = Batch {
            indices: about.indices,
            epoch: at.epoch,
            step: at.step,
            draw: &draw,
            ..Batch::new(&views, about.labels)
        };
        if let Some((_, parameters)) = teacher {
            batch.teacher = parameters;
        }
        let leaves = self.network.leaves(&self.read)?;
        batch.student = &leaves;
        Ok(self.objective.terms(&batch)?)
    }

    /// What the views' gradients are added to.
    pub(super) fn no_gradients(&self) -> Gradients {
        let apart = if self.sgd.len() > 1 { vec![Vec::new(); self.sgd.len()] } else { Vec::new() };
        Gradients { sum: Vec::new(), apart, own: Vec::new() }
    }

    /// Adds one view's gradients of all groups of terms.
    pub(super) fn backward(
        &mut self,
        terms: Vec<Term>,
        parameters: &[(String, Var)],
        gradients: &mut Gradients,
    ) -> Result<()> {
        gradients.own.resize(parameters.len(), None);
        let groups = total(&terms)?;
        drop(terms);
        let several = groups.len() > 1 || self.sgd.len() > 1 || self.recipe.views > 1;
        for (group, loss) in groups {
            let store = loss.backward()?;
            self.network.backward(&store)?;
            for ((_, var), sum) in parameters.iter().zip(&mut gradients.own) {
                if let Some(gradient) = store.get(var.as_tensor()) {
                    *sum = Some(match sum.take() {
                        Some(sum) => (sum + gradient)?,
                        None => gradient.clone(),
                    });
                }
            }
            if several {
                gradients.sum.resize(self.network.gradients().len(), 0.0);
                gradients.sum.iter_mut().zip(self.network.gradients()).for_each(|(s, g)| *s += g);
            }
            if let Some(own) = gradients.apart.get_mut(group) {
                if own.is_empty() {
                    own.extend_from_slice(self.network.gradients());
                } else {
                    own.iter_mut().zip(self.network.gradients()).for_each(|(s, g)| *s += g);
                }
            }
        }
        // A group without a term in this step has a gradient of 0, and its momentum goes on.
        let weights = self.network.gradients().len();
        gradients.apart.iter_mut().for_each(|own| own.resize(weights, 0.0));
        Ok(())
    }

    /// Those of the network.
    pub(super) fn flat<'a>(&'a self, gradients: &'a Gradients) -> &'a [f32] {
        if gradients.sum.is_empty() { self.network.gradients() } else { &gradients.sum }
    }

    /// The parameter nearest to the loss whose gradient is not finite: what is below it is a consequence.
    fn bad_gradient(
        &self,
        gradients: &Gradients,
        parameters: &[(String, Var)],
        view: usize,
    ) -> Result<Option<Bad>> {
        let found = |name: &str, values: &[f32]| {
            let value = values.iter().find(|v| !v.is_finite())?;
            Some(Bad { term: format!("{}{name}", Bad::GRADIENT), value: f64::from(*value), view })
        };
        for ((name, _), gradient) in parameters.iter().zip(&gradients.own) {
            let Some(gradient) = gradient else { continue };
            if let Some(bad) =
                found(&format!("the loss's {name}"), &gradient.flatten_all()?.to_vec1::<f32>()?)
            {
                return Ok(Some(bad));
            }
        }
        let all = self.flat(gradients);
        if flat::all_finite(self.cpu.isa(), all) {
            return Ok(None);
        }
        Ok(self.network.spans().iter().rev().find_map(|span| found(&span.name, &all[span.range.clone()])))
    }

    fn gradient_norm(&self, gradients: &Gradients) -> Result<f64> {
        let mut squares = flat::norm(self.flat(gradients)).powi(2);
        for gradient in gradients.own.iter().flatten() {
            squares += flat::norm(&gradient.flatten_all()?.to_vec1::<f32>()?).powi(2);
        }
        Ok(squares.sqrt())
    }
}
