//! From raw settings to a recipe: defaults, ranges, names.

mod loss;
mod networks;
mod optimizer;
mod row;

#[cfg(test)]
mod tests;

use super::load::Config;
use super::raw::{
    RawCache, RawCheckpoints, RawConfig, RawImageSize, RawLog, RawOptimizer, RawPublished, RawRow, RawTeacher,
};
use crate::checkpoint::Policy;
use crate::network::registered;
use crate::recipe::{
    CheckpointRecipe, DataRecipe, NormalizationKind, Recipe, TeacherMode, TeacherRecipe, TrainRecipe,
};
use crate::schedule::Schedule;
use crate::teacher_cache::{CacheRecipe, Precision};
use crate::{Error, LogPoint, Published, PublishedLog, Result, SgdRecipe};
use dkd_datasets::Augment;
use dkd_models::Description;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Longest side of an image that networks are trained on.
const MAX_SIDE: usize = 4096;

/// Names errors by the configuration's place and the key.
struct Checker<'a> {
    place: &'a str,
    networks: &'a BTreeMap<String, Description>,
}

impl Config {
    /// Checks everything and fills in defaults.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, what it is and what it must be.
    pub fn check(&self) -> Result<Recipe> {
        let mut raw = self.raw()?;
        let networks = networks::described(&mut raw, self.place())?;
        let c = Checker { place: self.place(), networks: &networks };
        let optimizer = c.optimizer("optimizer", &raw.optimizer, &RawOptimizer::default())?;
        let schedule = c.schedule("schedule", &raw.schedule)?;
        let data = DataRecipe {
            dataset: raw.data.dataset.clone().unwrap_or_else(|| "cifar10".to_owned()),
            image_size: c.image_size("data.image_size", raw.data.image_size.as_ref())?,
            augment: match raw.data.augment.as_deref() {
                None => Augment::None,
                Some(name) => Augment::named(name)
                    .ok_or_else(|| c.error("data.augment", name, "`none` or `crop-flip`"))?,
            },
            mixup: raw.data.mixup.unwrap_or(false),
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
            rewind_factor: c.rewind_factor(raw.train.rewind_factor)?,
        };
        let teacher = match &raw.teacher {
            Some(t) => Some(c.teacher(t, &raw.optimizer, &schedule, train.epochs)?),
            None => None,
        };
        if raw.rows.as_ref().is_some_and(Vec::is_empty) {
            return Err(c.error("rows", "empty", "at least one row, or be left out"));
        }
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
                return Err(c.error(
                    &key,
                    &row.setting(),
                    "`ce` and `tfkd` alone, or there must be a [teacher] with a model",
                ));
            }
            if let Some(part) = row.parts.iter().find(|p| data.mixup && p.method.uses_labels()) {
                let key = format!("rows.{}.loss", row.id);
                let message = format!(
                    "losses that use no labels with `data.mixup`, such as `kd`; `{}` does",
                    part.name
                );
                return Err(c.error(&key, &row.setting(), &message));
            }
            if let Some(part) = row.parts.iter().find(|p| row.views > 1 && p.method.joins_views()) {
                return Err(c.error(
                    &format!("rows.{}.views", row.id),
                    &row.views.to_string(),
                    &format!("1 with `{}` of form `reference`, which computes with both views at once; set form = `paper`", part.name),
                ));
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
        let cache = c.cache(&raw.cache)?;
        if data.mixup && cache.is_some() {
            return Err(c.error(
                "cache.teacher",
                "on",
                "`off` with `data.mixup`, where no two pictures are the same",
            ));
        }
        if let (Some(row), true) = (Recipe::uncacheable(&rows), cache.is_some()) {
            let expected =
                format!("`off` where row `{}` has two views: those of the second would be too many", row.id);
            return Err(c.error("cache.teacher", "on", &expected));
        }
        let name = match &raw.name {
            Some(name) if !is_plain(name) => {
                return Err(c.error("name", &format!("`{name}`"), "the name of a folder, without a path"));
            }
            Some(name) => name.clone(),
            None => self.stem().to_owned(),
        };
        Ok(Recipe {
            title: raw.title.clone().unwrap_or_else(|| name.clone()),
            description: raw.description.clone().unwrap_or_default(),
            name,
            data,
            train,
            checkpoints: c.checkpoints(&raw.checkpoints)?,
            cache,
            networks: networks.clone(),
            teacher,
            rows,
        })
    }
}

/// What rows inherit.
struct General<'a> {
    raw: &'a RawConfig,
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

    /// Rows and columns, each a number of pixels that an image may have.
    fn image_size(&self, key: &str, size: Option<&RawImageSize>) -> Result<Option<(usize, usize)>> {
        let text = match size {
            None => return Ok(None),
            Some(RawImageSize::Side(side)) => &format!("{side}x{side}"),
            Some(RawImageSize::Sides(text)) => text,
        };
        let side = |text: &str| text.parse().ok().filter(|n| (1..=MAX_SIDE).contains(n));
        let sides = text.split_once('x').and_then(|(h, w)| Some((side(h)?, side(w)?)));
        let expected = format!("a side such as 64, or \"HEIGHTxWIDTH\", each 1 to {MAX_SIDE}");
        sides.map(Some).ok_or_else(|| self.error(key, text, &expected))
    }

    fn model(&self, key: &str, name: Option<&String>) -> Result<String> {
        let name = name.ok_or_else(|| {
            let message = format!("`{key}` is missing; `dkd inspect` lists the models");
            Error::Config { place: self.place.to_owned(), message }
        })?;
        if self.networks.contains_key(name) || registered(name).is_some() {
            return Ok(name.clone());
        }
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
            key: raw.key.clone(),
            epochs: self.positive("teacher.epochs", raw.epochs)?.unwrap_or(epochs),
            optimizer: self.optimizer("teacher.optimizer", &raw.optimizer, optimizer)?,
            clip_norm: self.clip_norm("teacher.optimizer", &raw.optimizer, optimizer)?,
            schedule: match &raw.schedule {
                Some(s) => self.schedule("teacher.schedule", s)?,
                None => schedule.clone(),
            },
            published: self.published("teacher.published", raw.published.as_ref())?,
        })
    }

    /// A number from elsewhere, and its curve.
    fn published(&self, key: &str, raw: Option<&RawPublished>) -> Result<Option<Published>> {
        let Some(raw) = raw else { return Ok(None) };
        let curve = raw.curve.clone().unwrap_or_default();
        let value = self.number(&format!("{key}.value"), raw.value, true, "a finite number")?;
        for value in &curve {
            self.number(&format!("{key}.curve"), *value, true, "finite numbers")?;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(Some(Published { value, source: text(&raw.source), note: text(&raw.note), curve }))
    }

    /// A log from elsewhere: points of its epochs, one after the other.
    fn log(&self, key: &str, raw: Option<&RawLog>) -> Result<Option<PublishedLog>> {
        let Some(raw) = raw else { return Ok(None) };
        self.positive(&format!("{key}.epochs"), Some(raw.epochs))?;
        if raw.steady_epochs > raw.epochs {
            let (key, found) = (format!("{key}.steady_epochs"), raw.steady_epochs.to_string());
            return Err(self.error(&key, &found, &format!("at most the log's {} epochs", raw.epochs)));
        }
        if raw.points.is_empty() {
            return Err(self.error(&format!("{key}.points"), "empty", "at least one point"));
        }
        let mut points: Vec<LogPoint> = Vec::with_capacity(raw.points.len());
        for (i, point) in raw.points.iter().enumerate() {
            let first = points.last().map_or(1, |p| p.epoch + 1);
            if !(first..=raw.epochs).contains(&point.epoch) {
                let expected = format!("from {first} to the log's last epoch, {}", raw.epochs);
                let key = format!("{key}.points.{i}.epoch");
                return Err(self.error(&key, &point.epoch.to_string(), &expected));
            }
            let percent = (0.0..=100.0).contains(&point.top1);
            let top1 =
                self.number(&format!("{key}.points.{i}.top1"), point.top1, percent, "from 0 to 100")?;
            points.push(LogPoint { epoch: point.epoch, top1 });
        }
        let source = raw.source.clone().unwrap_or_default();
        Ok(Some(PublishedLog { source, epochs: raw.epochs, steady_epochs: raw.steady_epochs, points }))
    }

    fn rewind_factor(&self, factor: Option<f64>) -> Result<f64> {
        let factor = factor.unwrap_or(0.5);
        self.number("train.rewind_factor", factor, factor > 0.0 && factor <= 1.0, "above 0 and at most 1")
    }

    fn cache(&self, raw: &RawCache) -> Result<Option<CacheRecipe>> {
        let gb = raw.max_gb.unwrap_or(CacheRecipe::DEFAULT_GB);
        let possible = (0.001..=1e6).contains(&gb);
        let gb = self.number("cache.max_gb", gb, possible, "0.001 to 1000000, in units of 10^9 bytes")?;
        let precision = match raw.teacher.as_deref() {
            None | Some("off") => return Ok(None),
            Some("f32") => Precision::F32,
            Some("f16") => Precision::F16,
            Some(other) => return Err(self.error("cache.teacher", other, "`off`, `f32` or `f16`")),
        };
        let folder = raw.folder.clone().unwrap_or_else(|| CacheRecipe::DEFAULT_FOLDER.into());
        Ok(Some(CacheRecipe { precision, folder, max_bytes: (gb * 1e9).round() as u64 }))
    }

    fn checkpoints(&self, raw: &RawCheckpoints) -> Result<CheckpointRecipe> {
        let default = Policy::default();
        let minutes = raw.every_minutes.unwrap_or(default.every_minutes);
        let minutes =
            self.number("checkpoints.every_minutes", minutes, minutes >= 0.0, "at least 0 (0 for never)")?;
        let policy = Policy {
            every_epochs: raw.every_epochs.unwrap_or(default.every_epochs),
            every_steps: raw.every_steps.unwrap_or(default.every_steps),
            every_minutes: minutes,
            keep_last: self.positive("checkpoints.keep_last", raw.keep_last)?.unwrap_or(default.keep_last),
            keep_best: raw.keep_best.unwrap_or(default.keep_best),
        };
        let stop_on_failure = match raw.on_failure.as_deref() {
            None | Some("continue") => false,
            Some("stop") => true,
            Some(other) => return Err(self.error("checkpoints.on_failure", other, "`continue` or `stop`")),
        };
        Ok(CheckpointRecipe { policy, stop_on_failure })
    }
}

/// Whether this names something in a folder, and leads nowhere else.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}
