//! The command line: the program, its commands, and what all of them take. Their options are in a file for each family.

mod analyze;
mod data;
mod debug;
mod runs;
mod search;
mod table;
#[cfg(test)]
mod tests;
mod tools;
mod train;
mod values;

pub use analyze::{AnalyzeArgs, SplitName};
pub use data::{DataArgs, DataCommand, DataSource};
pub use debug::DebugArgs;
pub use runs::{RUNS, RunsArgs, RunsCommand};
pub use search::SearchArgs;
pub use table::TableArgs;
pub use tools::{
    BenchArgs, BenchMode, ClassifyArgs, EvalArgs, ExportArgs, ExportFormat, InspectArgs, ReportArgs,
    WeightsArgs,
};
pub use train::{DistillArgs, ResumeArgs, TrainArgs};

use clap::{Args, Parser, Subcommand};
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

`dkd runs list` shows what was trained, and what was stopped and can go on.
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
5 a loss was not finite; 130 stopped by a signal (`--resume` goes on; after a
download, the same command).";

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// Worker threads; 0 for one per core. Results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE", value_parser = values::device)]
    pub device: String,
    /// Maps between layers, and products on a CUDA device: f32, bf16, or tf32 (CUDA). Weights and sums are f32
    #[arg(long, global = true, default_value = "f32", value_name = "KIND", value_parser = ["f32", "tf32", "bf16"])]
    pub precision: String,
    /// Python environment or folder with NVIDIA's libraries, if they are not the system's
    #[arg(long, global = true, value_name = "DIR")]
    pub cuda_libraries: Option<PathBuf>,
    /// Convolutions on a CUDA device: by cuDNN's rules, or those that are measured once to be fastest: of those that give the same bits in
    /// every run, or of all
    #[arg(long, global = true, default_value = "rules", value_name = "KIND", value_parser = ["rules", "measured", "fastest"])]
    pub cuda_algorithms: String,
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
    /// Search for settings, on images held out of training
    #[command(
        after_help = "The file names a run's settings, the keys to search over and a strategy: grid, random, tpe or halving. Test \
                      images are never looked at.\n\n\
                      Examples:\n  dkd search configs/search/dkd-cifar10.toml\n  dkd search configs/search/dkd-cifar10.toml --trials 40 --resume"
    )]
    Search(SearchArgs),
    /// Measure a trained network
    #[command(
        after_help = "Examples:\n  dkd eval --weights runs/a/last.safetensors --data synthetic\n  dkd eval --model resnet20_a --weights resnet20.th --data data --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
    )]
    Eval(EvalArgs),
    /// Say what is on images
    #[command(
        after_help = "The middle of an image is resized to the network's size.\n\nExample:\n  dkd classify --weights runs/a/last.safetensors cat.png dog.jpg"
    )]
    Classify(ClassifyArgs),
    /// Write a trained network as safetensors, for PyTorch, or as ONNX
    #[command(
        after_help = "Examples:\n  dkd export --weights runs/a/last.safetensors --out student.onnx --fold-batch-norm --normalize\n  dkd export --model resnet20_a --weights resnet20.th --out resnet20.safetensors"
    )]
    Export(ExportArgs),
    /// Fetch, list and check data sets
    #[command(after_help = "Examples:\n  dkd data fetch cifar10\n  dkd data info --dataset cifar100")]
    Data(DataArgs),
    /// Show a network layer by layer; without a name, all networks
    #[command(
        after_help = "Examples:\n  dkd inspect resnet20 --classes 100\n  dkd inspect teacher.pth\n  dkd inspect ShuffleV2 --description > mine.json"
    )]
    Inspect(InspectArgs),
    /// Measure speed
    #[command(
        after_help = "Examples:\n  dkd bench --model resnet8x4 --mode infer --batch 128 --threads 1\n  dkd bench --model MobileNetV2 --profile"
    )]
    Bench(BenchArgs),
    /// Make a report of runs and tables, also of those that stopped or are still running
    #[command(
        after_help = "Examples:\n  dkd report runs/a runs/b --out report\n  dkd report docs/results --out report"
    )]
    Report(ReportArgs),
    /// List, show, compare, resume and clean runs
    #[command(after_help = "Examples:\n  dkd runs list\n  dkd runs resume runs/resnet20-0")]
    Runs(RunsArgs),
    /// Look into one step of a run: ranges of values and gradients, layer by layer
    #[command(
        after_help = "Examples:\n  dkd debug runs/a\n      the step at which a loss or gradient was not finite\n  dkd debug runs/table --row kd --step 1200 --seed 1"
    )]
    Debug(DebugArgs),
    /// Understand a distillation: losses over time, and students beside their teacher
    #[command(
        after_help = "Answers, confidence, calibration, KD, TCKD and NCKD, gradients, correlations between classes; with --out also \
                      pictures, t-SNE among them (the same in every call).\n\n\
                      Examples:\n  dkd analyze runs/dkd --out analysis\n  dkd analyze runs/table --rows kd,dkd --seed 1\n  \
                      dkd analyze --teacher t.safetensors --student kd.safetensors,dkd.pth --student-model resnet20 \\\n      \
                      --data data --dataset cifar100 --out analysis"
    )]
    Analyze(AnalyzeArgs),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  dkd completions bash > ~/.local/share/bash-completion/completions/dkd"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}
