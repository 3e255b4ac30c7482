//! Which data, and `dkd data`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which data.
#[derive(Clone, Debug, Default, Args)]
pub struct DataSource {
    /// Images: `synthetic` (generated), `auto` (data/, else fetched), or a folder
    #[arg(long, value_name = "SOURCE")]
    pub data: Option<String>,
    /// cifar10, cifar100, synthetic, folder (image files, one folder per class), or parquet
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
}

/// `dkd data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// What to do with data sets
    #[command(subcommand)]
    pub command: DataCommand,
}

/// `dkd data …`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Download, check and unpack a data set
    #[command(
        after_help = "Examples:\n  dkd data fetch cifar10\n  dkd data fetch cifar100 --url https://example.org/mirror/ --to /scratch/data"
    )]
    Fetch {
        /// cifar10 or cifar100
        dataset: String,
        /// Another server: the archive's name is appended
        #[arg(long, value_name = "BASE")]
        url: Option<String>,
        /// SHA-256 that the archive must have
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Where to
        #[arg(long, default_value = "data", value_name = "DIR")]
        to: PathBuf,
    },
    /// List the data sets that can be fetched
    #[command(after_help = "Example:\n  dkd data list")]
    List,
    /// Read a data set and say what it holds
    #[command(after_help = "Example:\n  dkd data info --data data --dataset cifar100")]
    Info {
        #[command(flatten)]
        source: DataSource,
    },
}
