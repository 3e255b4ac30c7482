//! The folder of a run's checkpoints.

use super::file::decode;
use super::policy::{Entry, Policy};
use super::snapshot::{Place, Snapshot};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Checkpoints of one seed: `<seed>-<t|s>-<batches done>.safetensors`, t for the teacher's own training, s for its students'.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    seed: u64,
}

/// What a search for the newest usable checkpoint gave.
#[derive(Debug, Default)]
pub struct Found {
    /// It, and its file.
    pub snapshot: Option<(PathBuf, Snapshot)>,
    /// Newer ones that could not be used, and why.
    pub skipped: Vec<Error>,
}

impl Store {
    /// The checkpoints of `seed` in `folder`, which need not exist yet.
    pub fn new(folder: &Path, seed: u64) -> Self {
        Self { folder: folder.to_owned(), seed }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// File of a checkpoint.
    pub fn path(&self, place: Place) -> PathBuf {
        let phase = if place.teacher { 't' } else { 's' };
        self.folder.join(format!("{}-{phase}-{:010}.safetensors", self.seed, place.done))
    }

    /// All files of the seed, the newest first.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        Ok(self.keyed()?.into_iter().map(|(_, path)| path).collect())
    }

    /// With (students', batches done) as keys, descending.
    fn keyed(&self) -> Result<Vec<((bool, u64), PathBuf)>> {
        let io = |source| dkd_files::Error::Io { action: "list", path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(e).into()),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            if let Some(key) = path.file_name().and_then(|n| self.key(n.to_str()?)) {
                found.push((key, path));
            }
        }
        found.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
        Ok(found)
    }

    /// Validation accuracies of the whole checkpoints, by phase (whether the teacher's) and batches done.
    pub(super) fn scores(&self) -> HashMap<(bool, u64), f64> {
        let headers =
            self.list().unwrap_or_default().into_iter().filter_map(|path| Some(decode(&path).ok()?.header));
        headers.filter_map(|h| Some(((h.place.teacher, h.place.done), h.score()?))).collect()
    }

    fn key(&self, name: &str) -> Option<(bool, u64)> {
        let rest = name.strip_prefix(&format!("{}-", self.seed))?.strip_suffix(".safetensors")?;
        let (phase, done) = rest.split_once('-')?;
        let students = match phase {
            "t" => false,
            "s" => true,
            _ => return None,
        };
        Some((students, done.parse().ok()?))
    }

    /// The newest checkpoint that is whole and that `accept` takes.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn newest(&self, accept: impl Fn(&Snapshot) -> Result<()>) -> Result<Found> {
        let mut found = Found::default();
        for path in self.list()? {
            match decode(&path).and_then(|s| accept(&s).map(|()| s)) {
                Ok(snapshot) => {
                    found.snapshot = Some((path, snapshot));
                    return Ok(found);
                }
                Err(e) => found.skipped.push(e),
            }
        }
        Ok(found)
    }

    /// Removes what the policy does not keep of the phase of `place`, and all of an earlier phase. The one with `pinned` batches
    /// done stays; `score` tells the validation accuracy of a checkpoint by its batches done.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn prune(
        &self,
        policy: &Policy,
        place: Place,
        pinned: Option<u64>,
        score: impl Fn(u64) -> Option<f64>,
    ) -> Result<()> {
        let all = self.keyed()?;
        let phase = !place.teacher;
        let entries: Vec<Entry> = all
            .iter()
            .filter(|((students, _), _)| *students == phase)
            .map(|((_, done), _)| Entry { done: *done, score: score(*done) })
            .collect();
        let superfluous = policy.superfluous(&entries, pinned);
        for ((students, done), path) in all {
            let earlier_phase = phase && !students;
            if earlier_phase || (students == phase && superfluous.contains(&done)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes all checkpoints of the seed.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn clear(&self) -> Result<()> {
        self.list()?.iter().try_for_each(|path| remove(path))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(dkd_files::Error::Io { action: "remove", path: path.to_owned(), source }.into())
        }
        _ => Ok(()),
    }
}
