//! Tables, curves and verdicts from records alone.

mod chart;
mod collect;
mod compare;
mod html;
mod markdown;
mod merge;
mod summary;
mod track;

#[cfg(test)]
mod tests;

use crate::output::{columns, shorten};
use anyhow::{Context, Result};
use dkd_trainer::record::RowResult;
use std::path::Path;
use summary::{Profile, profiles};

pub use chart::{Accuracies, accuracies};
pub use collect::{collect, names};
pub use merge::merge;

/// Writes `results.json`, `report.md` with a picture for each table, and `report.html`, which needs no other file.
pub fn write(results: &[RowResult], folder: &Path) -> Result<()> {
    let profiles = profiles(results);
    let charts = profiles.iter().map(chart::curves).collect::<Result<Vec<_>>>()?;
    let mut json = serde_json::to_vec_pretty(results).context("results are JSON")?;
    json.push(b'\n');
    dkd_files::atomic_write_bytes(&folder.join("results.json"), &json)?;
    dkd_files::atomic_write_bytes(&folder.join("report.md"), markdown::render(&profiles).as_bytes())?;
    dkd_files::atomic_write_bytes(&folder.join("report.html"), html::render(&profiles, &charts)?.as_bytes())?;
    for (profile, chart) in profiles.iter().zip(&charts) {
        dkd_files::atomic_write_bytes(&folder.join(markdown::picture(profile)), chart.as_bytes())?;
    }
    Ok(())
}

/// The tables for a terminal of 80 columns.
pub fn terminal(results: &[RowResult]) -> String {
    profiles(results).iter().map(terminal_table).collect::<Vec<_>>().join("\n")
}

fn terminal_table(profile: &Profile) -> String {
    let (published, changes, verdicts) =
        (profile.has_published(), profile.has_changes(), profile.has_verdicts());
    let pick = |row: [String; 6]| pick(row, [true, true, published, published, changes, verdicts]);
    let head = ["row", "accuracy", "published", "difference", "change", "verdict"];
    let mut rows = vec![pick(head.map(str::to_owned))];
    for row in &profile.rows {
        rows.push(pick([
            row.label.clone(),
            row.accuracy(),
            row.published_text(),
            row.difference_text(),
            row.change
                .as_ref()
                .map_or_else(String::new, |c| format!("{} vs {}", c.text(), shorten(&c.from, 11))),
            shorten(&row.verdict(), 18),
        ]));
    }
    shorten_labels(&mut rows);
    let mut text = format!("{} ({})\n", profile.name, profile.metric_text());
    if profile.synthetic {
        text.push_str("Generated images: not comparable with published numbers.\n");
    }
    text.push_str(&columns(&rows, 1));
    for row in &profile.rows {
        if let Some(incomplete) = row.incomplete_text() {
            text.push_str(&format!("{}: {incomplete}\n", row.label));
        }
    }
    text.push_str(&on_track(profile));
    text
}

/// The rows beside their logs, if there are any.
fn on_track(profile: &Profile) -> String {
    let lines = track::lines(profile);
    if lines.is_empty() {
        return String::new();
    }
    let head = track::HEAD.map(str::to_owned);
    let mut rows: Vec<Vec<String>> = std::iter::once(head).chain(lines).map(Vec::from).collect();
    shorten_labels(&mut rows);
    format!("\nOn track?\n{}{}\n", columns(&rows, 1), track::REMARKS.join("\n"))
}

/// A row without the columns that say nothing in its table.
fn pick<const N: usize>(row: [String; N], wanted: [bool; N]) -> Vec<String> {
    row.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(cell, _)| cell).collect()
}

/// Makes the first column as narrow as a terminal of 80 columns needs it.
fn shorten_labels(rows: &mut [Vec<String>]) {
    let others = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let taken: usize = (1..others).map(|c| width(c) + 2).sum();
    for row in rows {
        row[0] = shorten(&row[0], 80_usize.saturating_sub(taken).max(12));
    }
}
