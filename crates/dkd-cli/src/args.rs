//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What `dkd` alone prints.
pub const OVERVIEW: &str = "\
dkd: knowledge distillation for image classifiers

A large network (teacher) helps to train a small one (student).

Three commands to try:
  dkd train --model seed_student --data synthetic --epochs 2 --out runs/first
      trains a small network on generated images, without any download
  dkd table configs/tables/cifar10-fixed.toml --data synthetic --quick
      compares training alone, KD and DKD, and writes a report
  dkd inspect resnet20
      shows a network layer by layer

`dkd --help` lists all commands, `dkd COMMAND --help` their options.
";

/// Knowledge distillation for image classifiers.
#[derive(Debug, Parser)]
#[command(name = "dkd", version, about, after_help = AFTER, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

const AFTER: &str = "\
Examples:
  dkd train --model resnet20 --data auto --dataset cifar10 --epochs 30 --out runs/r20
  dkd distill --config configs/cifar10/dkd.toml --set optimizer.lr=0.02
  dkd eval --model resnet20 --weights runs/r20/last.safetensors --data data --dataset cifar10

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 wrong configuration; 4 missing or damaged data;
5 a loss was not finite; 130 interrupted.";

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// Worker threads; 0 for one per core. Results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// What to log to stderr: off, error, warn, info, debug, trace
    #[arg(long, global = true, default_value = "warn", value_name = "LEVEL")]
    pub log: tracing::level_filters::LevelFilter,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train one network
    #[command(
        after_help = "Example:\n  dkd train --model seed_student --data synthetic --epochs 3 --seed 1 --out runs/a"
    )]
    Train(TrainArgs),
    /// Train one student with a teacher's help
    #[command(
        after_help = "Example:\n  dkd distill --model resnet8 --teacher-model resnet20 --teacher-weights t.safetensors \\\n      --method dkd --beta 2 --data data --epochs 30 --out runs/d"
    )]
    Distill(DistillArgs),
    /// Train all rows of a table and report them
    #[command(
        after_help = "Example:\n  dkd table configs/tables/cifar10-fixed.toml --rows none,kd --seeds 3 --out runs/fixed"
    )]
    Table(TableArgs),
    /// Measure a trained network
    Eval(EvalArgs),
    /// Fetch, list and check data sets
    Data(DataArgs),
    /// Show a network layer by layer; without a name, all networks
    Inspect(InspectArgs),
    /// Measure speed
    Bench(BenchArgs),
    /// Merge result files into a report
    #[command(after_help = "Example:\n  dkd report docs/results --out report")]
    Report(ReportArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Which data.
#[derive(Clone, Debug, Args)]
pub struct DataSource {
    /// Images: `synthetic` (generated), `auto` (data/, else fetched), or a folder
    #[arg(long, value_name = "SOURCE")]
    pub data: Option<String>,
    /// cifar10, cifar100 or synthetic
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
}

/// `dkd train`.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Settings; the options below override them
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override one setting, for example optimizer.lr=0.1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Network; `dkd inspect` lists them
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    #[command(flatten)]
    pub source: DataSource,
    /// Epochs
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Run folder; default runs/MODEL-SEED
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `dkd distill`.
#[derive(Clone, Debug, Args)]
pub struct DistillArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// Teacher's network
    #[arg(long, value_name = "MODEL")]
    pub teacher_model: Option<String>,
    /// Teacher's weights (safetensors); without them it is trained first
    #[arg(long, value_name = "FILE")]
    pub teacher_weights: Option<PathBuf>,
    /// Loss added to the cross-entropy: kd, dkd, tckd, nckd
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Softmax temperature
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// DKD's weight of the target part
    #[arg(long)]
    pub alpha: Option<f64>,
    /// DKD's weight of the non-target part
    #[arg(long)]
    pub beta: Option<f64>,
    /// Epochs over which the added loss grows to its full weight; 20 for dkd, as in its paper, 0 for the others
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
}

/// `dkd table`.
#[derive(Clone, Debug, Args)]
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
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seeds: u64,
    /// First seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Epochs
    #[arg(long, value_name = "N")]
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
}

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
    #[arg(long, value_delimiter = ',', num_args = 3, value_name = "R,G,B")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel
    #[arg(long, value_delimiter = ',', num_args = 3, value_name = "R,G,B")]
    pub std: Option<Vec<f32>>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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
    List,
    /// Read a data set and say what it holds
    Info {
        #[command(flatten)]
        source: DataSource,
    },
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
    #[arg(long, default_value_t = 64, value_name = "N")]
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
    /// Folders with result files
    #[arg(required = true)]
    pub folders: Vec<PathBuf>,
    /// Where report.html, report.md and results.json go
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
}
