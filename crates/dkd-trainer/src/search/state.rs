//! What a search has found, and the file that it goes on from.

use super::space::Point;
use super::strategy::Proposal;
use crate::record::RowResult;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the format; others are refused by name.
const VERSION: u32 = 1;

/// Largest file that is read.
const LIMIT: u64 = 64 << 20;

/// What is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The highest accuracy after the last epoch.
    #[default]
    Top1,
    /// The lowest cross-entropy after the last epoch.
    Loss,
}

impl Metric {
    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::Loss => "loss",
        }
    }
}

/// What a trial gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Which, from 1.
    pub number: usize,
    /// Rung of successive halving; 0 elsewhere.
    pub rung: usize,
    /// Epochs that were asked for.
    pub epochs: usize,
    /// A value for each key.
    pub values: Point,
    /// Accuracy on the held-out images after the last epoch, in percent; none of a trial that diverged.
    pub top1: Option<f64>,
    /// Cross-entropy there, in nats.
    pub loss: Option<f64>,
    /// Where a loss or gradient was not finite for the first time.
    pub diverged: Option<String>,
    /// Seconds of its work.
    pub seconds: f64,
    /// Hash of all settings that decide its result, as in result files.
    pub settings_sha256: String,
}

impl Trial {
    /// A result of `proposal`; numbers that are not finite count as none.
    pub fn new(proposal: &Proposal, top1: Option<f64>, loss: Option<f64>) -> Self {
        let finite = |v: Option<f64>| v.filter(|v| v.is_finite());
        Self {
            number: proposal.number,
            rung: proposal.rung,
            epochs: proposal.epochs,
            values: proposal.values.clone(),
            top1: finite(top1),
            loss: finite(loss),
            diverged: None,
            seconds: 0.0,
            settings_sha256: String::new(),
        }
    }

    /// The same from the result of its row, whose test images are those that were held out.
    pub fn of(proposal: &Proposal, result: &RowResult) -> Self {
        let whole = result.diverged.is_none() && result.epochs.len() >= result.planned_epochs;
        let last = result.epochs.last().filter(|_| whole).map(|e| e.test);
        let place = |d: &crate::record::Diverged| {
            format!("`{}` was not finite in epoch {}, step {}", d.term, d.epoch, d.step)
        };
        Self {
            diverged: result.diverged.as_ref().map(place),
            seconds: result.seconds,
            settings_sha256: result.settings_sha256.clone(),
            ..Self::new(proposal, last.map(|m| m.top1), last.map(|m| m.loss))
        }
    }

    /// What counts.
    pub fn measured(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Top1 => self.top1,
            Metric::Loss => self.loss,
        }
    }

    /// The larger the better; none of a trial that diverged.
    pub fn score(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Top1 => self.top1,
            Metric::Loss => self.loss.map(|l| -l),
        }
    }
}

/// Orders two trials of equally many epochs: the better first, then the earlier; those that diverged last.
pub(super) fn best_first(a: &Trial, b: &Trial, metric: Metric) -> std::cmp::Ordering {
    let score = |t: &Trial| t.score(metric).unwrap_or(f64::NEG_INFINITY);
    score(b).total_cmp(&score(a)).then(a.number.cmp(&b.number))
}

/// The trials from the best to the worst, each with its last rung: who came further is better.
pub fn standing(trials: &[Trial], metric: Metric) -> Vec<&Trial> {
    let mut last: BTreeMap<usize, &Trial> = BTreeMap::new();
    for trial in trials {
        let kept = last.entry(trial.number).or_insert(trial);
        if trial.rung >= kept.rung {
            *kept = trial;
        }
    }
    let mut all: Vec<&Trial> = last.into_values().collect();
    let group = |t: &Trial| (t.score(metric).is_none(), Reverse(t.rung));
    all.sort_by(|a, b| group(a).cmp(&group(b)).then_with(|| best_first(a, b, metric)));
    all
}

/// What a search is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Name of the search.
    pub name: String,
    /// Name of the strategy.
    pub strategy: String,
    /// What is best.
    pub metric: Metric,
    /// Data set.
    pub dataset: String,
    /// Whether its images were generated.
    pub synthetic: bool,
    /// Images that trials are trained on.
    pub train_images: usize,
    /// Images held out of training, which trials are compared on.
    pub held_out_images: usize,
    /// Seed of the trials.
    pub seed: u64,
}

/// A search and what it has found: `search.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of this format.
    pub format_version: u32,
    /// For people.
    pub about: About,
    /// All settings that decide what trials are proposed and what they give, in TOML.
    pub settings: String,
    /// SHA-256 of the images and labels, as they were cut.
    pub data: String,
    /// Number of the best trial, if any has not diverged.
    pub best: Option<usize>,
    /// What has been tried, by rung and number.
    pub trials: Vec<Trial>,
}

impl State {
    /// A search that has found nothing yet.
    pub fn new(about: About, settings: String, data: String) -> Self {
        Self { format_version: VERSION, about, settings, data, best: None, trials: Vec::new() }
    }

    /// Adds results.
    pub fn extend(&mut self, trials: Vec<Trial>) {
        self.trials.extend(trials);
        self.trials.sort_by_key(|t| (t.rung, t.number));
        let metric = self.about.metric;
        let best = standing(&self.trials, metric).first().copied();
        self.best = best.filter(|t| t.score(metric).is_some()).map(|t| t.number);
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::Record {
            path: path.to_owned(),
            message: format!("cannot be written: {e}"),
        })?;
        text.push(b'\n');
        Ok(dkd_files::atomic_write_bytes(path, &text)?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Record`] if it is no search of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |message: String| Error::Record { path: path.to_owned(), message };
        let bytes = dkd_files::read_limited(path, LIMIT)?;
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| fail(format!("is no JSON: {e}")))?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => return Err(fail(format!("has format version {v}; this program reads {VERSION}"))),
            None => return Err(fail("is no search: `format_version` is missing".to_owned())),
        }
        serde_json::from_value(value).map_err(|e| fail(format!("is damaged: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::Value;

    fn trial(number: usize, rung: usize, top1: Option<f64>) -> Trial {
        let values = [
            ("a".to_owned(), Value::Float(0.012_34)),
            ("b".to_owned(), Value::Integer(3)),
            ("c".to_owned(), "x".into()),
            ("d".to_owned(), Value::Float(2.0)),
            ("e".to_owned(), Value::Boolean(true)),
            ("f".to_owned(), Value::Array(vec![Value::Integer(1), Value::Integer(2)])),
        ];
        let proposal = Proposal { number, rung, epochs: rung + 1, values: values.into() };
        Trial::new(&proposal, top1, top1.map(|v| 100.0 - v))
    }

    fn state() -> State {
        let about = About {
            name: "n".to_owned(),
            strategy: "random".to_owned(),
            metric: Metric::Top1,
            dataset: "synthetic".to_owned(),
            synthetic: true,
            train_images: 300,
            held_out_images: 100,
            seed: 0,
        };
        State::new(about, "a = 1".to_owned(), "0f".to_owned())
    }

    #[test]
    fn a_search_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("search.json");
        let mut state = state();
        state.extend(vec![trial(2, 0, Some(10.5)), trial(3, 0, None), trial(1, 0, Some(1.0 / 3.0))]);
        assert_eq!(state.best, Some(2));
        assert_eq!(state.trials.iter().map(|t| t.number).collect::<Vec<_>>(), [1, 2, 3]);
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to, expected) in [
            ("\"format_version\": 1", "\"format_version\": 9", "format version 9"),
            ("\"format_version\": 1", "\"version\": 1", "`format_version` is missing"),
            ("\"trials\": [", "\"trails\": [", "damaged"),
            ("{", "", "no JSON"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let message = State::read(&path).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("search.json"), "{message}");
        }
    }

    #[test]
    fn who_came_further_is_better() {
        let trials = [
            trial(1, 0, Some(90.0)),
            trial(2, 0, Some(30.0)),
            trial(3, 0, Some(50.0)),
            trial(4, 0, None),
            trial(2, 1, Some(20.0)),
            trial(3, 1, None),
            trial(5, 0, Some(90.0)),
        ];
        let numbers = |metric| -> Vec<(usize, usize)> {
            standing(&trials, metric).iter().map(|t| (t.number, t.rung)).collect()
        };
        assert_eq!(numbers(Metric::Top1), [(2, 1), (1, 0), (5, 0), (3, 1), (4, 0)]);
        assert_eq!(numbers(Metric::Loss), numbers(Metric::Top1));
        let mut none = state();
        none.extend(vec![trial(1, 0, None)]);
        assert_eq!(none.best, None);
    }

    #[test]
    fn numbers_that_are_not_finite_are_none() {
        let infinite = trial(1, 0, Some(f64::NAN));
        assert_eq!((infinite.top1, infinite.loss, infinite.score(Metric::Top1)), (None, None, None));
    }
}
