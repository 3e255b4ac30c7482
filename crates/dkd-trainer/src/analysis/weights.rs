//! The weights of the terms of a row's loss, which an event log does not hold.

use crate::{PartRecipe, Result, RowRecipe};
use candle_core::{Device, Tensor};
use dkd_kernels::Cpu;
use dkd_losses::{Batch, Objective, Outputs, Setup, StepDraw, View};
use serde::Serialize;
use std::collections::BTreeMap;

/// The feature map of made-up images.
const TAP: &str = "pooled_feat";

/// What a term is multiplied by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermWeight {
    /// Name of the term, as in the log.
    pub name: String,
    /// Its weight.
    pub weight: f64,
}

/// The weights of all terms of `row`'s loss in `epoch`, counted from 1.
///
/// The loss itself is asked, with made-up images of which there are logits and the feature map `pooled_feat`. A part that needs
/// more to answer, since it reads the networks' stages, has its own weight for all of its terms: it stands here under the part's
/// name. Such losses have one term, with weight 1.
pub fn term_weights(row: &RowRecipe, epoch: usize) -> Vec<TermWeight> {
    let of_part = |part: &PartRecipe| {
        asked(row, part, epoch).unwrap_or_else(|_| {
            let weight = part.weight * part.warmup.factor(epoch);
            vec![TermWeight { name: part.name.clone(), weight }]
        })
    };
    row.parts.iter().flat_map(of_part).collect()
}

/// The weight of the term `name`: its own, or that of the part which it belongs to.
pub(super) fn weight_of(name: &str, weights: &[TermWeight]) -> Option<f64> {
    let of_part = |w: &&TermWeight| name.strip_prefix(w.name.as_str()).is_some_and(|r| r.starts_with('.'));
    let found = weights.iter().find(|w| w.name == name).or_else(|| weights.iter().find(of_part));
    found.map(|w| w.weight)
}

fn asked(row: &RowRecipe, part: &PartRecipe, epoch: usize) -> Result<Vec<TermWeight>> {
    const LABELS: [u32; 3] = [0, 1, 2];
    let mut loss = RowRecipe { parts: vec![part.clone()], ..row.clone() }.objective()?;
    let shapes = BTreeMap::from([(TAP.to_owned(), vec![3])]);
    let draw = StepDraw { seed: 0, step: 0 };
    loss.prepare(&Setup {
        device: &Device::Cpu,
        cpu: &Cpu::new(1)?,
        num_classes: LABELS.len(),
        train_labels: &LABELS,
        student_taps: &shapes,
        teacher_taps: &shapes,
        teacher_norms: &BTreeMap::new(),
        student_head: None,
        teacher_head: None,
        draw: &draw,
    })?;
    let outputs = |rows: &[[f32; 3]; 3]| -> Result<Outputs> {
        let logits = Tensor::new(rows, &Device::Cpu)?;
        let taps = BTreeMap::from([(TAP.to_owned(), logits.clone())]);
        Ok(Outputs { taps, ..Outputs::new(logits) })
    };
    let student = outputs(&[[1.0, 0.5, -0.5], [0.0, 1.0, 0.25], [0.5, 0.0, 2.0]])?;
    let teacher = outputs(&[[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [0.0, -1.0, 1.0]])?;
    let labels = Tensor::new(&LABELS, &Device::Cpu)?;
    let views = [View { student, teacher: Some(teacher) }];
    let terms = loss.terms(&Batch { epoch, ..Batch::new(&views, &labels) })?;
    Ok(terms.into_iter().map(|t| TermWeight { name: t.name, weight: t.weight }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn row(loss: &str) -> RowRecipe {
        let text = format!("student.model = 'resnet8'\nteacher.model = 'resnet8'\n{loss}");
        Config::parse(&text, "test").unwrap().check().unwrap().rows.remove(0)
    }

    #[test]
    fn weights_grow_as_the_loss_says() {
        let row = row("loss = [{ method = 'ce', weight = 0.5 }, { method = 'dkd', alpha = 1.0, beta = 8.0, \
                       weight = 2.0, warmup_epochs = 4 }]");
        let weight = |name: &str, epoch| weight_of(name, &term_weights(&row, epoch)).unwrap();
        assert_eq!((weight("ce", 1), weight("ce", 9)), (0.5, 0.5));
        assert_eq!((weight("dkd.tckd", 1), weight("dkd.nckd", 1)), (0.5, 4.0));
        assert_eq!((weight("dkd.tckd", 4), weight("dkd.nckd", 9)), (2.0, 16.0));
        assert_eq!(weight_of("kd", &term_weights(&row, 1)), None);
    }

    #[test]
    fn losses_on_feature_maps_have_weights_too() {
        let row = row(
            "loss = [{ method = 'ce' }, { method = 'rkd', weight = 2.0 }, { method = 'at', weight = 3.0 }]",
        );
        let weights = term_weights(&row, 1);
        let of = |name: &str| weight_of(name, &weights).unwrap();
        assert_eq!((of("rkd.distance"), of("rkd.angle"), of("at"), of("ce")), (50.0, 100.0, 3.0, 1.0));
    }

    #[test]
    fn a_part_answers_for_terms_that_nobody_knows() {
        let weights = [TermWeight { name: "hint".to_owned(), weight: 3.0 }];
        assert_eq!(weight_of("hint.a", &weights), Some(3.0));
        assert_eq!(weight_of("hints", &weights), None);
    }
}
