//! Where a row's numbers stopped being finite, and what a step looks like from inside.

use super::step::loss_of;
use super::{Answers, Position, Row, answer_to, views_of};
use crate::Result;
use crate::debug::{LayerReport, Origin, ParameterReport, Spread, StepReport};
use crate::network::Opened;
use candle_core::Tensor;
use dkd_datasets::Batch as Images;
use dkd_engine::Mode;
use dkd_kernels::flat;
use dkd_losses::Objective;
use std::collections::{HashMap, HashSet};

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
}

/// Which of a batch's samples have a value that is not finite.
fn bad_samples(tensor: &Tensor, indices: &[u32]) -> Result<Vec<u32>> {
    let all = values(tensor)?;
    let each = (all.len() / indices.len().max(1)).max(1);
    let bad = all.chunks(each).zip(indices).filter(|(v, _)| v.iter().any(|v| !v.is_finite()));
    Ok(bad.map(|(_, index)| *index).collect())
}

impl Row {
    /// The first place, on the way from weights and images to the loss, at which a value is not finite. Runs the batch again
    /// if the network can be looked into; the row itself does not change. With `gradient`, the loss is known to be finite.
    pub fn origin(
        &self,
        images: &Images,
        view: usize,
        teacher: Answers<'_>,
        at: Position,
        gradient: bool,
    ) -> Result<Origin> {
        let teacher = answer_to(view, teacher);
        let pictures = views_of(images).nth(view).unwrap_or(&images.images);
        let found = |place: String, samples: Vec<u32>| Ok(Origin { place, samples });
        // Running statistics are a consequence: the batch that is being looked at has moved them already.
        let trained: HashSet<String> = self.network.spans().into_iter().map(|s| s.name).collect();
        for (name, tensor) in
            self.network.state_dict()?.into_iter().filter(|(name, _)| trained.contains(name))
        {
            if !flat::all_finite(self.cpu.isa(), &values(&tensor)?) {
                return found(format!("weight {name}"), images.indices.clone());
            }
        }
        let bad = bad_samples(pictures, &images.indices)?;
        if !bad.is_empty() {
            return found("the images".to_owned(), bad);
        }
        if let Some(Opened { mut network, layers }) = self.network.open()? {
            network.forward(pictures, Mode::Train, at.dropout_of(view))?;
            for name in layers {
                let bad = bad_samples(&network.tap(&name)?, &images.indices)?;
                if !bad.is_empty() {
                    return found(format!("the output of {name}"), bad);
                }
            }
        } else {
            let bad = bad_samples(&self.network.logits()?, &images.indices)?;
            if !bad.is_empty() {
                return found("the student's logits".to_owned(), bad);
            }
        }
        if let Some(outputs) = teacher {
            let bad = bad_samples(&outputs.logits, &images.indices)?;
            if !bad.is_empty() {
                return found("the teacher's logits".to_owned(), bad);
            }
        }
        let logits = Spread::of(&values(&self.network.logits()?)?);
        let stage = if gradient { "the gradients: the loss is finite," } else { "the loss itself:" };
        let mut place =
            format!("{stage} the student's logits are finite, {:.3e} to {:.3e}", logits.min, logits.max);
        if let Some(outputs) = teacher {
            let logits = Spread::of(&values(&outputs.logits)?);
            place.push_str(&format!(", the teacher's too, {:.3e} to {:.3e}", logits.min, logits.max));
        }
        found(place, images.indices.clone())
    }

    /// A step from inside, without its update. The row must not be used for training afterwards: its loss may have moved
    /// buffers of its own.
    pub fn examine(&mut self, images: &Images, teacher: Answers<'_>, at: Position) -> Result<StepReport> {
        let answers = answer_to(0, teacher);
        // The network itself comes along: its values are those that training sees, in the last bit.
        self.network.forward(&images.images, Mode::Train, at.dropout())?;
        let mut opened = self.network.open()?;
        let mut layers = Vec::new();
        if let Some(Opened { network, layers: names }) = &mut opened {
            network.forward(&images.images, Mode::Train, at.dropout())?;
            for name in names {
                layers.push(LayerReport {
                    values: Spread::of(&values(&network.tap(name)?)?),
                    name: name.clone(),
                });
            }
        }
        let outputs = self.outputs()?;
        let teacher_spread = answers.map(|a| values(&a.logits)).transpose()?.map(|v| Spread::of(&v));
        let terms = self.terms(outputs, images.into(), answers, teacher, at)?;
        let (loss, term_values) = loss_of(&terms)?;
        let mut report = StepReport {
            row: self.recipe.id.clone(),
            epoch: at.epoch,
            step: at.step,
            lr: self.rate(at),
            samples: images.indices.clone(),
            terms: term_values,
            loss,
            images: Spread::of(&values(&images.images)?),
            teacher: teacher_spread,
            layers,
            parameters: Vec::new(),
            gradient_norm: 0.0,
            origin: None,
        };
        let parameters = self.objective.parameters();
        let mut gradients = self.no_gradients();
        self.backward(terms, &parameters, &mut gradients)?;
        // Terms and layers are the first view's, gradients those of the step.
        for (view, pictures) in views_of(images).enumerate().take(self.recipe.views).skip(1) {
            self.network.forward(pictures, Mode::Train, at.dropout_of(view))?;
            let outputs = self.outputs()?;
            let terms = self.terms(outputs, images.into(), answer_to(view, teacher), teacher, at)?;
            self.backward(terms, &parameters, &mut gradients)?;
        }
        report.gradient_norm = flat::norm(self.flat(&gradients));
        let by_name: HashMap<String, Tensor> =
            self.network.unpack(self.flat(&gradients))?.into_iter().collect();
        for (name, tensor) in self.network.state_dict()? {
            let gradient = by_name.get(&name).map(values).transpose()?.map(|g| Spread::of(&g));
            report.parameters.push(ParameterReport { values: Spread::of(&values(&tensor)?), name, gradient });
        }
        for ((name, var), gradient) in parameters.into_iter().zip(&gradients.own) {
            let gradient = gradient.as_ref().map(values).transpose()?.map(|g| Spread::of(&g));
            let values = Spread::of(&values(var.as_tensor())?);
            report.parameters.push(ParameterReport { name: format!("loss: {name}"), values, gradient });
        }
        if !(report.loss.is_finite() && report.gradient_norm.is_finite()) {
            report.origin = Some(self.origin(images, 0, teacher, at, report.loss.is_finite())?);
        }
        Ok(report)
    }
}
