//! `dkd search`.

use super::data::DataSource;
use super::values::{MAX_EPOCHS, whole};
use clap::Args;
use std::path::PathBuf;

/// `dkd search`.
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Search: a file of configs/search
    pub file: PathBuf,
    #[command(flatten)]
    pub source: DataSource,
    /// Trials, instead of those in the file
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1, 100_000))]
    pub trials: Option<usize>,
    /// Epochs of a trial, instead of those in the file
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1, MAX_EPOCHS))]
    pub epochs: Option<usize>,
    /// Folder for search.json and the report; default runs/search-NAME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with a search that was stopped, or that is to have more trials
    #[arg(long)]
    pub resume: bool,
    /// Print one JSON object: what search.json holds
    #[arg(long)]
    pub json: bool,
}
