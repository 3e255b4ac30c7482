//! Accuracy curves of a table.

use super::summary::{Profile, Row};
use crate::chart::{Line, Plot, lines};
use anyhow::Result;

/// Test accuracy of every row over the epochs: own curves as lines, published ones as dots.
pub fn curves(profile: &Profile) -> Result<String> {
    let published = |r: &Row| -> Vec<f64> {
        r.published.as_ref().filter(|_| !r.synthetic).map(|p| p.curve.clone()).unwrap_or_default()
    };
    let rows: Vec<Accuracies> = profile
        .rows
        .iter()
        .map(|r| Accuracies { label: r.label.clone(), own: r.curve.clone(), published: published(r) })
        .collect();
    accuracies(&rows)
}

/// Test accuracies of a row, epoch by epoch, in percent.
pub struct Accuracies {
    /// Name in the legend.
    pub label: String,
    /// Measured.
    pub own: Vec<f64>,
    /// From elsewhere.
    pub published: Vec<f64>,
}

/// Draws the accuracies of several rows.
pub fn accuracies(rows: &[Accuracies]) -> Result<String> {
    let all = rows.iter().flat_map(|r| r.own.iter().chain(&r.published));
    let longest = rows.iter().map(|r| r.own.len().max(r.published.len())).max().unwrap_or(1).max(2);
    let (low, high) = all.fold((100.0_f64, 0.0_f64), |(l, h), v| (l.min(*v), h.max(*v)));
    let (low, high) = ((low - 2.0).max(0.0).floor(), (high + 2.0).min(100.0).ceil().max(low + 1.0));
    // What is no share of anything is not drawn.
    let points = |curve: &[f64]| -> Vec<(f64, f64)> {
        let numbered = curve.iter().enumerate().filter(|(_, v)| (0.0..=100.0).contains(*v));
        numbered.map(|(e, v)| ((e + 1) as f64, *v)).collect()
    };
    let line =
        |r: &Accuracies| Line { label: r.label.clone(), points: points(&r.own), dots: points(&r.published) };
    lines(&Plot {
        x: "epoch",
        y: "test accuracy, %",
        x_range: (1.0, longest as f64),
        y_range: (low, high),
        lines: rows.iter().map(line).collect(),
        dots: rows.iter().any(|r| !r.published.is_empty()).then_some("published logs"),
    })
}
