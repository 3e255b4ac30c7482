//! Rows.

use super::super::raw::{RawLoss, RawOptimizer, RawRow};
use super::{Checker, General};
use crate::Result;
use crate::recipe::{MetricKind, NonFinite, RowRecipe};

impl Checker<'_> {
    pub(super) fn row(&self, raw: &RawRow, position: usize, general: &General<'_>) -> Result<RowRecipe> {
        let key = |field: &str| format!("rows.{}.{field}", raw.id);
        let all = general.raw;
        let model = raw.model.as_ref().or(all.student.model.as_ref());
        let model_key = if raw.model.is_some() { key("model") } else { "student.model".to_owned() };
        let losses = raw.loss.clone().or_else(|| all.loss.clone());
        let losses =
            losses.unwrap_or_else(|| vec![RawLoss { method: "ce".to_owned(), ..RawLoss::default() }]);
        let parts = losses.iter().enumerate().map(|(i, l)| self.part(&key(&format!("loss.{i}")), l));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            return Err(self.error(&key("loss"), "empty", "at least one part"));
        }
        if let Some(p) = parts.iter().enumerate().find(|(i, p)| parts[..*i].iter().any(|q| q.name == p.name))
        {
            return Err(self.error(&key("loss"), &format!("two parts called `{}`", p.1.name), "named apart"));
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if raw.id.is_empty() || !raw.id.chars().all(valid) {
            return Err(self.error("rows.id", &raw.id, "letters, digits, `-`, `_`, `.`"));
        }
        Ok(RowRecipe {
            id: raw.id.clone(),
            position,
            label: raw.label.clone().unwrap_or_else(|| raw.id.clone()),
            model: self.model(&model_key, model)?,
            parts,
            optimizer: if raw.optimizer == RawOptimizer::default() {
                general.optimizer
            } else {
                self.optimizer(&key("optimizer"), &raw.optimizer, &all.optimizer)?
            },
            clip_norm: self.clip_norm(&key("optimizer"), &raw.optimizer, &all.optimizer)?,
            schedule: match &raw.schedule {
                Some(s) => self.schedule(&key("schedule"), s)?,
                None => general.schedule.clone(),
            },
            teacher_mode: self.mode(&key("teacher_mode"), raw.teacher_mode.as_deref().or(general.mode))?,
            views: match raw.views.or(all.train.views).unwrap_or(1) {
                views @ 1..=2 => views,
                other => {
                    let field = if raw.views.is_some() { key("views") } else { "train.views".to_owned() };
                    return Err(self.error(
                        &field,
                        &other.to_string(),
                        "1, or 2 for a strongly augmented one as well",
                    ));
                }
            },
            nonfinite: match raw.nonfinite.as_deref().or(all.train.nonfinite.as_deref()) {
                // One bad row of a table is no reason to lose the others.
                None if all.rows.as_ref().is_some_and(|rows| rows.len() > 1) => NonFinite::Mark,
                None => NonFinite::Stop,
                Some(name) => NonFinite::named(name).ok_or_else(|| {
                    let expected = NonFinite::ALL.map(|n| format!("`{}`", n.name())).join(", ");
                    self.error(&key("nonfinite"), name, &format!("one of {expected}"))
                })?,
            },
            metric: match raw.metric.as_deref().or(all.train.metric.as_deref()) {
                None | Some("last") => MetricKind::Last,
                Some("mean") => MetricKind::Mean,
                Some(other) => return Err(self.error(&key("metric"), other, "`last` or `mean`")),
            },
            seed_offset: raw.seed_offset.unwrap_or(0),
            published: self.published(&key("published"), raw.published.as_ref())?,
            log: self.log(&key("log"), raw.log.as_ref())?,
            note: raw.note.clone().unwrap_or_default(),
            quick: raw.quick.unwrap_or(false),
            baseline: raw.baseline.clone(),
        })
    }
}
