//! Results from whatever a folder's records say: those of a run that ended, and what the event log tells of one that did not.

use super::curves::{Curve, Curves};
use super::folder::{read_optional, read_summary};
use super::host::Host;
use super::read::read_events;
use super::result::{DataInfo, RowResult, read_results};
use crate::cohort::teacher_row;
use crate::config::Config;
use crate::{Error, Recipe, Result};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Largest stored configuration that is read.
const CONFIG_LIMIT: u64 = 1 << 20;

/// All results of a run's or a table's folder, sorted by profile, row and seed.
///
/// What `summary.json` or the files below `results/` say counts. Rows that have no such result, since the run crashed or is
/// still going on, are put together from `events.jsonl` or `events-<seed>.jsonl`, `config.toml`, `host.json` and
/// `data.json`, as far as these are there; unless the log has all of their epochs they are marked as
/// [`RowResult::incomplete`]. Nothing is found in a folder without any of these files.
///
/// # Errors
/// A file is damaged or cannot be read.
pub fn read_records(folder: &Path) -> Result<Vec<RowResult>> {
    let stored = folder.join("results");
    let mut results = if stored.is_dir() { read_results(&stored)? } else { Vec::new() };
    results.extend(read_summary(folder)?);
    let logs = logs(folder)?;
    if !logs.is_empty() {
        let about = About::read(folder)?;
        for log in logs {
            for result in rows_of(&log, folder, &about)? {
                let same = |r: &RowResult| {
                    (&r.profile, &r.row, r.seed) == (&result.profile, &result.row, result.seed)
                };
                if !results.iter().any(same) {
                    results.push(result);
                }
            }
        }
    }
    results.sort_by(|a, b| (&a.profile, &a.row, a.seed).cmp(&(&b.profile, &b.row, b.seed)));
    Ok(results)
}

/// The event logs of a folder, sorted by name.
fn logs(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::File(dkd_files::Error::Io { action: "list", path: folder.to_owned(), source });
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let seed = name.strip_prefix("events").and_then(|rest| rest.strip_suffix(".jsonl"));
        if seed.is_some_and(|s| s.is_empty() || s.starts_with('-')) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What a folder says about all of its rows.
struct About {
    recipe: Option<Recipe>,
    host: Option<Host>,
    data: DataInfo,
    /// For rows without a configuration.
    name: String,
}

impl About {
    fn read(folder: &Path) -> Result<Self> {
        let config = folder.join("config.toml");
        let recipe = if config.exists() {
            // As text: paths in it are those of the run.
            let text = dkd_files::read_text_limited(&config, CONFIG_LIMIT)?;
            Some(Config::parse(&text, &config.display().to_string())?.check()?)
        } else {
            None
        };
        let name = recipe.as_ref().map_or("unknown", |r| &r.data.dataset).to_owned();
        let unknown = DataInfo {
            synthetic: name == dkd_datasets::synthetic::NAME,
            name,
            train_images: 0,
            test_images: 0,
            sha256: String::new(),
        };
        let folder_name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(Self {
            recipe,
            host: typed(&folder.join("host.json"))?,
            data: typed(&folder.join("data.json"))?.unwrap_or(unknown),
            name: folder_name.unwrap_or_else(|| "run".to_owned()),
        })
    }

    /// An empty result of a row.
    fn empty(&self, row: &str, curve: &Curve) -> RowResult {
        let (seed, epochs, data) = (curve.seed, curve.planned_epochs, self.data.clone());
        let recipe = self.recipe.as_ref();
        let student = recipe.and_then(|r| r.rows.iter().find(|known| known.id == row));
        let teacher = recipe.and_then(|r| r.teacher.as_ref()).filter(|_| row == "teacher").map(teacher_row);
        let mut result = match student.or(teacher.as_ref()) {
            Some(known) => RowResult::on(known, seed, epochs, data),
            None => RowResult::named(row, seed, epochs, data),
        };
        if let (Some(recipe), Some(student)) = (recipe, student) {
            result.described_by(student, recipe);
        }
        self.place(&mut result);
        result
    }

    /// The table that a row belongs to.
    fn place(&self, result: &mut RowResult) {
        match &self.recipe {
            Some(recipe) => {
                result.profile.clone_from(&recipe.name);
                result.title.clone_from(&recipe.title);
                result.description.clone_from(&recipe.description);
            }
            None => result.profile.clone_from(&self.name),
        }
    }
}

/// The rows that a log tells of.
fn rows_of(log: &Path, folder: &Path, about: &About) -> Result<Vec<RowResult>> {
    let mut curves = Curves::default();
    for event in read_events(log)? {
        let fits = curves.event(&event?).map(|_| ());
        fits.map_err(|message| Error::Record { path: log.to_owned(), message })?;
    }
    curves.into_rows().into_iter().map(|(row, curve)| row_of(&row, curve, folder, about)).collect()
}

fn row_of(row: &str, curve: Curve, folder: &Path, about: &About) -> Result<RowResult> {
    let incomplete = curve.epochs.len() < curve.planned_epochs && !curve.ended;
    // A trained teacher has left its whole result beside its weights.
    if row == "teacher" && !incomplete {
        let name = format!("teacher-{}.json", curve.seed);
        let files = [folder.join(&name), folder.join("weights").join(&name)];
        if let Some(file) = files.iter().find(|f| f.is_file()) {
            let mut stored = RowResult::read(file)?;
            // A crash between the two files leaves that of an earlier training. As JSON, where NaN is equal to itself.
            if json!(stored.epochs) == json!(curve.epochs) {
                about.place(&mut stored);
                return Ok(stored);
            }
        }
    }
    let mut result = about.empty(row, &curve);
    result.host.clone_from(&about.host);
    result.diverged = curve.diverged;
    result.skipped = curve.skipped;
    result.rewinds = curve.rewinds;
    result.epochs = curve.epochs;
    result.incomplete = incomplete;
    result.finish();
    Ok(result)
}

/// A small JSON file that need not be there.
fn typed<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(value) = read_optional(path)? else { return Ok(None) };
    serde_json::from_value(value)
        .map(Some)
        .map_err(|e| Error::Record { path: path.to_owned(), message: format!("is damaged: {e}") })
}
