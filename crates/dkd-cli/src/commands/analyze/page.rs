//! The analysis as one self-contained page.

use super::result::Analysis;
use super::{pictures, tables};
use crate::page::{Page, Section};
use anyhow::Result;
use std::path::Path;

/// Everything that is shown, with the pictures drawn.
fn sections(analysis: &Analysis) -> Result<Vec<Section>> {
    let mut all = Vec::new();
    let section = |title: &str, tables, figures| Section { title: title.to_owned(), tables, figures };
    if let Some(run) = &analysis.run {
        if run.results.iter().any(|r| !r.epochs.is_empty()) {
            all.push(section("Accuracy", vec![tables::accuracy(run)], vec![pictures::accuracy(run)?]));
        }
        all.push(section("Loss", vec![tables::terms(run)], Vec::new()));
        for curve in &run.terms {
            all.push(section(&format!("Loss of {}", curve.row), Vec::new(), pictures::terms(curve)?));
        }
    }
    if let Some(pairs) = &analysis.pairs {
        let [networks, agreement, distance, gradients] = tables::pairs(pairs);
        all.push(section("Confidence", vec![networks], vec![pictures::calibration(pairs)?]));
        all.push(section("Student and teacher", vec![agreement, distance, gradients], Vec::new()));
        let drawn = pictures::correlation(pairs)?.into_iter().chain(pictures::planes(pairs)?);
        all.push(section("Classes", Vec::new(), drawn.collect()));
    }
    Ok(all)
}

/// Writes the page and its pictures.
pub fn write(analysis: &Analysis, folder: &Path) -> Result<()> {
    let of_run = analysis.run.as_ref().map(|r| format!("{}, seed {}", r.folder, r.seed));
    let of_pairs = analysis.pairs.as_ref().map(|p| {
        let names: Vec<&str> = p.students.iter().map(|s| s.network.file.as_str()).collect();
        format!("{}; teacher {}", names.join(", "), p.teacher.file)
    });
    let subject = of_run.or(of_pairs).unwrap_or_default();
    let sections = sections(analysis)?;
    let page = Page { heading: "Analysis", subject, notes: &analysis.notes, sections: &sections };
    page.write(folder, "analysis.html")
}
