//! A checked recipe as settings again: complete, with every default written out.

use super::raw::{
    RawCache, RawCheckpoints, RawConfig, RawData, RawImageSize, RawLog, RawLogPoint, RawLoss, RawOptimizer,
    RawPublished, RawRow, RawSchedule, RawStudent, RawTeacher, RawTrain,
};
use crate::recipe::{NormalizationKind, PartRecipe, Recipe, RowRecipe, TeacherMode};
use crate::schedule::{Schedule, Shape};
use crate::{Published, PublishedLog, SgdRecipe};
use dkd_losses::{Method, SddBase};

impl Recipe {
    /// The recipe as TOML, to be stored with a run: reading and checking it gives the same recipe again (rows that were left
    /// out aside, which no longer count in the others' places).
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.resolved()).expect("settings can be written as TOML")
    }

    fn resolved(&self) -> RawConfig {
        let d = &self.data;
        let data = RawData {
            dataset: Some(d.dataset.clone()),
            image_size: d.image_size.map(|(height, width)| RawImageSize::Sides(format!("{height}x{width}"))),
            augment: Some(d.augment.name().to_owned()),
            mixup: d.mixup.then_some(true),
            normalization: Some(
                match d.normalization {
                    NormalizationKind::Dataset => "dataset",
                    NormalizationKind::Half => "half",
                }
                .to_owned(),
            ),
            validation: Some(d.validation),
            train_limit: d.train_limit,
            test_limit: d.test_limit,
        };
        let t = &self.train;
        let train = RawTrain {
            epochs: Some(t.epochs),
            batch_size: Some(t.batch_size),
            seed: Some(t.seed),
            rewind_factor: Some(t.rewind_factor),
            ..RawTrain::default()
        };
        let c = &self.checkpoints;
        let checkpoints = RawCheckpoints {
            every_epochs: Some(c.policy.every_epochs),
            every_steps: Some(c.policy.every_steps),
            every_minutes: Some(c.policy.every_minutes),
            keep_last: Some(c.policy.keep_last),
            keep_best: Some(c.policy.keep_best),
            on_failure: Some(if c.stop_on_failure { "stop" } else { "continue" }.to_owned()),
        };
        let cache = self.cache.as_ref().map_or_else(RawCache::default, |c| RawCache {
            teacher: Some(c.precision.name().to_owned()),
            folder: Some(c.folder.clone()),
            max_gb: Some(c.max_bytes as f64 / 1e9),
        });
        let teacher = self.teacher.as_ref().map(|t| RawTeacher {
            model: Some(t.model.clone()),
            weights: t.weights.clone(),
            key: t.key.clone(),
            mode: None,
            epochs: Some(t.epochs),
            optimizer: optimizer(&t.optimizer, t.clip_norm),
            schedule: Some(schedule(&t.schedule)),
            published: t.published.as_ref().map(published),
        });
        RawConfig {
            extends: None,
            name: Some(self.name.clone()),
            title: Some(self.title.clone()),
            description: Some(self.description.clone()),
            data,
            train,
            checkpoints,
            cache,
            networks: self.networks.clone(),
            optimizer: RawOptimizer::default(),
            schedule: RawSchedule::default(),
            student: RawStudent::default(),
            teacher,
            loss: None,
            rows: Some(self.rows.iter().map(|r| row(r, &self.rows)).collect()),
        }
    }
}

fn row(r: &RowRecipe, all: &[RowRecipe]) -> RawRow {
    RawRow {
        id: r.id.clone(),
        label: Some(r.label.clone()),
        model: Some(r.model.clone()),
        loss: Some(r.parts.iter().map(part).collect()),
        optimizer: optimizer(&r.optimizer, r.clip_norm),
        schedule: Some(schedule(&r.schedule)),
        teacher_mode: Some(
            match r.teacher_mode {
                TeacherMode::Eval => "eval",
                TeacherMode::Train => "train",
            }
            .to_owned(),
        ),
        // Only where it is used: stored settings of earlier runs have no such key.
        views: (r.views > 1).then_some(r.views),
        nonfinite: Some(r.nonfinite.name().to_owned()),
        metric: Some(r.metric.name().to_owned()),
        seed_offset: Some(r.seed_offset),
        published: r.published.as_ref().map(published),
        log: r.log.as_ref().map(log),
        // A row that was left out is nothing to compare with, and would make the settings unreadable.
        baseline: r.baseline.clone().filter(|id| all.iter().any(|other| other.id == *id)),
        note: Some(r.note.clone()),
        quick: Some(r.quick),
    }
}

fn part(p: &PartRecipe) -> RawLoss {
    let mut raw = RawLoss {
        method: p.method.name().to_owned(),
        name: Some(p.name.clone()),
        weight: Some(p.weight),
        warmup_epochs: Some(p.warmup.epochs),
        own_momentum: p.own_momentum,
        standardize: (p.method.name() != "ce" && !p.method.reads_features()).then_some(p.standardize),
        ..RawLoss::default()
    };
    match &p.method {
        Method::Ce { label_smoothing } => raw.label_smoothing = Some(*label_smoothing),
        Method::Kd { temperature, reduction } => {
            raw.temperature = Some(temperature.get());
            raw.reduction = Some(reduction.name().to_owned());
        }
        Method::Tckd { temperature } | Method::Nckd { temperature } => {
            raw.temperature = Some(temperature.get())
        }
        Method::Dist { weights, temperature } => {
            raw.temperature = Some(temperature.get());
            (raw.beta, raw.gamma) = (Some(weights.beta), Some(weights.gamma));
        }
        Method::Nkd { temperature, gamma } => {
            (raw.temperature, raw.gamma) = (Some(temperature.get()), Some(*gamma))
        }
        Method::Mlkd { temperature, form } => {
            (raw.temperature, raw.form) = (Some(temperature.get()), Some(form.name().to_owned()));
        }
        Method::Ttm { gamma } | Method::Wttm { gamma } => raw.gamma = Some(*gamma),
        Method::Ctkd { curriculum: c } => {
            raw.temperature_min = Some(c.temperature_min);
            raw.temperature_range = Some(c.temperature_range);
            raw.curriculum_epochs = Some(c.epochs);
        }
        Method::Rld { settings, .. } => {
            raw.temperature = Some(settings.temperature.get());
            raw.alpha_temperature = Some(settings.alpha_temperature.get());
            (raw.alpha, raw.beta) = (Some(settings.alpha), Some(settings.beta));
        }
        Method::Sdd { settings: s } => {
            raw.base = Some(s.base.name().to_owned());
            raw.scales = Some(s.scales.get().to_vec());
            raw.complementary_weight = Some(s.complementary_weight);
            match s.base {
                SddBase::Kd { temperature } => raw.temperature = Some(temperature.get()),
                SddBase::Dkd { weights, temperature } => {
                    raw.temperature = Some(temperature.get());
                    (raw.alpha, raw.beta) = (Some(weights.alpha), Some(weights.beta));
                }
                SddBase::Nkd { temperature, gamma } => {
                    (raw.temperature, raw.gamma) = (Some(temperature.get()), Some(gamma));
                }
            }
        }
        Method::TfKd { temperature, confidence, form } => {
            (raw.temperature, raw.confidence) = (Some(temperature.get()), Some(*confidence));
            raw.form = Some(form.name().to_owned());
        }
        Method::FitNet { layer } => raw.layer = Some(*layer),
        Method::At { power } => raw.power = Some(*power),
        Method::Nst
        | Method::Pkt
        | Method::KdSvd
        | Method::Ofd
        | Method::Sp
        | Method::ReviewKd
        | Method::Custom(_) => {}
        Method::Rkd { distance_weight, angle_weight } => {
            (raw.distance_weight, raw.angle_weight) = (Some(*distance_weight), Some(*angle_weight));
        }
        Method::Vid { form } => raw.form = Some(form.name().to_owned()),
        Method::Crd { settings: s } => {
            (raw.dimension, raw.negatives) = (Some(s.dimension), Some(s.negatives));
            (raw.temperature, raw.momentum) = (Some(s.temperature), Some(s.momentum));
        }
        Method::SeedKd { temperature, a } => (raw.temperature, raw.a) = (Some(temperature.get()), Some(*a)),
        Method::Dkd { weights, temperature, .. } | Method::DkdReference { weights, temperature, .. } => {
            raw.temperature = Some(temperature.get());
            (raw.alpha, raw.beta) = (Some(weights.alpha), Some(weights.beta));
        }
    }
    raw
}

fn optimizer(r: &SgdRecipe, clip_norm: Option<f64>) -> RawOptimizer {
    RawOptimizer {
        lr: Some(r.lr),
        momentum: Some(r.momentum),
        dampening: Some(r.dampening),
        nesterov: Some(r.nesterov),
        weight_decay: Some(r.weight_decay),
        clip_norm: Some(clip_norm.unwrap_or(0.0)),
    }
}

fn schedule(s: &Schedule) -> RawSchedule {
    let kind = |name: &str| RawSchedule {
        kind: Some(name.to_owned()),
        warmup_epochs: Some(s.warmup_epochs),
        ..RawSchedule::default()
    };
    match &s.shape {
        Shape::Constant => kind("constant"),
        Shape::Milestones { epochs, gamma } => {
            RawSchedule { milestones: Some(epochs.clone()), gamma: Some(*gamma), ..kind("milestones") }
        }
        Shape::Cosine { last } => RawSchedule { last: Some(*last), ..kind("cosine") },
    }
}

fn published(p: &Published) -> RawPublished {
    RawPublished {
        value: p.value,
        source: Some(p.source.clone()),
        note: Some(p.note.clone()),
        curve: Some(p.curve.clone()),
    }
}

fn log(l: &PublishedLog) -> RawLog {
    RawLog {
        source: Some(l.source.clone()),
        epochs: l.epochs,
        steady_epochs: l.steady_epochs,
        points: l.points.iter().map(|p| RawLogPoint { epoch: p.epoch, top1: p.top1 }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use dkd_losses::Method;
    use std::path::{Path, PathBuf};

    /// All files below a folder, those aside that are only there to be extended or describe a search.
    fn configurations(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let below = |path: PathBuf| if path.is_dir() { configurations(&path) } else { vec![path] };
        let in_search = |p: &Path| p.parent().is_some_and(|folder| folder.ends_with("search"));
        entries.flat_map(below).filter(|p| !p.ends_with("base.toml") && !in_search(p)).collect()
    }

    #[test]
    fn every_configuration_comes_back() {
        let all = configurations(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs"));
        for path in &all {
            let recipe = Config::load(path).unwrap().check().unwrap_or_else(|e| panic!("{e}"));
            assert!(!recipe.rows.is_empty());
            let text = recipe.to_toml();
            assert_eq!(Config::parse(&text, "stored").unwrap().check().unwrap(), recipe, "{text}");
        }
        assert!(all.len() >= 160, "{}", all.len());
    }

    #[test]
    fn every_method_and_schedule_comes_back() {
        let text = "student.model = 'resnet8'\nteacher.model = 'resnet20'\nteacher.weights = '/t.safetensors'\nteacher.key = 'model'\n\
            schedule = { kind = 'milestones', milestones = [2, 4], gamma = 0.2, warmup_epochs = 1 }\n\
            [optimizer]\nnesterov = true\nweight_decay = 1e-4\nclip_norm = 1.5\n\
            [train]\nrewind_factor = 0.3\n[checkpoints]\nevery_steps = 7\nevery_minutes = 0.5\non_failure = 'stop'\n\
            [[rows]]\nid = 'a'\nnonfinite = 'skip'\n\
            log = { source = 'l', epochs = 3, steady_epochs = 2, points = [{ epoch = 1, top1 = 10 }, { epoch = 3, top1 = 12.5 }] }\n\
            loss = [{ method = 'kd', reduction = 'mean', weight = 0.3 }, { method = 'tckd' }, \
            { method = 'nckd', temperature = 2 }, { method = 'ce', label_smoothing = 0.1 }]\n\
            [[rows]]\nid = 'b'\nnonfinite = 'rewind'\nbaseline = 'a'\nviews = 2\nteacher_mode = 'train'\nschedule = { kind = 'cosine', last = 0.1 }\n\
            loss = [{ method = 'seed_kd', a = 0.2 }, { method = 'dkd' }, { method = 'dkd_reference', name = 'x' }, \
            { method = 'dist', gamma = 0.5, own_momentum = 0.95 }, { method = 'nkd', gamma = 2, standardize = true }, { method = 'mlkd', temperature = 3 }, \
            { method = 'ttm', gamma = 0.2 }, { method = 'wttm' }, { method = 'ctkd', temperature_min = 2, temperature_range = 3, curriculum_epochs = 4 }, \
            { method = 'rld', alpha_temperature = 2 }, { method = 'tfkd', confidence = 0.95, form = 'reference' }, \
            { method = 'sdd', beta = 2 }, { method = 'sdd', name = 'y', base = 'nkd', scales = [1, 2], complementary_weight = 3, gamma = 1 }, \
            { method = 'fitnet', layer = 3 }, { method = 'at', power = 4 }, { method = 'nst' }, { method = 'pkt' }, { method = 'kdsvd' }, \
            { method = 'ofd', weight = 1e-4 }, { method = 'rkd', angle_weight = 2 }, { method = 'vid', form = 'reference' }, { method = 'sp' }, \
            { method = 'crd', negatives = 100, dimension = 16, temperature = 0.1, momentum = 0.4 }, { method = 'reviewkd', warmup_epochs = 3 }]";
        let recipe = Config::parse(text, "t").unwrap().check().unwrap();
        let named: Vec<_> = recipe.rows.iter().flat_map(|r| &r.parts).map(|p| p.method.name()).collect();
        assert!(Method::NAMES.iter().all(|n| named.contains(n)), "{named:?}");
        let again = Config::parse(&recipe.to_toml(), "stored").unwrap().check().unwrap();
        // The name comes from the place where the settings were.
        assert_eq!(again, recipe);
    }

    #[test]
    fn a_row_can_be_read_without_the_one_it_is_compared_with() {
        let text = "student.model = 'resnet8'\n[[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nbaseline = 'a'";
        let mut recipe = Config::parse(text, "t").unwrap().check().unwrap();
        recipe.rows.remove(0);
        let again = Config::parse(&recipe.to_toml(), "stored").unwrap().check().unwrap();
        assert_eq!((again.rows.len(), again.rows[0].baseline.as_deref()), (1, None));
    }
}
