//! `dkd train` and `dkd distill`, and how a stopped run goes on.

use super::data::DataSource;
use super::values::{MAX_EPOCHS, MAX_SEED, records, whole};
use clap::Args;
use dkd_trainer::record::Derive;
use std::path::PathBuf;

/// `dkd train`.
#[derive(Clone, Debug, Default, Args)]
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
    #[arg(long, value_name = "N", value_parser = whole::<usize>(0, MAX_EPOCHS))]
    pub epochs: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, MAX_SEED))]
    pub seed: Option<u64>,
    /// Run folder; default runs/MODEL-SEED
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub resume: ResumeArgs,
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
    /// Loss added to the cross-entropy: kd, dkd, tckd, nckd, dist, nkd, mlkd, ttm, wttm, ctkd, rld, sdd
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Softmax temperature
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Weight of the target part (dkd, rld, sdd)
    #[arg(long)]
    pub alpha: Option<f64>,
    /// Weight of the non-target part (dkd, rld, sdd), of the correlation between classes (dist)
    #[arg(long)]
    pub beta: Option<f64>,
    /// Epochs over which the added loss grows to its full weight; 20 for dkd, rld and sdd, as their authors have it, 0 for the others
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
}

/// What a run leaves beside its log, and going on with one that was stopped.
#[derive(Clone, Debug, Default, Args)]
pub struct ResumeArgs {
    /// Go on where a run in the same folder was stopped; results are those of a run that was not
    #[arg(long)]
    pub resume: bool,
    /// With --resume: a setting that may differ from the stopped run's, for example train.epochs
    #[arg(long, value_name = "KEY", requires = "resume")]
    pub change: Vec<String>,
    /// What to write beside the event log: csv, tensorboard, both as csv,tensorboard, or none
    #[arg(long, value_name = "KINDS", default_value = "csv", value_parser = records)]
    pub record: Derive,
}
