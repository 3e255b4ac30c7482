//! The event log together with what is derived from it while it grows: tables and curves for other programs.

mod board;
mod csv_table;

use self::board::Board;
use self::csv_table::CsvTable;
use super::curves::Curves;
use super::jsonl::JsonLines;
use super::read::EventReader;
use crate::checkpoint::LogMark;
use crate::{Error, Event, Result, Sink};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

#[cfg(test)]
pub(super) use self::csv_table::COLUMNS;

/// Which files are derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derive {
    /// `metrics.csv` beside `events.jsonl`, `metrics-0.csv` beside `events-0.jsonl`: a line for each row and epoch.
    pub csv: bool,
    /// `tensorboard/<row>-<seed>/`: a folder of TensorBoard's for each row.
    pub tensorboard: bool,
}

/// An event log and the files that are derived from it.
///
/// The log is the record. The others are made anew from it whenever a run begins, goes on or goes back, so that they hold
/// every point once; TensorBoard's wall times are then those of the rebuilding.
#[derive(Debug)]
pub struct Records {
    log: JsonLines,
    derive: Derive,
    seed: u64,
    derived: Option<Derived>,
}

#[derive(Debug, Default)]
struct Derived {
    curves: Curves,
    csv: Option<CsvTable>,
    board: Option<Board>,
}

impl Records {
    /// Goes on with the log of a run with this seed.
    ///
    /// # Errors
    /// The log is damaged; a file cannot be written.
    pub fn new(log: JsonLines, derive: Derive, seed: u64) -> Result<Self> {
        let mut records = Self { log, derive, seed, derived: None };
        records.rebuild(u64::MAX)?;
        Ok(records)
    }

    /// Makes the derived files from the first `bytes` bytes of the log.
    fn rebuild(&mut self, bytes: u64) -> Result<()> {
        if self.derive == Derive::default() {
            return Ok(());
        }
        let path = self.log.path();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut derived = Derived {
            curves: Curves::default(),
            csv: self.derive.csv.then(|| CsvTable::new(folder.join(csv_name(path)))),
            board: self.derive.tensorboard.then(|| Board::new(folder.join("tensorboard"), self.seed)),
        };
        let io = |source| dkd_files::Error::Io { action: "read", path: path.to_owned(), source };
        let log = File::open(path).map_err(io)?;
        for event in EventReader::new(BufReader::new(log.take(bytes)), path) {
            derived.event(&event?, path)?;
        }
        if let Some(csv) = &mut derived.csv {
            csv.open()?;
        }
        if let Some(board) = &mut derived.board {
            board.settle()?;
        }
        self.derived = Some(derived);
        Ok(())
    }
}

impl Derived {
    fn event(&mut self, event: &Event, log: &Path) -> Result<()> {
        let complete = self.curves.event(event);
        let complete = complete.map_err(|message| Error::Record { path: log.to_owned(), message })?;
        let line = complete.map(|(row, curve)| (row.to_owned(), csv_table::epoch_line(row, curve)));
        if let Some(csv) = &mut self.csv {
            csv.event(event, line)?;
        }
        match &mut self.board {
            Some(board) => board.event(event, &self.curves),
            None => Ok(()),
        }
    }
}

impl Sink for Records {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.log.event(event)?;
        match &mut self.derived {
            Some(derived) => derived.event(event, self.log.path()),
            None => Ok(()),
        }
    }

    fn mark(&mut self) -> Result<Option<LogMark>> {
        self.log.mark()
    }

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        self.log.rewind(bytes)?;
        self.rebuild(bytes)
    }
}

/// Name of the table that belongs to a log.
fn csv_name(log: &Path) -> PathBuf {
    let stem = log.file_stem().unwrap_or_default().to_string_lossy();
    let rest = stem.strip_prefix("events").map_or_else(|| format!("-{stem}"), str::to_owned);
    PathBuf::from(format!("metrics{rest}.csv"))
}

/// A log has no infinities: what is not finite is NaN, whether it is seen now or read again.
fn finite_or_nan(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::NAN }
}
