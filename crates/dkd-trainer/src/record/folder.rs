//! The folder of a single run, and what every folder of records says about itself.

use super::host::Host;
use super::result::{DataInfo, RowResult, read_json};
use crate::{Error, Recipe, Result};
use dkd_files::{FolderLock, atomic_write_bytes};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Writes what is known before anything is trained, so that a folder's records can be read whatever happens later:
/// `config.toml` (complete, with every default), `host.json` and `data.json`.
///
/// # Errors
/// They cannot be written.
pub fn describe(folder: &Path, recipe: &Recipe, host: &Host, data: &DataInfo) -> Result<()> {
    atomic_write_bytes(&folder.join("config.toml"), recipe.to_toml().as_bytes())?;
    write_json(&folder.join("host.json"), &json!(host))?;
    for (name, description) in &recipe.networks {
        let path = network_file(folder, name);
        atomic_write_bytes(&path, description.to_json().as_bytes())?;
    }
    write_json(&folder.join("data.json"), &json!(data))
}

/// Where [`describe`] writes a network of the settings: in the place of a model's name, with the run's weights, for `dkd eval` and
/// others.
pub fn network_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("networks").join(format!("{name}.json"))
}

/// What [`describe`] writes, `events.jsonl` and what is derived from it (see [`super::Records`]), `last.safetensors`,
/// `summary.json`, `times.json`.
///
/// `summary.json` and the weights hold neither times nor the machine, so that two runs with the same seed have the same
/// bytes there.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Makes the folder, for this process alone.
    ///
    /// # Errors
    /// Another process uses it; it holds a finished run already; it cannot be written.
    pub fn create(path: &Path, host: &Host) -> Result<Self> {
        let lock = FolderLock::acquire(path, &format!("dkd, since {}", host.time))?;
        if path.join("summary.json").exists() {
            let message = "holds a finished run; choose another folder or remove it".to_owned();
            return Err(Error::Record { path: path.to_owned(), message });
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the summary and the times.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn finish(&self, result: &RowResult) -> Result<()> {
        let mut value = serde_json::to_value(result).expect("results are JSON");
        if let Some(map) = value.as_object_mut() {
            for changing in ["seconds", "waited_seconds", "host"] {
                map.remove(changing);
            }
        }
        let times = json!({ "seconds": result.seconds, "waited_seconds": result.waited_seconds });
        write_json(&self.path.join("times.json"), &times)?;
        write_json(&self.path.join("summary.json"), &value)
    }
}

/// The result of a finished run: its summary with its times and machine. `None` without a `summary.json`.
///
/// # Errors
/// A file is damaged or cannot be read.
pub fn read_summary(folder: &Path) -> Result<Option<RowResult>> {
    let path = folder.join("summary.json");
    if !path.exists() {
        return Ok(None);
    }
    let mut value = read_json(&path)?;
    let times = read_optional(&folder.join("times.json"))?.unwrap_or_default();
    let host = read_optional(&folder.join("host.json"))?.unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for key in ["seconds", "waited_seconds"] {
            map.insert(key.to_owned(), times.get(key).cloned().unwrap_or(json!(0.0)));
        }
        map.insert("host".to_owned(), host);
    }
    RowResult::from_value(value, &path).map(Some)
}

/// A small JSON file that need not be there.
pub(super) fn read_optional(path: &Path) -> Result<Option<serde_json::Value>> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    Ok(atomic_write_bytes(path, &text)?)
}
