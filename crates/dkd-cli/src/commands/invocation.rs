//! How a run was started: `invocation.json` holds what its `config.toml` does not say, so that the folder alone is enough to go
//! on with it.

use crate::args::{Common, ResumeArgs};
use anyhow::{Context, Result, bail};
use dkd_trainer::Recipe;
use dkd_trainer::config::Config;
use dkd_trainer::record::Derive;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const FILE: &str = "invocation.json";

/// Version of the format; others are refused by name.
const VERSION: u64 = 1;

/// Largest file that is read.
const LIMIT: u64 = 4 << 20;

/// What a run was started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    format_version: u64,
    /// The command line, for people.
    pub arguments: Vec<String>,
    /// The working folder: relative paths in settings and options begin there.
    pub working_folder: PathBuf,
    /// Where the images come from: `synthetic`, `auto` or a folder.
    pub data: String,
    /// `--threads`.
    pub threads: usize,
    /// `--device`.
    pub device: String,
    /// `--precision`.
    #[serde(default = "f32_precision")]
    pub precision: String,
    /// `--cuda-libraries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_libraries: Option<PathBuf>,
    /// `--cuda-algorithms`.
    #[serde(default = "by_rules")]
    pub cuda_algorithms: String,
    /// Settings that may differ from those of the last checkpoint.
    pub change: Vec<String>,
    /// What is written beside the event log.
    pub record: Derive,
    /// The settings in TOML, a table's with all of its rows: the places of the chosen ones, and what they are compared with,
    /// count.
    pub settings: String,
    /// A table's further options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableOptions>,
    /// Whether this goes on with a run that another command line started.
    #[serde(skip)]
    goes_on: bool,
}

/// Of runs of an earlier program.
fn f32_precision() -> String {
    "f32".to_owned()
}

fn by_rules() -> String {
    "rules".to_owned()
}

/// Which part of a table is filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableOptions {
    /// The rows.
    pub rows: Vec<String>,
    /// First seed.
    pub first_seed: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// `--results`.
    pub results: Option<PathBuf>,
}

impl Invocation {
    /// This process's, with settings that a run has accepted.
    pub fn new(source: &str, recipe: &Recipe, resume: &ResumeArgs, common: &Common) -> Result<Self> {
        // JSON is UTF-8; a folder whose name is not cannot be found again, which is no reason to refuse the run.
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let here = std::env::current_dir().context("there is no working folder")?;
        Ok(Self {
            format_version: VERSION,
            arguments: std::env::args_os().map(lossy).collect(),
            working_folder: lossy(here.into()).into(),
            data: source.to_owned(),
            threads: common.threads,
            device: common.device.clone(),
            precision: common.precision.clone(),
            cuda_libraries: common.cuda_libraries.clone(),
            cuda_algorithms: common.cuda_algorithms.clone(),
            change: resume.change.clone(),
            record: resume.record,
            settings: recipe.to_toml(),
            table: None,
            goes_on: resume.resume,
        })
    }

    /// Writes it into a run's folder. The command line of a run that goes on stays the one that started it.
    pub fn store(mut self, folder: &Path) -> Result<()> {
        if self.goes_on
            && let Ok(Some(first)) = Self::read(folder)
        {
            self.arguments = first.arguments;
        }
        let mut text = serde_json::to_vec_pretty(&self).context("the command line cannot be stored")?;
        text.push(b'\n');
        Ok(dkd_files::atomic_write_bytes(&folder.join(FILE), &text)?)
    }

    /// The settings with all rows. Paths in them are those of the run: they begin in its working folder.
    pub fn whole_recipe(&self, folder: &Path) -> dkd_trainer::Result<Recipe> {
        Config::parse(&self.settings, &folder.join(FILE).display().to_string())?.check()
    }

    /// The same with the chosen rows.
    pub fn recipe(&self, folder: &Path) -> dkd_trainer::Result<Recipe> {
        let mut recipe = self.whole_recipe(folder)?;
        if let Some(table) = &self.table {
            recipe.rows.retain(|row| table.rows.contains(&row.id));
        }
        Ok(recipe)
    }

    /// A folder's; `None` in one of an earlier program, or of a run that was killed before it began.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let damaged = || format!("`{}` is damaged", path.display());
        let bytes = dkd_files::read_limited(&path, LIMIT)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(VERSION) => serde_json::from_value(value).map(Some).with_context(damaged),
            Some(v) => bail!("`{}` has format version {v}; this program reads {VERSION}", path.display()),
            None => bail!("`{}` is damaged: `format_version` is missing", path.display()),
        }
    }
}
