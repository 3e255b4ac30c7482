//! `dkd runs compare`.

use super::find;
use super::folder::Run;
use super::list::tail;
use crate::commands::settings::differences;
use crate::output::{self, columns, shorten};
use anyhow::{Context, Result};
use dkd_trainer::record::{DataInfo, RowResult};
use std::path::PathBuf;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// The widest that keys and rows become.
const KEY: usize = 36;

/// The narrowest that a run's column becomes.
const CELL: usize = 8;

/// Parts of settings that only reports print.
const WORDS: [&str; 4] = ["title", "description", "published", "log"];

/// Shows what differs between runs.
pub fn compare(folders: &[PathBuf]) -> Result<()> {
    let mut runs = Vec::new();
    for folder in folders {
        find::check(folder)?;
        let run = Run::read(folder).with_context(|| format!("`{}` is damaged", folder.display()))?;
        if let Some(reason) = run.damage() {
            output::note(&format!("`{}` is damaged: {reason}", folder.display()));
        }
        runs.push(run);
    }
    output::text(&format!("{}\n{}\n{}", settings(&runs)?, accuracies(&runs), data(&runs)))
}

/// A column for each run, as wide as a terminal lets it be.
fn side_by_side(head: &str, runs: &[Run], rows: Vec<(String, Vec<String>)>) -> String {
    let folders = runs.iter().map(|r| r.folder.display().to_string()).collect();
    let mut all = vec![(head.to_owned(), folders)];
    all.extend(rows);
    let keys = all.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(KEY);
    let room = (WIDTH.saturating_sub(keys) / runs.len().max(1)).saturating_sub(2).max(CELL);
    let cells = all.into_iter().enumerate().map(|(line, (key, values))| {
        let short = |v: String| if line == 0 { tail(&v, room) } else { shorten(&v, room) };
        std::iter::once(tail(&key, KEY)).chain(values.into_iter().map(short)).collect()
    });
    columns(&cells.collect::<Vec<_>>(), 1)
}

fn settings(runs: &[Run]) -> Result<String> {
    let texts: Vec<String> = runs.iter().map(|r| r.recipe.to_toml()).collect();
    let mut found = differences(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    found.retain(|(key, _)| !key.split('.').any(|part| WORDS.contains(&part)));
    if found.is_empty() {
        return Ok("all settings are the same\n".to_owned());
    }
    Ok(side_by_side("setting", runs, found))
}

fn accuracies(runs: &[Run]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for result in runs.iter().flat_map(Run::all_results) {
        if !names.contains(&result.row.as_str()) {
            names.push(&result.row);
        }
    }
    let rows =
        names.into_iter().map(|name| (name.to_owned(), runs.iter().map(|run| accuracy(run, name)).collect()));
    side_by_side("top-1 after the last epoch", runs, rows.collect())
}

/// The last accuracy of a row: the mean of its whole results, with their number if there are several, else how far it is.
fn accuracy(run: &Run, row: &str) -> String {
    let own = |r: &&RowResult| r.row == row;
    let last: Vec<f64> = run.results.iter().filter(own).filter_map(|r| r.last).collect();
    match (&last[..], run.under_way.iter().find(own)) {
        ([], None) => "none".to_owned(),
        ([], Some(r)) => {
            let so_far = format!("({}/{})", r.epochs.len(), r.planned_epochs);
            r.last.map_or_else(|| so_far.clone(), |v| format!("{v:.2} {so_far}"))
        }
        ([one], _) => format!("{one:.2}"),
        (several, _) => {
            let n = several.len();
            format!("{:.2} (n={n})", several.iter().sum::<f64>() / n as f64)
        }
    }
}

/// Whether all were trained on the same images.
fn data(runs: &[Run]) -> String {
    let known: Vec<_> = runs.iter().map(Run::data).collect();
    let describe = |(run, data): (&Run, &Option<&DataInfo>)| {
        let folder = run.folder.display();
        match data {
            Some(d) => format!("  {folder}: {} {}…\n", d.name, d.sha256.chars().take(12).collect::<String>()),
            None => format!("  {folder}: nothing says which\n"),
        }
    };
    let all: String = runs.iter().zip(&known).map(describe).collect();
    if known.contains(&None) {
        return format!("whether the images are the same cannot be told:\n{all}");
    }
    if known.windows(2).any(|pair| pair[0].map(|d| &d.sha256) != pair[1].map(|d| &d.sha256)) {
        return format!(
            "WARNING: the images differ, so the accuracies say nothing about the settings:\n{all}"
        );
    }
    let name = known.first().copied().flatten().map_or("", |d| &d.name);
    format!("images: the same, {name}\n")
}
