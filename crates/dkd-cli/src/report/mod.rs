//! Tables, curves and verdicts from result files alone.

mod chart;
mod html;
mod markdown;
mod summary;

#[cfg(test)]
mod tests;

use crate::output::{columns, shorten};
use anyhow::{Context, Result};
use dkd_trainer::record::RowResult;
use std::path::Path;
use summary::{Profile, profiles};

/// Writes `results.json`, `report.md` and `report.html`.
pub fn write(results: &[RowResult], folder: &Path) -> Result<()> {
    let profiles = profiles(results);
    let mut json = serde_json::to_vec_pretty(results).context("results are JSON")?;
    json.push(b'\n');
    dkd_files::atomic_write_bytes(&folder.join("results.json"), &json)?;
    dkd_files::atomic_write_bytes(&folder.join("report.md"), markdown::render(&profiles).as_bytes())?;
    dkd_files::atomic_write_bytes(&folder.join("report.html"), html::render(&profiles)?.as_bytes())?;
    Ok(())
}

/// The tables for a terminal of 80 columns.
pub fn terminal(results: &[RowResult]) -> String {
    profiles(results).iter().map(terminal_table).collect::<Vec<_>>().join("\n")
}

fn terminal_table(profile: &Profile) -> String {
    let mut rows =
        vec![["row", "accuracy", "published", "difference", "verdict"].map(str::to_owned).to_vec()];
    for row in &profile.rows {
        rows.push(vec![
            shorten(&row.label, 30),
            row.accuracy(),
            row.published_text(),
            row.difference_text(),
            shorten(&row.verdict(), 18),
        ]);
    }
    let mut text = format!("{} ({})\n", profile.name, profile.metric_text());
    if profile.synthetic {
        text.push_str("Generated images: not comparable with published numbers.\n");
    }
    text + &columns(&rows, 1)
}
