//! `dkd analyze`.

use super::data::DataSource;
use super::values::{MAX_SEED, three, three_above_0, whole};
use clap::{Args, ValueEnum};
use dkd_trainer::analysis::MAX_POINTS;
use std::path::PathBuf;

/// Which images are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// Training images, without those held out
    Train,
    /// Images that a run held out of training
    Validation,
    /// Test images
    #[default]
    Test,
}

impl SplitName {
    /// In sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// `dkd analyze`.
#[derive(Clone, Debug, Args)]
pub struct AnalyzeArgs {
    /// Folder of a run or table: its losses over time, and its students beside their teacher
    #[arg(conflicts_with = "teacher")]
    pub run: Option<PathBuf>,
    /// Instead of a run: weights of a teacher
    #[arg(long, value_name = "FILE", requires = "student")]
    pub teacher: Option<PathBuf>,
    /// Weights of its students
    #[arg(long, value_name = "FILE,…", value_delimiter = ',', requires = "teacher")]
    pub student: Vec<PathBuf>,
    /// Teacher's network, if its file does not say
    #[arg(long, value_name = "MODEL", requires = "teacher")]
    pub teacher_model: Option<String>,
    /// Students' networks, if their files do not say: one for all, or one for each
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',', requires = "teacher")]
    pub student_model: Vec<String>,
    #[command(flatten)]
    pub source: DataSource,
    /// Which images
    #[arg(long, value_enum, value_name = "SPLIT", default_value = "test")]
    pub split: SplitName,
    /// Only the first N of them
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1, u64::MAX))]
    pub images: Option<usize>,
    /// Softmax temperature of KD, TCKD and NCKD
    #[arg(long, value_name = "T", default_value_t = 4.0)]
    pub temperature: f64,
    /// Most images in the t-SNE pictures; 0 for no such pictures
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<usize>(0, MAX_POINTS as u64))]
    pub points: usize,
    /// Only these rows of a table
    #[arg(long, value_delimiter = ',', value_name = "ID,…", requires = "run")]
    pub rows: Vec<String>,
    /// Seed of a table; by default its first
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, MAX_SEED), requires = "run")]
    pub seed: Option<u64>,
    /// Mean of each channel, for weights whose file does not say; by default the data set's
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel
    #[arg(long, value_name = "R,G,B", value_parser = three_above_0, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Where analysis.html, analysis.json and the pictures go
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object: what analysis.json holds
    #[arg(long)]
    pub json: bool,
}
