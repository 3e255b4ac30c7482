//! `dkd table`.

use super::data::DataSource;
use super::train::ResumeArgs;
use super::values::{MAX_EPOCHS, MAX_SEED, whole};
use clap::Args;
use std::path::PathBuf;

/// `dkd table`.
#[derive(Clone, Debug, Default, Args)]
pub struct TableArgs {
    /// Table: a file of configs/tables
    pub file: PathBuf,
    /// Override one setting, for example rows.kd.optimizer.lr=0.1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub source: DataSource,
    /// Only these rows
    #[arg(long, value_delimiter = ',', value_name = "ID,…")]
    pub rows: Vec<String>,
    /// Number of seeds, from the table's first on
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = whole::<u64>(1, MAX_SEED))]
    pub seeds: u64,
    /// First seed
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, MAX_SEED))]
    pub seed: Option<u64>,
    /// Epochs
    #[arg(long, value_name = "N", value_parser = whole::<usize>(0, MAX_EPOCHS))]
    pub epochs: Option<usize>,
    /// Small: four epochs of 10,000 images with small steps, the rows marked `quick`
    #[arg(long)]
    pub quick: bool,
    /// Folder for weights, results and the report; default runs/TABLE
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Further folder that gets a copy of the result files
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
    #[command(flatten)]
    pub resume: ResumeArgs,
}
