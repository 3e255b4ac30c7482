//! Finding the images that a command asks for.

use crate::download::download;
use crate::output;
use crate::signals::stoppable;
use anyhow::{Result, bail};
use dkd_datasets::fetch::FetchOptions;
use dkd_datasets::folder::Size;
use dkd_datasets::{Dataset, Source, find, spec, synthetic};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Where data live in this project.
pub const ROOT: &str = "data";

/// Reads the data set, fetching it first if `auto` finds none, until `stop` is set; `size` is that of the images of a folder.
pub fn obtain_until(dataset: &str, source: &str, size: Option<Size>, stop: &AtomicBool) -> Result<Dataset> {
    match here(dataset, source, size)? {
        Some(data) => Ok(data),
        None => fetched(dataset, stop),
    }
}

/// [`obtain_until`] a signal comes, for commands that do not listen to signals.
pub fn obtain(dataset: &str, source: &str, size: Option<Size>) -> Result<Dataset> {
    match here(dataset, source, size)? {
        Some(data) => Ok(data),
        None => stoppable(|stop| fetched(dataset, stop)),
    }
}

/// Reads the data set; `None` if it would have to be fetched.
pub fn here(dataset: &str, source: &str, size: Option<Size>) -> Result<Option<Dataset>> {
    Ok(find(dataset, &Source::parse(source), Path::new(ROOT), size)?)
}

fn fetched(dataset: &str, stop: &AtomicBool) -> Result<Dataset> {
    let spec = spec(dataset)?;
    output::note(&format!(
        "{dataset} is not in {ROOT}/; fetching {}{} ({} MB). `--data synthetic` needs no download.",
        spec.base_url,
        spec.archive,
        spec.archive_bytes / 1_000_000
    ));
    download(spec, Path::new(ROOT), &FetchOptions::default(), stop)
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
