//! From raw settings to a recipe: defaults, ranges, names.

use super::load::Config;
use super::raw::{RawLoss, RawOptimizer, RawPublished, RawRow, RawSchedule, RawTeacher};
use crate::recipe::{
    DataRecipe, MetricKind, NonFinite, NormalizationKind, PartRecipe, Published, Recipe, RowRecipe,
    TeacherMode, TeacherRecipe, TrainRecipe,
};
use crate::schedule::{Schedule, Shape};
use crate::{Error, Result, SgdRecipe};
use dkd_datasets::Augment;
use dkd_losses::{Method, Reduction, Temperature, Warmup};

/// Names errors by the configuration's place and the key.
struct Checker<'a> {
    place: &'a str,
}

impl Config {
    /// Checks everything and fills in defaults.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, what it is and what it must be.
    pub fn check(&self) -> Result<Recipe> {
        let raw = self.raw()?;
        let c = Checker { place: self.place() };
        let optimizer = c.optimizer("optimizer", &raw.optimizer, &RawOptimizer::default())?;
        let schedule = c.schedule("schedule", &raw.schedule)?;
        let data = DataRecipe {
            dataset: raw.data.dataset.clone().unwrap_or_else(|| "cifar10".to_owned()),
            augment: match raw.data.augment.as_deref() {
                None => Augment::None,
                Some(name) => Augment::named(name)
                    .ok_or_else(|| c.error("data.augment", name, "`none` or `crop-flip`"))?,
            },
            normalization: match raw.data.normalization.as_deref() {
                None | Some("dataset") => NormalizationKind::Dataset,
                Some("half") => NormalizationKind::Half,
                Some(other) => return Err(c.error("data.normalization", other, "`dataset` or `half`")),
            },
            validation: raw.data.validation.unwrap_or(0),
            train_limit: c.positive("data.train_limit", raw.data.train_limit)?,
            test_limit: c.positive("data.test_limit", raw.data.test_limit)?,
        };
        let train = TrainRecipe {
            epochs: c.positive("train.epochs", Some(raw.train.epochs.unwrap_or(30)))?.unwrap_or(30),
            batch_size: c
                .positive("train.batch_size", Some(raw.train.batch_size.unwrap_or(64)))?
                .unwrap_or(64),
            seed: raw.train.seed.unwrap_or(0),
        };
        let teacher = match &raw.teacher {
            Some(t) => Some(c.teacher(t, &raw.optimizer, &schedule, train.epochs)?),
            None => None,
        };
        let rows =
            raw.rows.clone().unwrap_or_else(|| vec![RawRow { id: "run".to_owned(), ..RawRow::default() }]);
        let mode = raw.teacher.as_ref().and_then(|t| t.mode.clone());
        let rows = rows.iter().zip(1..).map(|(r, position)| {
            let general = General { raw: &raw, optimizer, schedule: &schedule, mode: mode.as_deref() };
            c.row(r, position, &general)
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        for (i, row) in rows.iter().enumerate() {
            if rows[..i].iter().any(|r| r.id == row.id) || row.id == "teacher" {
                return Err(c.error("rows.id", &row.id, "a name that no other row has, and not `teacher`"));
            }
            if row.needs_teacher() && teacher.is_none() {
                let key = format!("rows.{}.loss", row.id);
                return Err(c.error(&key, &row.setting(), "`ce` alone, or a [teacher] with a model"));
            }
            if let Some(baseline) = &row.baseline
                && !rows.iter().any(|r| r.id == *baseline && r.id != row.id)
            {
                let key = format!("rows.{}.baseline", row.id);
                let others: Vec<&str> =
                    rows.iter().map(|r| r.id.as_str()).filter(|id| *id != row.id).collect();
                return Err(c.error(&key, baseline, &format!("another row: {}", others.join(", "))));
            }
        }
        let name = raw.name.clone().unwrap_or_else(|| self.stem().to_owned());
        Ok(Recipe {
            title: raw.title.clone().unwrap_or_else(|| name.clone()),
            description: raw.description.clone().unwrap_or_default(),
            name,
            data,
            train,
            teacher,
            rows,
        })
    }
}

/// What rows inherit.
struct General<'a> {
    raw: &'a super::raw::RawConfig,
    optimizer: SgdRecipe,
    schedule: &'a Schedule,
    mode: Option<&'a str>,
}

impl Checker<'_> {
    fn error(&self, key: &str, found: &str, expected: &str) -> Error {
        Error::Config {
            place: self.place.to_owned(),
            message: format!("`{key}` is {found}; it must be {expected}"),
        }
    }

    fn positive(&self, key: &str, value: Option<usize>) -> Result<Option<usize>> {
        match value {
            Some(0) => Err(self.error(key, "0", "at least 1")),
            other => Ok(other),
        }
    }

    fn number(&self, key: &str, value: f64, ok: bool, expected: &str) -> Result<f64> {
        if ok && value.is_finite() { Ok(value) } else { Err(self.error(key, &value.to_string(), expected)) }
    }

    fn optimizer(&self, key: &str, raw: &RawOptimizer, base: &RawOptimizer) -> Result<SgdRecipe> {
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

    fn schedule(&self, key: &str, raw: &RawSchedule) -> Result<Schedule> {
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

    fn model(&self, key: &str, name: Option<&String>) -> Result<String> {
        let name = name.ok_or_else(|| {
            let message = format!("`{key}` is missing; `dkd inspect` lists the models");
            Error::Config { place: self.place.to_owned(), message }
        })?;
        dkd_models::find(name)
            .map_err(|e| Error::Config { place: self.place.to_owned(), message: format!("`{key}`: {e}") })?;
        Ok(name.clone())
    }

    fn mode(&self, key: &str, name: Option<&str>) -> Result<TeacherMode> {
        match name {
            None | Some("eval") => Ok(TeacherMode::Eval),
            Some("train") => Ok(TeacherMode::Train),
            Some(other) => Err(self.error(key, other, "`eval` or `train`")),
        }
    }

    fn teacher(
        &self,
        raw: &RawTeacher,
        optimizer: &RawOptimizer,
        schedule: &Schedule,
        epochs: usize,
    ) -> Result<TeacherRecipe> {
        self.mode("teacher.mode", raw.mode.as_deref())?;
        Ok(TeacherRecipe {
            model: self.model("teacher.model", raw.model.as_ref())?,
            weights: raw.weights.clone(),
            epochs: self.positive("teacher.epochs", raw.epochs)?.unwrap_or(epochs),
            optimizer: self.optimizer("teacher.optimizer", &raw.optimizer, optimizer)?,
            schedule: match &raw.schedule {
                Some(s) => self.schedule("teacher.schedule", s)?,
                None => schedule.clone(),
            },
            published: raw.published.as_ref().map(published),
        })
    }

    fn row(&self, raw: &RawRow, position: usize, general: &General<'_>) -> Result<RowRecipe> {
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
            schedule: match &raw.schedule {
                Some(s) => self.schedule(&key("schedule"), s)?,
                None => general.schedule.clone(),
            },
            teacher_mode: self.mode(&key("teacher_mode"), raw.teacher_mode.as_deref().or(general.mode))?,
            nonfinite: match raw.nonfinite.as_deref().or(all.train.nonfinite.as_deref()) {
                // One bad row of a table is no reason to lose the others.
                None if all.rows.as_ref().is_some_and(|rows| rows.len() > 1) => NonFinite::Mark,
                None | Some("stop") => NonFinite::Stop,
                Some("mark") => NonFinite::Mark,
                Some("continue") => NonFinite::Continue,
                Some(other) => {
                    return Err(self.error(&key("nonfinite"), other, "`stop`, `mark` or `continue`"));
                }
            },
            metric: match raw.metric.as_deref().or(all.train.metric.as_deref()) {
                None | Some("last") => MetricKind::Last,
                Some("mean") => MetricKind::Mean,
                Some(other) => return Err(self.error(&key("metric"), other, "`last` or `mean`")),
            },
            seed_offset: raw.seed_offset.unwrap_or(0),
            published: raw.published.as_ref().map(published),
            note: raw.note.clone().unwrap_or_default(),
            quick: raw.quick.unwrap_or(false),
            baseline: raw.baseline.clone(),
        })
    }

    fn part(&self, key: &str, raw: &RawLoss) -> Result<PartRecipe> {
        let fail = |e: dkd_losses::Error| Error::Config {
            place: self.place.to_owned(),
            message: format!("`{key}`: {e}"),
        };
        let mut method = Method::named(&raw.method).map_err(fail)?;
        let mut used: Vec<&str> = Vec::new();
        let mut own_warmup = Warmup::NONE;
        let temperature = |t: &mut Temperature| -> Result<()> {
            if let Some(v) = raw.temperature {
                *t = Temperature::new(v).map_err(fail)?;
            }
            Ok(())
        };
        match &mut method {
            Method::Ce { label_smoothing } => {
                used.push("label_smoothing");
                *label_smoothing = raw.label_smoothing.unwrap_or(*label_smoothing);
            }
            Method::Kd { temperature: t, reduction } => {
                used.extend(["temperature", "reduction"]);
                temperature(t)?;
                if let Some(name) = &raw.reduction {
                    *reduction = Reduction::from_name(name).ok_or_else(|| {
                        self.error(&format!("{key}.reduction"), name, "`batchmean`, `mean` or `sum`")
                    })?;
                }
            }
            Method::Tckd { temperature: t } | Method::Nckd { temperature: t } => {
                used.push("temperature");
                temperature(t)?;
            }
            Method::SeedKd { temperature: t, a } => {
                used.extend(["temperature", "a"]);
                temperature(t)?;
                *a = raw.a.unwrap_or(*a);
            }
            Method::Dkd { weights, temperature: t, warmup }
            | Method::DkdReference { weights, temperature: t, warmup } => {
                used.extend(["temperature", "alpha", "beta"]);
                temperature(t)?;
                weights.alpha = raw.alpha.unwrap_or(weights.alpha);
                weights.beta = raw.beta.unwrap_or(weights.beta);
                // It becomes the part's, which every method has.
                own_warmup = std::mem::replace(warmup, Warmup::NONE);
            }
        }
        let given = [
            ("temperature", raw.temperature.is_some()),
            ("alpha", raw.alpha.is_some()),
            ("beta", raw.beta.is_some()),
            ("a", raw.a.is_some()),
            ("label_smoothing", raw.label_smoothing.is_some()),
            ("reduction", raw.reduction.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(name, given)| *given && !used.contains(name)) {
            let message = format!(
                "`{key}.{name}` is no setting of method `{}`; it has: {}",
                raw.method,
                used.join(", ")
            );
            return Err(Error::Config { place: self.place.to_owned(), message });
        }
        method.build().map_err(fail)?;
        let weight = raw.weight.unwrap_or(1.0);
        self.number(&format!("{key}.weight"), weight, true, "a finite number")?;
        Ok(PartRecipe {
            name: raw.name.clone().unwrap_or_else(|| raw.method.clone()),
            method,
            weight,
            warmup: raw.warmup_epochs.map_or(own_warmup, |epochs| Warmup { epochs }),
        })
    }
}

fn published(raw: &RawPublished) -> Published {
    Published {
        value: raw.value,
        source: raw.source.clone().unwrap_or_default(),
        note: raw.note.clone().unwrap_or_default(),
        curve: raw.curve.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Recipe> {
        Config::parse(&format!("student.model = 'resnet8'\n{text}"), "t.toml")?.check()
    }

    #[test]
    fn defaults_and_inheritance() {
        let r = check(
            "[optimizer]\nlr = 0.1\n[teacher]\nmodel = 'resnet20'\nmode = 'train'\n[teacher.optimizer]\nlr = 0.2\n\
             [[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nteacher_mode = 'eval'\noptimizer.momentum = 0.5\n\
             loss = [{ method = 'ce', weight = 0.5 }, { method = 'dkd', beta = 2.0, warmup_epochs = 5 }]",
        );
        let r = r.unwrap();
        assert_eq!(
            (r.rows[0].optimizer.lr, r.rows[1].optimizer.lr, r.rows[1].optimizer.momentum),
            (0.1, 0.1, 0.5)
        );
        assert_eq!(r.teacher.as_ref().unwrap().optimizer.lr, 0.2);
        assert_eq!((r.rows[0].teacher_mode, r.rows[1].teacher_mode), (TeacherMode::Train, TeacherMode::Eval));
        assert_eq!(r.rows[1].setting(), "0.5 x CE + DKD (T=4, alpha=1, beta=2) with 5 epochs of warm-up");
        assert_eq!((r.rows[0].position, r.rows[1].position), (1, 2));
        assert_eq!(r.rows[1].parts[1].warmup.epochs, 5);
        assert_eq!((r.train.epochs, r.train.batch_size), (30, 64));
        // Without a word about it, DKD has the reference's warm-up, and a table goes on without a row that diverged.
        let r = check(
            "teacher.model = 'resnet20'\n[[rows]]\nid = 'a'\nloss = [{ method = 'dkd' }, { method = 'kd' }]\n[[rows]]\nid = 'b'",
        );
        let row = &r.unwrap().rows[0];
        assert_eq!(row.parts.iter().map(|p| p.warmup.epochs).collect::<Vec<_>>(), [20, 0]);
        assert_eq!(row.nonfinite, NonFinite::Mark);
        assert_eq!(check("").unwrap().rows[0].nonfinite, NonFinite::Stop);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("optimizer.lr = -1", "`optimizer.lr` is -1"),
            ("optimizer.nesterov = true\noptimizer.momentum = 0", "nesterov"),
            ("schedule.kind = 'cosin'", "`schedule.kind` is cosin"),
            ("schedule.gamma = 0.1", "no meaning"),
            ("train.epochs = 0", "`train.epochs` is 0"),
            ("data.augment = 'mixup'", "crop-flip"),
            ("[[loss]]\nmethod = 'kd'", "[teacher]"),
            ("[[loss]]\nmethod = 'kdd'", "ce, kd, dkd"),
            ("teacher.model = 'resnet20'\n[[loss]]\nmethod = 'kd'\ntemperature = 0", "temperature is 0"),
            ("[[loss]]\nmethod = 'ce'\nbeta = 1", "no setting of method `ce`"),
            ("[[rows]]\nid = 'a'\n[[rows]]\nid = 'a'", "no other row"),
            ("[[rows]]\nid = 'a/b'", "letters"),
            (
                "[[rows]]\nid = 'a'\nbaseline = 'c'\n[[rows]]\nid = 'b'",
                "`rows.a.baseline` is c; it must be another row: b",
            ),
            ("[[rows]]\nid = 'a'\nbaseline = 'a'", "`rows.a.baseline` is a"),
            ("[[rows]]\nid = 'a'\nmodel = 'resnet21'", "resnet20"),
        ] {
            let message = check(text).unwrap_err().to_string();
            assert!(message.starts_with("t.toml") && message.contains(expected), "{text}: {message}");
        }
    }
}
