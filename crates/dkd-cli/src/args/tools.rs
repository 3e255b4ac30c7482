//! What looks at a network or a record: `dkd eval`, `inspect`, `bench`, `report`.

use super::data::DataSource;
use super::values::{MAX_BATCH, three, three_above_0, whole};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `dkd eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// Network; by default what the weights' file says
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Weights (safetensors)
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    #[command(flatten)]
    pub source: DataSource,
    /// Mean of each channel; by default what the weights' file says, else the data set's
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel
    #[arg(long, value_name = "R,G,B", value_parser = three_above_0, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `dkd inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Network
    pub model: Option<String>,
    /// Number of classes
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub classes: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchMode {
    /// Forward, cross-entropy, backward, SGD
    Train,
    /// Forward in evaluation mode
    Infer,
}

/// `dkd bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Network
    #[arg(long, default_value = "resnet20", value_name = "MODEL")]
    pub model: String,
    /// What is measured
    #[arg(long, value_enum, default_value = "train")]
    pub mode: BenchMode,
    /// Images in a batch
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = whole::<usize>(1, MAX_BATCH))]
    pub batch: usize,
    /// Number of classes
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub classes: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    pub seconds: f64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `dkd report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Folders of runs or tables, finished or not, or of result files
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Where report.html, report.md and results.json go
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
}
