//! The folder of a single run.

use super::host::Host;
use super::result::RowResult;
use crate::{Error, Recipe, Result};
use dkd_files::{FolderLock, atomic_write_bytes};
use serde_json::json;
use std::path::{Path, PathBuf};

/// `config.toml` (complete, with every default), `host.json`, `events.jsonl`, `last.safetensors`, `summary.json`, `times.json`.
///
/// `summary.json` and the weights hold neither times nor the machine, so that two runs with the same seed have the same
/// bytes there.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Makes the folder and writes what is known at the start.
    ///
    /// # Errors
    /// Another process uses it; it holds a finished run already; it cannot be written.
    pub fn create(path: &Path, recipe: &Recipe, host: &Host) -> Result<Self> {
        let lock = FolderLock::acquire(path, &format!("dkd, since {}", host.time))?;
        if path.join("summary.json").exists() {
            let message = "holds a finished run; choose another folder or remove it".to_owned();
            return Err(Error::Record { path: path.to_owned(), message });
        }
        atomic_write_bytes(&path.join("config.toml"), recipe.to_toml().as_bytes())?;
        write_json(&path.join("host.json"), &json!(host))?;
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

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    Ok(atomic_write_bytes(path, &text)?)
}
