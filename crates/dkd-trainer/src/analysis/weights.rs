//! The weights of the terms of a row's loss, which an event log does not hold.

use crate::{PartRecipe, Result, RowRecipe};
use candle_core::{Device, Tensor};
use dkd_losses::{Batch, Objective, View};
use serde::Serialize;

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
/// The loss itself is asked, with two made-up images. A part that cannot answer that, since it reads feature maps, has its own
/// weight for all of its terms: it stands here under the part's name.
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
    let mut loss = RowRecipe { parts: vec![part.clone()], ..row.clone() }.objective()?;
    let student = Tensor::new(&[[1.0_f32, 0.5, -0.5], [0.0, 1.0, 0.25]], &Device::Cpu)?;
    let teacher = Tensor::new(&[[2.0_f32, 0.0, -1.0], [0.5, 1.5, 0.0]], &Device::Cpu)?;
    let labels = Tensor::new(&[0_u32, 1], &Device::Cpu)?;
    let views = [View::new(student, Some(teacher))];
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
    fn a_part_answers_for_terms_that_nobody_knows() {
        let weights = [TermWeight { name: "hint".to_owned(), weight: 3.0 }];
        assert_eq!(weight_of("hint.a", &weights), Some(3.0));
        assert_eq!(weight_of("hints", &weights), None);
    }
}
