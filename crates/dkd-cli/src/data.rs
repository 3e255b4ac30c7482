//! Finding the images that a command asks for.

use crate::output;
use anyhow::{Context, Result, bail};
use dkd_datasets::fetch::{Checked, FetchOptions, fetch};
use dkd_datasets::{Dataset, DatasetSpec, Source, find, spec, synthetic};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// Where data live in this project.
pub const ROOT: &str = "data";

/// Reads the data set, fetching it first if `auto` finds none.
pub fn obtain(dataset: &str, source: &str) -> Result<Dataset> {
    let source = Source::parse(source);
    if let Some(data) = find(dataset, &source, Path::new(ROOT))? {
        return Ok(data);
    }
    let spec = spec(dataset)?;
    output::note(&format!(
        "{dataset} is not in {ROOT}/; fetching {}{} ({} MB). `--data synthetic` needs no download.",
        spec.base_url,
        spec.archive,
        spec.archive_bytes / 1_000_000
    ));
    download(spec, Path::new(ROOT), &FetchOptions::default())
}

/// Fetches with a progress bar.
pub fn download(spec: &'static DatasetSpec, to: &Path, options: &FetchOptions) -> Result<Dataset> {
    let bar = ProgressBar::new(spec.archive_bytes);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.context("the progress bar's template")?);
    let result = fetch(spec, to, options, &mut |received, total| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(received);
    });
    bar.finish_and_clear();
    let (data, checked) = result?;
    if checked == Checked::ContentOnly {
        output::note("no checksum was given for this server: sizes and labels were checked, nothing else");
    }
    Ok(data)
}

/// The data set's name and source from options and configuration: `--data synthetic` decides both.
pub fn names(data: Option<&str>, dataset: Option<&str>, configured: &str) -> Result<(String, String)> {
    let source = data.unwrap_or(if configured == synthetic::NAME { synthetic::NAME } else { "auto" });
    if source == synthetic::NAME {
        return Ok((synthetic::NAME.to_owned(), source.to_owned()));
    }
    let dataset = dataset.unwrap_or(configured);
    if dataset == synthetic::NAME && source != "auto" {
        bail!("the data set `synthetic` is generated; `--data {source}` has no meaning with it");
    }
    Ok((dataset.to_owned(), source.to_owned()))
}
