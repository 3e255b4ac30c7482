//! `dkd debug`.

use super::data::DataSource;
use super::values::{MAX_SEED, whole};
use clap::Args;
use std::path::PathBuf;

/// `dkd debug`.
#[derive(Clone, Debug, Args)]
pub struct DebugArgs {
    /// Folder of the run or table
    pub run: PathBuf,
    /// Step over all epochs, from 0; by default the one at which a loss or gradient was not finite
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
    /// With --step: a step of the teacher's own training
    #[arg(long, requires = "step")]
    pub teacher: bool,
    /// Only this row
    #[arg(long, value_name = "ID")]
    pub row: Option<String>,
    /// Seed; by default the run's first
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, MAX_SEED))]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub source: DataSource,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}
