//! Optimizer and schedule.

use super::super::raw::{RawOptimizer, RawSchedule};
use super::Checker;
use crate::schedule::{Schedule, Shape};
use crate::{Error, Result, SgdRecipe};

impl Checker<'_> {
    pub(super) fn optimizer(&self, key: &str, raw: &RawOptimizer, base: &RawOptimizer) -> Result<SgdRecipe> {
        let value = |own: Option<f64>, base: Option<f64>, default: f64| own.or(base).unwrap_or(default);
        let lr = value(raw.lr, base.lr, 0.05);
        let momentum = value(raw.momentum, base.momentum, 0.9);
        let dampening = value(raw.dampening, base.dampening, 0.0);
        let weight_decay = value(raw.weight_decay, base.weight_decay, 0.0);
        let nesterov = raw.nesterov.or(base.nesterov).unwrap_or(false);
        let name = |field: &str| format!("{key}.{field}");
        if nesterov && (momentum == 0.0 || dampening != 0.0) {
            return Err(self.error(&name("nesterov"), "true", "false without momentum or with dampening"));
        }
        Ok(SgdRecipe {
            lr: self.number(&name("lr"), lr, lr > 0.0, "above 0")?,
            momentum: self.number(
                &name("momentum"),
                momentum,
                (0.0..1.0).contains(&momentum),
                "in [0, 1)",
            )?,
            dampening: self.number(
                &name("dampening"),
                dampening,
                (0.0..=1.0).contains(&dampening),
                "in [0, 1]",
            )?,
            weight_decay: self.number(
                &name("weight_decay"),
                weight_decay,
                weight_decay >= 0.0,
                "at least 0",
            )?,
            nesterov,
        })
    }

    /// Largest norm of a row's gradients, if they are clipped.
    pub(super) fn clip_norm(
        &self,
        key: &str,
        raw: &RawOptimizer,
        base: &RawOptimizer,
    ) -> Result<Option<f64>> {
        // What is inherited was looked at where it stands.
        let Some(limit) = raw.clip_norm.or(base.clip_norm) else { return Ok(None) };
        let key = if raw.clip_norm.is_some() { key } else { "optimizer" };
        self.number(&format!("{key}.clip_norm"), limit, limit >= 0.0, "at least 0 (0 for none)")?;
        Ok(Some(limit).filter(|l| *l > 0.0))
    }

    pub(super) fn schedule(&self, key: &str, raw: &RawSchedule) -> Result<Schedule> {
        let unused = |given: bool, field: &str, kind: &str| {
            if given {
                let message = format!("`{key}.{field}` has no meaning with kind = \"{kind}\"; remove it");
                return Err(Error::Config { place: self.place.to_owned(), message });
            }
            Ok(())
        };
        let kind = raw.kind.as_deref().unwrap_or("constant");
        if kind != "milestones" {
            unused(raw.milestones.is_some(), "milestones", kind)?;
            unused(raw.gamma.is_some(), "gamma", kind)?;
        }
        if kind != "cosine" {
            unused(raw.last.is_some(), "last", kind)?;
        }
        let shape = match kind {
            "constant" => Shape::Constant,
            "milestones" => {
                let epochs = raw.milestones.clone().unwrap_or_default();
                if epochs.is_empty() || !epochs.is_sorted() || epochs[0] == 0 {
                    let found = format!("{epochs:?}");
                    return Err(self.error(
                        &format!("{key}.milestones"),
                        &found,
                        "ascending epochs from 1 on",
                    ));
                }
                let gamma = raw.gamma.unwrap_or(0.1);
                self.number(&format!("{key}.gamma"), gamma, gamma > 0.0, "above 0")?;
                Shape::Milestones { epochs, gamma }
            }
            "cosine" => {
                let last = raw.last.unwrap_or(0.0);
                self.number(&format!("{key}.last"), last, (0.0..=1.0).contains(&last), "in [0, 1]")?;
                Shape::Cosine { last }
            }
            other => {
                return Err(self.error(
                    &format!("{key}.kind"),
                    other,
                    "`constant`, `milestones` or `cosine`",
                ));
            }
        };
        Ok(Schedule { shape, warmup_epochs: raw.warmup_epochs.unwrap_or(0) })
    }
}
