//! A table of all epochs, for spreadsheets and data frames.

use super::super::curves::{Curve, last_step};
use super::finite_or_nan;
use crate::{Event, Metrics, Result};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// The names of the columns.
pub(in crate::record) const COLUMNS: [&str; 12] = [
    "seed",
    "row",
    "epoch",
    "step",
    "train_loss",
    "train_top1",
    "validation_loss",
    "validation_top1",
    "validation_top5",
    "test_loss",
    "test_top1",
    "test_top5",
];

/// The file and what it holds.
#[derive(Debug)]
pub(super) struct CsvTable {
    path: PathBuf,
    /// Row and text of every line but the first.
    lines: Vec<(String, Vec<u8>)>,
    /// Nothing is written before all earlier events have been seen.
    file: Option<File>,
}

impl CsvTable {
    pub fn new(path: PathBuf) -> Self {
        Self { path, lines: Vec::new(), file: None }
    }

    /// Begins the file, with all lines so far.
    pub fn open(&mut self) -> Result<()> {
        let mut text = line(&COLUMNS.map(str::to_owned));
        self.lines.iter().for_each(|(_, line)| text.extend(line));
        let written = File::create(&self.path).and_then(|mut file| file.write_all(&text).map(|()| file));
        self.file = Some(written.map_err(|source| self.io(source))?);
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> dkd_files::Error {
        dkd_files::Error::Io { action: "write", path: self.path.clone(), source }
    }

    /// Takes notice of an event, and of the line of the epoch that it completes.
    pub fn event(&mut self, event: &Event, line: Option<(String, Vec<u8>)>) -> Result<()> {
        if let Event::Started { rows, .. } = event {
            // Begun anew: what there was of these rows no longer counts.
            let before = self.lines.len();
            self.lines.retain(|(row, _)| !rows.contains(row));
            if self.lines.len() < before && self.file.is_some() {
                self.open()?;
            }
        }
        if let Some((row, text)) = line {
            if let Some(file) = &mut self.file {
                file.write_all(&text).map_err(|source| self.io(source))?;
            }
            self.lines.push((row, text));
        }
        Ok(())
    }
}

/// The line of a row's last epoch.
pub(super) fn epoch_line(row: &str, curve: &Curve) -> Vec<u8> {
    let number = |value: f64| finite_or_nan(value).to_string();
    let three = |m: Option<Metrics>| match m {
        Some(m) => [m.loss, m.top1, m.top5].map(number),
        None => Default::default(),
    };
    let (epoch, point) = (curve.epochs.len(), curve.epochs.last());
    let mut fields = vec![curve.seed.to_string(), row.to_owned(), epoch.to_string()];
    fields.push(last_step(epoch, curve.batches).to_string());
    fields.extend(point.map_or_else(Default::default, |p| [p.train_loss, p.train_top1].map(number)));
    fields.extend(three(point.and_then(|p| p.validation)));
    fields.extend(three(point.map(|p| p.test)));
    line(&fields)
}

fn line(fields: &[String]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields).expect("memory takes everything");
    writer.into_inner().expect("memory takes everything")
}
