//! What looks at a network or a record: `dkd eval`, `inspect`, `bench`, `report`.

use super::data::DataSource;
use super::values::{MAX_BATCH, image_size, three, three_above_0, whole};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Weights and the network that they belong to.
#[derive(Clone, Debug, Args)]
pub struct WeightsArgs {
    /// Weights: safetensors, or a file of PyTorch's torch.save of any age
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// Network: a name that `dkd inspect` lists, or a description (.toml, .json); by default what the weights' file says
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Which weights, if the file holds several: keys and the beginning of names, with dots
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Load what fits and say what does not
    #[arg(long)]
    pub lenient: bool,
}

/// `dkd eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    #[command(flatten)]
    pub source: DataSource,
    /// Mean of each channel; by default what the weights' file says, else the data set's
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel
    #[arg(long, value_name = "R,G,B", value_parser = three_above_0, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Show all classes, however many
    #[arg(long)]
    pub per_class: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A format of weights or networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Weights with what is known of them
    Safetensors,
    /// Weights for `torch.load(weights_only=True)`: a dictionary with `state_dict`
    Pth,
    /// The network with its weights, for evaluation
    Onnx,
}

/// `dkd export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Format; by default what the file's name ends in
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<ExportFormat>,
    /// Number of classes; by default what the weights say
    #[arg(long, value_name = "N")]
    pub classes: Option<usize>,
    /// Channels, height and width of the images; by default what the weights' file says, else 3x32x32
    #[arg(long, value_name = "CxHxW", value_parser = image_size)]
    pub image: Option<(usize, usize, usize)>,
    /// ONNX: batch norms become part of the convolutions before them
    #[arg(long)]
    pub fold_batch_norm: bool,
    /// ONNX: the network takes pixels from 0 to 255 and normalises them itself
    #[arg(long)]
    pub normalize: bool,
    /// Mean of each channel; by default what the weights' file says
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel
    #[arg(long, value_name = "R,G,B", value_parser = three_above_0, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Names of the classes, one to a line; by default what the weights' file says
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
}

/// `dkd classify`.
#[derive(Clone, Debug, Args)]
pub struct ClassifyArgs {
    /// Images: PNG, JPEG, WebP
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Number of classes; by default what the weights say
    #[arg(long, value_name = "N")]
    pub classes: Option<usize>,
    /// Names of the classes, one to a line; by default what the weights' file says
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Mean of each channel; by default what the weights' file says
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel
    #[arg(long, value_name = "R,G,B", value_parser = three_above_0, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Answers to show
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub top: usize,
    /// Print one JSON list
    #[arg(long)]
    pub json: bool,
}

/// `dkd inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Network: a name of the list, or a description (.toml, .json); or a file of weights
    #[arg(value_name = "MODEL|FILE")]
    pub model: Option<String>,
    /// Number of classes
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub classes: usize,
    /// Channels, height and width of the images
    #[arg(long, default_value = "3x32x32", value_name = "CxHxW", value_parser = image_size)]
    pub image: (usize, usize, usize),
    /// Which weights, if the file holds several
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Print the network as a description that can be edited and given in the place of a name
    #[arg(long)]
    pub description: bool,
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
    /// Channels, height and width of the images
    #[arg(long, default_value = "3x32x32", value_name = "CxHxW", value_parser = image_size)]
    pub image: (usize, usize, usize),
    /// Seconds to measure
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    pub seconds: f64,
    /// Show what every planned step takes
    #[arg(long)]
    pub profile: bool,
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
