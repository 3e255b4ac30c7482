//! What the folder of a run or a table holds. Reading changes nothing, and takes no lock.

use crate::commands::invocation::Invocation;
use crate::commands::table::covers;
use anyhow::{Context, Result};
use dkd_files::FolderLock;
use dkd_trainer::Recipe;
use dkd_trainer::checkpoint::{Header, Store, decode};
use dkd_trainer::config::Config;
use dkd_trainer::record::{DataInfo, JsonLines, RowResult, read_results, read_summary};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest stored configuration that is read.
const CONFIG_LIMIT: u64 = 4 << 20;

/// Largest `data.json` that is read.
const DATA_LIMIT: u64 = 1 << 16;

/// How deep a run's own folders are.
const DEPTH: usize = 4;

/// What a folder is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `dkd train` or `dkd distill`.
    Run,
    /// `dkd table`.
    Table,
}

impl Kind {
    /// In lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Table => "table",
        }
    }

    /// The event log of a seed.
    fn log(self, seed: u64) -> String {
        match self {
            Self::Run => "events.jsonl".to_owned(),
            Self::Table => format!("events-{seed}.jsonl"),
        }
    }
}

/// What can be done with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing more: it is complete.
    Finished,
    /// Going on with it.
    Stopped,
    /// Waiting for its owner.
    Running(String),
    /// Nothing before this is dealt with.
    Damaged(String),
}

/// A file of a run.
pub struct Entry {
    /// Where.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    changed: Option<SystemTime>,
}

/// A checkpoint's file.
pub struct Checkpoint {
    /// Where.
    pub path: PathBuf,
    /// Of which seed.
    pub seed: u64,
    /// What it holds, or why it cannot be used.
    pub header: Result<Header, String>,
}

/// A run or a table.
pub struct Run {
    /// Where.
    pub folder: PathBuf,
    /// Which of the two.
    pub kind: Kind,
    /// What can be done.
    pub state: State,
    /// Its settings.
    pub recipe: Recipe,
    /// How it was started, if that is known.
    pub invocation: Option<Invocation>,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// Results that are whole.
    pub results: Vec<RowResult>,
    /// Results so far of rows that are not, from the newest usable checkpoints.
    pub under_way: Vec<RowResult>,
    /// What `data.json` says of its images, if it is there.
    described: Option<DataInfo>,
    /// All checkpoints, a seed's newest first.
    pub checkpoints: Vec<Checkpoint>,
    /// All files.
    pub files: Vec<Entry>,
}

impl Run {
    /// Reads a folder.
    ///
    /// # Errors
    /// Why it cannot be told what it is of: its settings or how it was started cannot be read. Other damage is
    /// [`State::Damaged`] or in [`Checkpoint::header`].
    pub fn read(folder: &Path) -> Result<Self> {
        let owner = FolderLock::owner(folder)?;
        Self::examine(folder, owner)
    }

    /// The same for a folder that this process itself has locked.
    pub fn read_locked(folder: &Path, _lock: &FolderLock) -> Result<Self> {
        Self::examine(folder, None)
    }

    fn examine(folder: &Path, owner: Option<String>) -> Result<Self> {
        let files = walk(folder)?;
        let invocation = Invocation::read(folder)?;
        let logged = numbers(&files, folder, "events-", ".jsonl");
        let is_table = match &invocation {
            Some(known) => known.table.is_some(),
            None => folder.join("results").is_dir() || !logged.is_empty(),
        };
        let kind = if is_table { Kind::Table } else { Kind::Run };
        let recipe = recipe(folder, invocation.as_ref())?;
        let seeds = match invocation.as_ref().and_then(|i| i.table.as_ref()) {
            Some(table) => (table.first_seed..table.first_seed.saturating_add(table.seeds)).collect(),
            None if logged.is_empty() => vec![recipe.train.seed],
            None => logged.into_iter().collect(),
        };
        let checkpoints = checkpoints(folder, kind, &files)?;
        let (results, damage) = match results(folder, kind, &recipe) {
            Ok(results) => (results, None),
            Err(e) => (Vec::new(), Some(e.to_string())),
        };
        let done = |seed: u64| match kind {
            Kind::Run => !results.is_empty(),
            Kind::Table => covers(&results, &recipe, seed),
        };
        let mut under_way = Vec::new();
        for seed in seeds.iter().filter(|seed| !done(**seed)) {
            let usable = checkpoints.iter().filter(|c| c.seed == *seed).find_map(|c| c.header.as_ref().ok());
            for row in usable.iter().flat_map(|header| &header.rows) {
                let mut result = row.result.clone();
                result.finish();
                under_way.push(result);
            }
        }
        let reported = kind == Kind::Run || folder.join("report.html").exists();
        let state = match (owner, damage) {
            (Some(owner), _) => State::Running(owner),
            (None, Some(reason)) => State::Damaged(reason),
            (None, None) if reported && seeds.iter().all(|seed| done(*seed)) => State::Finished,
            (None, None) => State::Stopped,
        };
        Ok(Self {
            folder: folder.to_owned(),
            kind,
            state,
            recipe,
            invocation,
            seeds,
            results,
            under_way,
            described: described(folder),
            checkpoints,
            files,
        })
    }

    /// The model of a run, the name of a table.
    pub fn name(&self) -> &str {
        match (self.kind, &self.recipe.rows[..]) {
            (Kind::Run, [row]) => &row.model,
            _ => &self.recipe.name,
        }
    }

    /// In one word.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Running(_) => "running",
            _ if self.damage().is_some() => "damaged",
            State::Finished => "finished",
            _ => "stopped",
        }
    }

    /// What is broken, if that keeps it from being finished or from going on.
    pub fn damage(&self) -> Option<String> {
        match &self.state {
            State::Damaged(reason) => Some(reason.clone()),
            State::Stopped if self.newest().is_none() => {
                self.checkpoints.iter().find_map(|c| c.header.as_ref().err()).cloned()
            }
            _ => None,
        }
    }

    /// The checkpoint with which it goes on.
    pub fn newest(&self) -> Option<(&Checkpoint, &Header)> {
        self.checkpoints.iter().find_map(|c| Some((c, c.header.as_ref().ok()?)))
    }

    /// Epochs of a run, rows times seeds of a table: done, and planned.
    pub fn progress(&self) -> (usize, usize) {
        match self.kind {
            Kind::Run => {
                let own = self.results.iter().chain(&self.under_way).filter(|r| self.is_student(r));
                (own.map(|r| r.epochs.len()).max().unwrap_or(0), self.recipe.train.epochs)
            }
            Kind::Table => {
                let counts = |r: &&RowResult| self.is_student(r) && self.seeds.contains(&r.seed);
                (self.results.iter().filter(counts).count(), self.recipe.rows.len() * self.seeds.len())
            }
        }
    }

    /// Whether a row is what the run is about, and not its teacher.
    pub fn is_student(&self, result: &RowResult) -> bool {
        self.recipe.rows.iter().any(|row| row.id == result.row)
    }

    /// All results, whole ones first.
    pub fn all_results(&self) -> impl Iterator<Item = &RowResult> {
        self.results.iter().chain(&self.under_way)
    }

    /// Its images, if something says which.
    pub fn data(&self) -> Option<&DataInfo> {
        self.all_results().next().map(|r| &r.data).or(self.described.as_ref())
    }

    /// Whether all results of a seed are there.
    pub fn is_done(&self, seed: u64) -> bool {
        self.state == State::Finished
            || (self.kind == Kind::Table && covers(&self.results, &self.recipe, seed))
    }

    /// Size on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Seconds since anything was written.
    pub fn age_s(&self) -> u64 {
        // The lock is written by those who only look whether they may.
        let own = self.files.iter().filter(|f| f.path.file_name().is_some_and(|n| n != ".dkd.lock"));
        let newest = own.filter_map(|f| f.changed).max();
        // A clock that was set back makes it new.
        newest.and_then(|t| t.elapsed().ok()).map_or(0, |d| d.as_secs())
    }
}

/// The settings: what the run accepted, else what is in `config.toml`.
fn recipe(folder: &Path, invocation: Option<&Invocation>) -> Result<Recipe> {
    if let Some(invocation) = invocation {
        return Ok(invocation.recipe(folder)?);
    }
    let path = folder.join("config.toml");
    let text = dkd_files::read_text_limited(&path, CONFIG_LIMIT)?;
    Ok(Config::parse(&text, &path.display().to_string())?.check()?)
}

/// The images as they were described when the run began: all that is known before its first checkpoint.
fn described(folder: &Path) -> Option<DataInfo> {
    let bytes = dkd_files::read_limited(&folder.join("data.json"), DATA_LIMIT).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Results that are whole.
fn results(folder: &Path, kind: Kind, recipe: &Recipe) -> Result<Vec<RowResult>> {
    match kind {
        Kind::Run => Ok(read_summary(folder)?.into_iter().collect()),
        Kind::Table => {
            let own = folder.join("results").join(&recipe.name);
            if own.is_dir() { Ok(read_results(&own)?) } else { Ok(Vec::new()) }
        }
    }
}

/// All checkpoints, each read and checked.
fn checkpoints(folder: &Path, kind: Kind, files: &[Entry]) -> Result<Vec<Checkpoint>> {
    let place = folder.join("checkpoints");
    let mut all = Vec::new();
    for seed in numbers(files, &place, "", ".safetensors") {
        let log = folder.join(kind.log(seed));
        for path in Store::new(&place, seed).list()? {
            let whole = decode(&path).and_then(|snapshot| {
                JsonLines::check(&log, snapshot.header.log_bytes.unwrap_or(0))?;
                Ok(snapshot.header)
            });
            // The owner of a running run removes old ones.
            if path.exists() {
                all.push(Checkpoint { path, seed, header: whole.map_err(|e| e.to_string()) });
            }
        }
    }
    Ok(all)
}

/// The numbers with which the names of files directly in `folder` go on after `before`; the names end in `after`.
fn numbers(files: &[Entry], folder: &Path, before: &str, after: &str) -> BTreeSet<u64> {
    let own = files.iter().map(|f| &f.path).filter(|p| p.parent() == Some(folder));
    let names = own.filter_map(|p| p.file_name()?.to_str()?.strip_prefix(before)?.strip_suffix(after));
    names.filter_map(|n| n.split('-').next()?.parse().ok()).collect()
}

/// All files at and below a folder; links are not followed.
fn walk(folder: &Path) -> Result<Vec<Entry>> {
    fn add(folder: &Path, depth: usize, all: &mut Vec<Entry>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            // What has gone since it was listed is not there.
            let Ok(about) = path.symlink_metadata() else { continue };
            if about.is_dir() && depth > 0 {
                add(&path, depth - 1, all)?;
            } else if about.is_file() {
                all.push(Entry { path, bytes: about.len(), changed: about.modified().ok() });
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    add(folder, DEPTH, &mut all).with_context(|| format!("cannot list `{}`", folder.display()))?;
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}
