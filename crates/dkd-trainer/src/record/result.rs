//! The result of one row with one seed, as a small JSON file.

use super::host::Host;
use crate::{Error, LogPoint, MetricKind, Metrics, Published, Recipe, Result, RowRecipe};
use dkd_datasets::Dataset;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the format; older ones are refused by name.
const VERSION: u32 = 1;

/// Largest result file that is read.
const LIMIT: u64 = 4 << 20;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochPoint {
    /// Mean training loss; `null` if it is not a number.
    #[serde(deserialize_with = "or_nan")]
    pub train_loss: f64,
    /// Training accuracy in percent.
    #[serde(deserialize_with = "or_nan")]
    pub train_top1: f64,
    /// On the test split.
    pub test: Metrics,
    /// On the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Metrics>,
}

/// When a loss or gradient was not finite for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Step over all epochs, from 0.
    pub step: u64,
    /// Term, or `gradient of NAME`.
    pub term: String,
    /// The first place, from images to loss, at which a value was not finite.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

/// A row was taken back to the beginning of an epoch, since a loss or a gradient was not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewind {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Step over all epochs at which it happened, from 0.
    pub step: u64,
    /// Term, or `gradient of NAME`.
    pub term: String,
    /// Factor of the learning rate from then on.
    #[serde(deserialize_with = "or_nan")]
    pub lr_factor: f64,
}

/// A number from elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedValue {
    /// In percent.
    pub value: f64,
    /// Where it stands.
    pub source: String,
    /// Remark.
    pub note: String,
    /// Per epoch, if there is a log.
    pub curve: Vec<f64>,
}

impl From<&Published> for PublishedValue {
    fn from(p: &Published) -> Self {
        Self { value: p.value, source: p.source.clone(), note: p.note.clone(), curve: p.curve.clone() }
    }
}

/// A published log, as far as a run may be compared with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogValue {
    /// Where it stands; empty if it is the published curve.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The last epoch that may be compared: after it the learning rates are not the same.
    pub until: usize,
    /// Test accuracies after some epochs; without any, the published curve has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<LogPoint>,
}

/// Which data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataInfo {
    /// Name.
    pub name: String,
    /// Whether they were generated.
    pub synthetic: bool,
    /// Training images that were there.
    pub train_images: usize,
    /// Test images that were there.
    pub test_images: usize,
    /// SHA-256 of images and labels.
    pub sha256: String,
}

impl DataInfo {
    /// Describes `data`.
    pub fn of(data: &Dataset) -> Self {
        Self {
            name: data.name.clone(),
            synthetic: data.is_synthetic(),
            train_images: data.train.len(),
            test_images: data.test.len(),
            sha256: data.fingerprint(),
        }
    }
}

/// The result of one row with one seed. All accuracies are top-1 in percent on the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowResult {
    /// Version of this format.
    pub format_version: u32,
    /// Table that the row belongs to.
    pub profile: String,
    /// Heading of that table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// A paragraph about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Start of the SHA-256 of all settings that decide the result, seed and data aside. Empty in results of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings_sha256: String,
    /// Row.
    pub row: String,
    /// Place in the table, from 1; the teacher's is 0.
    #[serde(default)]
    pub position: usize,
    /// Name in tables.
    pub label: String,
    /// Loss in one line.
    pub setting: String,
    /// Model.
    pub model: String,
    /// Seed.
    pub seed: u64,
    /// Remark.
    pub note: String,
    /// Number to compare with.
    pub published: Option<PublishedValue>,
    /// Log to compare with, epoch by epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogValue>,
    /// Row of the same table to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// `last` or `mean`: which number is compared.
    pub metric: String,
    /// Epochs that were asked for.
    pub planned_epochs: usize,
    /// After the last epoch.
    pub last: Option<f64>,
    /// Mean over all epochs.
    pub mean: Option<f64>,
    /// Best epoch *on the test split*: optimistic, for comparison with papers that print it.
    pub best_on_test: Option<f64>,
    /// That epoch, from 1.
    pub best_on_test_epoch: Option<usize>,
    /// Test accuracy of the epoch that is best on the validation split.
    pub validation_chosen: Option<f64>,
    /// That epoch, from 1.
    pub validation_chosen_epoch: Option<usize>,
    /// Set if a loss was not finite.
    pub diverged: Option<Diverged>,
    /// Batches that were left out, since a loss or gradient was not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Times that the row was taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewinds: Vec<Rewind>,
    /// Seconds of this row's work: its steps, its evaluations and its share of the teacher's answers.
    pub seconds: f64,
    /// Seconds that its cohort waited for images, all epochs together.
    #[serde(default)]
    pub waited_seconds: f64,
    /// Whether the run had not ended when this was put together from its event log: never compared with others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// Epoch by epoch.
    pub epochs: Vec<EpochPoint>,
    /// Data.
    pub data: DataInfo,
    /// Machine and revision.
    pub host: Option<Host>,
}

impl RowResult {
    /// An empty result.
    pub fn new(recipe: &RowRecipe, seed: u64, epochs: usize, data: &Dataset) -> Self {
        Self::on(recipe, seed, epochs, DataInfo::of(data))
    }

    /// An empty result on these data.
    pub(super) fn on(recipe: &RowRecipe, seed: u64, epochs: usize, data: DataInfo) -> Self {
        Self {
            position: recipe.position,
            label: recipe.label.clone(),
            setting: recipe.setting(),
            model: recipe.model.clone(),
            note: recipe.note.clone(),
            published: recipe.published.as_ref().map(PublishedValue::from),
            baseline: recipe.baseline.clone(),
            metric: recipe.metric.name().to_owned(),
            ..Self::named(&recipe.id, seed, epochs, data)
        }
    }

    /// An empty result of a row of which only the name is known.
    pub(super) fn named(row: &str, seed: u64, epochs: usize, data: DataInfo) -> Self {
        Self {
            format_version: VERSION,
            profile: String::new(),
            title: String::new(),
            description: String::new(),
            settings_sha256: String::new(),
            row: row.to_owned(),
            position: 0,
            label: row.to_owned(),
            setting: String::new(),
            model: String::new(),
            seed,
            note: String::new(),
            published: None,
            log: None,
            baseline: None,
            metric: MetricKind::Last.name().to_owned(),
            planned_epochs: epochs,
            last: None,
            mean: None,
            best_on_test: None,
            best_on_test_epoch: None,
            validation_chosen: None,
            validation_chosen_epoch: None,
            diverged: None,
            skipped: 0,
            rewinds: Vec::new(),
            seconds: 0.0,
            waited_seconds: 0.0,
            incomplete: false,
            epochs: Vec::new(),
            data,
            host: None,
        }
    }

    /// Adds what takes the whole recipe to tell: which settings decide the result, and how far a log may be compared.
    pub(crate) fn described_by(&mut self, row: &RowRecipe, recipe: &Recipe) {
        self.settings_sha256 = row.settings_sha256(recipe);
        let until = row.comparable_epochs(recipe);
        self.log = (until > 0).then(|| LogValue {
            source: row.log.as_ref().map_or_else(String::new, |log| log.source.clone()),
            until,
            points: row.log.as_ref().map_or_else(Vec::new, |log| log.points.clone()),
        });
    }

    /// Derives the summary from the epochs. Of equal accuracies the earliest epoch's counts.
    pub fn finish(&mut self) {
        let tests = || self.epochs.iter().map(|e| e.test.top1);
        self.last = tests().next_back();
        self.mean = (!self.epochs.is_empty()).then(|| tests().sum::<f64>() / self.epochs.len() as f64);
        let on_test = best(tests().enumerate());
        // An epoch without a validation cannot be chosen by it.
        let validations = self.epochs.iter().enumerate().filter_map(|(i, e)| Some((i, e.validation?.top1)));
        let chosen = best(validations);
        let accuracy = |place: Option<usize>| place.map(|i| self.epochs[i].test.top1);
        (self.best_on_test, self.validation_chosen) = (accuracy(on_test), accuracy(chosen));
        self.best_on_test_epoch = on_test.map(|i| i + 1);
        self.validation_chosen_epoch = chosen.map(|i| i + 1);
    }

    /// The number that is compared with others; `None` if the row ended early.
    pub fn value(&self) -> Option<f64> {
        if self.epochs.len() < self.planned_epochs {
            return None;
        }
        if self.metric == MetricKind::Mean.name() { self.mean } else { self.last }
    }

    /// Test accuracy of the published log after `epoch` (from 1), if this run may be compared with it there.
    pub fn logged(&self, epoch: usize) -> Option<f64> {
        let log = self.log.as_ref().filter(|log| epoch <= log.until)?;
        // A row that was taken back has another learning rate from there on.
        if self.rewinds.iter().any(|r| r.epoch <= epoch) {
            return None;
        }
        if log.points.is_empty() {
            return self.published.as_ref()?.curve.get(epoch.checked_sub(1)?).copied();
        }
        log.points.iter().find(|p| p.epoch == epoch).map(|p| p.top1)
    }

    /// Name of its file: `<profile>/<row>-<seed>.json`.
    pub fn file_name(&self) -> String {
        format!("{}/{}-{}.json", self.profile, self.row, self.seed)
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("results are JSON");
        text.push(b'\n');
        Ok(dkd_files::atomic_write_bytes(&folder.join(self.file_name()), &text)?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Record`] if it is no result of this version.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_bytes(&dkd_files::read_limited(path, LIMIT)?, path)
    }

    /// The same from the bytes of a file; `path` names it in messages.
    ///
    /// # Errors
    /// As [`RowResult::read`], but for reading the file.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::from_value(json_of(bytes, path)?, path)
    }

    /// Checks a result that was read from `path`.
    pub(super) fn from_value(value: serde_json::Value, path: &Path) -> Result<Self> {
        let fail = |message: String| Error::Record { path: path.to_owned(), message };
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => return Err(fail(format!("has format version {v}; this program reads {VERSION}"))),
            None => return Err(fail("is no result of this program: `format_version` is missing".to_owned())),
        }
        serde_json::from_value(value).map_err(|e| fail(format!("is damaged: {e}")))
    }
}

/// Reads a small JSON file.
pub(super) fn read_json(path: &Path) -> Result<serde_json::Value> {
    json_of(&dkd_files::read_limited(path, LIMIT)?, path)
}

fn json_of(bytes: &[u8], path: &Path) -> Result<serde_json::Value> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Record { path: path.to_owned(), message: format!("is no JSON: {e}") })
}

/// Reads all results below a folder, sorted by profile, row and seed.
///
/// # Errors
/// A folder cannot be listed; a file named like a result is none.
pub fn read_results(folder: &Path) -> Result<Vec<RowResult>> {
    let list = |path: &Path| {
        let io = |source| Error::File(dkd_files::Error::Io { action: "list", path: path.to_owned(), source });
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            found.push(entry.map_err(io)?.path());
        }
        found.sort();
        Ok::<_, Error>(found)
    };
    let mut results = Vec::new();
    for path in list(folder)? {
        let files = if path.is_dir() { list(&path)? } else { vec![path] };
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
            results.push(RowResult::read(file)?);
        }
    }
    results.sort_by(|a, b| (&a.profile, &a.row, a.seed).cmp(&(&b.profile, &b.row, b.seed)));
    Ok(results)
}

/// The place of the largest value; of several the first.
fn best(values: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    let larger = |best: (usize, f64), new: (usize, f64)| if new.1 > best.1 { new } else { best };
    values.reduce(larger).map(|(place, _)| place)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// JSON has no NaN: a loss that is none is written as `null`.
pub(crate) fn or_nan<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

/// The same for a number that may be absent.
pub(crate) fn some_or_nan<'de, D: serde::Deserializer<'de>>(
    d: D,
) -> std::result::Result<Option<f64>, D::Error> {
    or_nan(d).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Metrics;

    fn result(epochs: &[(f64, Option<f64>)]) -> RowResult {
        let of = |top1| Metrics { top1, ..Metrics::default() };
        let data: DataInfo = serde_json::from_str(
            r#"{"name":"d","train_images":1,"test_images":1,"sha256":"","synthetic":true}"#,
        )
        .unwrap();
        let mut result = RowResult::named("a", 0, epochs.len(), data);
        let point = |(test, validation): &(f64, Option<f64>)| EpochPoint {
            train_loss: 1.0,
            train_top1: 10.0,
            test: of(*test),
            validation: validation.map(of),
        };
        result.epochs = epochs.iter().map(point).collect();
        result.finish();
        result
    }

    #[test]
    fn the_summary_names_the_first_of_the_best_epochs() {
        let none = result(&[]);
        assert_eq!(
            (none.last, none.mean, none.best_on_test, none.validation_chosen),
            (None, None, None, None)
        );
        let some = result(&[(10.0, Some(5.0)), (30.0, Some(9.0)), (30.0, Some(9.0)), (20.0, Some(7.0))]);
        assert_eq!((some.last, some.mean), (Some(20.0), Some(22.5)));
        assert_eq!((some.best_on_test, some.best_on_test_epoch), (Some(30.0), Some(2)));
        assert_eq!((some.validation_chosen, some.validation_chosen_epoch), (Some(30.0), Some(2)));
    }

    #[test]
    fn a_log_counts_as_long_as_the_runs_are_alike() {
        let mut some = result(&[(10.0, None), (20.0, None), (30.0, None)]);
        assert_eq!(some.logged(1), None);
        let point = |epoch, top1| LogPoint { epoch, top1 };
        let log = LogValue { source: "l".to_owned(), until: 2, points: vec![point(2, 21.0), point(3, 31.0)] };
        some.log = Some(log.clone());
        assert_eq!([0, 1, 2, 3].map(|e| some.logged(e)), [None, None, Some(21.0), None]);
        let (source, note) = (String::new(), String::new());
        some.published = Some(PublishedValue { value: 33.0, source, note, curve: vec![13.0, 23.0, 33.0] });
        some.log = Some(LogValue { source: String::new(), until: 2, points: Vec::new() });
        assert_eq!([0, 1, 2, 3].map(|e| some.logged(e)), [None, Some(13.0), Some(23.0), None]);
        some.rewinds = vec![Rewind { epoch: 2, step: 5, term: "kd".to_owned(), lr_factor: 0.5 }];
        assert_eq!([1, 2].map(|e| some.logged(e)), [Some(13.0), None]);
        some.log = Some(log.clone());
        // What is written is read again; earlier results have no log.
        let text = serde_json::to_string(&some).unwrap();
        let written = r#""log":{"source":"l","until":2,"points":[{"epoch":2,"top1":21.0}"#;
        assert!(text.contains(written), "{text}");
        let again = RowResult::from_bytes(text.as_bytes(), Path::new("a.json")).unwrap();
        assert_eq!(again.log, Some(log));
        some.log = None;
        assert!(!serde_json::to_string(&some).unwrap().contains("until"));
    }

    #[test]
    fn epochs_without_a_validation_keep_their_place() {
        let gap = result(&[(10.0, Some(5.0)), (40.0, None), (20.0, Some(9.0))]);
        assert_eq!((gap.validation_chosen, gap.validation_chosen_epoch), (Some(20.0), Some(3)));
        assert_eq!(result(&[(10.0, None)]).validation_chosen, None);
    }
}
