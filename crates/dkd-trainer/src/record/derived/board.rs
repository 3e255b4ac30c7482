//! Curves for TensorBoard.

use super::super::curves::{Curves, last_step};
use super::super::tensorboard::ScalarFile;
use super::finite_or_nan;
use crate::{Event, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of the file in each row's folder: always the same, so that a resumed run goes on with it.
const FILE: &str = "events.out.tfevents.dkd";

/// A file for each row.
#[derive(Debug)]
pub(super) struct Board {
    folder: PathBuf,
    seed: u64,
    /// Of the rows that have started.
    files: BTreeMap<String, ScalarFile>,
}

impl Board {
    pub fn new(folder: PathBuf, seed: u64) -> Self {
        Self { folder, seed, files: BTreeMap::new() }
    }

    /// File of a row. Names of configured rows are names of folders already; others need not be.
    fn path(&self, row: &str) -> PathBuf {
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let row: String = row.chars().map(|c| if valid(c) { c } else { '_' }).collect();
        self.folder.join(format!("{row}-{}", self.seed)).join(FILE)
    }

    /// Once all earlier events have been seen: brings everything to the files, and removes those of this seed's rows that
    /// the log knows nothing of, since it was cut back to before they started.
    pub fn settle(&mut self) -> Result<()> {
        self.files.values_mut().try_for_each(ScalarFile::flush)?;
        let known: Vec<PathBuf> = self.files.keys().map(|row| self.path(row)).collect();
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(()) };
        for folder in entries.flatten().map(|e| e.path()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let own = name.rsplit_once('-').is_some_and(|(_, seed)| *seed == self.seed.to_string());
            let file = folder.join(FILE);
            if own && file.is_file() && !known.contains(&file) {
                let io = |source| dkd_files::Error::Io { action: "remove", path: file.clone(), source };
                std::fs::remove_file(&file).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Takes notice of an event that `curves` know already.
    pub fn event(&mut self, event: &Event, curves: &Curves) -> Result<()> {
        match event {
            Event::Started { rows, .. } => {
                for row in rows {
                    self.files.insert(row.clone(), ScalarFile::create(&self.path(row))?);
                }
                Ok(())
            }
            Event::Step { row, step, lr, loss, terms, gradient_norm, .. } => {
                let mut scalars = vec![("train/loss".to_owned(), *loss), ("train/lr".to_owned(), *lr)];
                scalars.extend(gradient_norm.map(|norm| ("train/gradient_norm".to_owned(), norm)));
                scalars.extend(terms.iter().map(|term| (term_tag(&term.name), term.value)));
                self.add(row, *step, scalars)
            }
            Event::Epoch { row, epoch, loss, top1 } => {
                let scalars = vec![("epoch/loss".to_owned(), *loss), ("epoch/top1".to_owned(), *top1)];
                self.add(row, last_step(*epoch, curves.batches(row)), scalars)
            }
            Event::Evaluation { row, epoch, split, metrics } => {
                let all = [("loss", metrics.loss), ("top1", metrics.top1), ("top5", metrics.top5)];
                let scalars = all.map(|(name, value)| (format!("{split}/{name}"), value)).to_vec();
                self.add(row, last_step(*epoch, curves.batches(row)), scalars)?;
                self.files.get_mut(row).map_or(Ok(()), ScalarFile::flush)
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, row: &str, step: u64, mut scalars: Vec<(String, f64)>) -> Result<()> {
        scalars.iter_mut().for_each(|(_, value)| *value = finite_or_nan(*value));
        self.files.get_mut(row).map_or(Ok(()), |file| file.add(step, &scalars))
    }
}

/// The curve of a term; a term may be called as another curve is.
fn term_tag(name: &str) -> String {
    match name {
        "loss" | "lr" | "gradient_norm" => format!("train/term {name}"),
        _ => format!("train/{name}"),
    }
}
