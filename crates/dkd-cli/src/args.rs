//! The command line.

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Largest seed: configurations store seeds as TOML's numbers, which have a sign.
const MAX_SEED: u64 = i64::MAX as u64;

/// Most epochs: random numbers count them in 32 bits.
const MAX_EPOCHS: u64 = u32::MAX as u64;

/// Most images in a batch.
const MAX_BATCH: u64 = dkd_datasets::MAX_BATCH as u64;

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
5 a loss was not finite; 130 stopped by a signal (`--resume` goes on).";

/// Options of all commands.
#[derive(Debug, Args)]
pub struct Common {
    /// Worker threads; 0 for one per core. Results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE", value_parser = device)]
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
    #[command(
        after_help = "Examples:\n  dkd eval --weights runs/a/last.safetensors --data synthetic\n  dkd eval --model resnet20 --weights r20.safetensors --data data --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
    )]
    Eval(EvalArgs),
    /// Fetch, list and check data sets
    #[command(after_help = "Examples:\n  dkd data fetch cifar10\n  dkd data info --dataset cifar100")]
    Data(DataArgs),
    /// Show a network layer by layer; without a name, all networks
    #[command(after_help = "Example:\n  dkd inspect resnet20 --classes 100")]
    Inspect(InspectArgs),
    /// Measure speed
    #[command(after_help = "Example:\n  dkd bench --model resnet8x4 --mode infer --batch 128 --threads 1")]
    Bench(BenchArgs),
    /// Merge result files into a report
    #[command(after_help = "Example:\n  dkd report docs/results --out report")]
    Report(ReportArgs),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  dkd completions bash > ~/.local/share/bash-completion/completions/dkd"
    )]
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

/// Going on with a run that was stopped.
#[derive(Clone, Debug, Args)]
pub struct ResumeArgs {
    /// Go on where a run in the same folder was stopped; results are those of a run that was not
    #[arg(long)]
    pub resume: bool,
    /// With --resume: a setting that may differ from the stopped run's, for example train.epochs
    #[arg(long, value_name = "KEY", requires = "resume")]
    pub change: Vec<String>,
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
    /// Folders with result files
    #[arg(required = true)]
    pub folders: Vec<PathBuf>,
    /// Where report.html, report.md and results.json go
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
}

/// A whole number from `least` to `most`.
fn whole<T: TryFrom<u64>>(least: u64, most: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(least..=most)
}

/// `cpu`, `cuda` or `cuda:N`.
fn device(text: &str) -> Result<String, String> {
    let number = |n: &str| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok();
    if matches!(text, "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(number) {
        return Ok(text.to_owned());
    }
    Err(format!("there is no device `{text}`; expected `cpu`, `cuda` or `cuda:N`, N counting from 0"))
}

/// Three finite numbers with commas between them.
fn three(text: &str) -> Result<[f32; 3], String> {
    const EXPECTED: &str = "expected three numbers with commas between them, such as 0.5,0.5,0.5";
    let mut values = Vec::new();
    for part in text.split(',') {
        let value: f32 = part.trim().parse().map_err(|_| format!("`{part}` is not a number; {EXPECTED}"))?;
        if !value.is_finite() {
            return Err(format!("`{part}` is not finite; {EXPECTED}"));
        }
        values.push(value);
    }
    <[f32; 3]>::try_from(values).map_err(|v| format!("{} numbers were given; {EXPECTED}", v.len()))
}

/// Three finite numbers above 0.
fn three_above_0(text: &str) -> Result<[f32; 3], String> {
    let values = three(text)?;
    match values.iter().find(|v| **v <= 0.0) {
        Some(v) => Err(format!("a standard deviation of {v} cannot be divided by; expected numbers above 0")),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, String> {
        Cli::try_parse_from(std::iter::once(&"dkd").chain(args)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_options_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn three_numbers_make_a_normalisation() {
        let eval = ["eval", "--weights", "w", "--mean", "0.5, 0,-1e-3", "--std", "0.25,0.5,1"];
        let Some(Command::Eval(args)) = parse(&eval).unwrap().command else { panic!("another command") };
        assert_eq!((args.mean, args.std), (Some([0.5, 0.0, -1e-3]), Some([0.25, 0.5, 1.0])));
        for (text, expected) in [
            ("0.5,0.5", "2 numbers were given"),
            ("1,2,3,4", "4 numbers were given"),
            ("0.5", "such as 0.5,0.5,0.5"),
            ("0.5,x,0.5", "`x` is not a number"),
            ("0.5,,0.5", "`` is not a number"),
            ("0.5,nan,0.5", "`nan` is not finite"),
            ("0.5,0.5,1e99", "`1e99` is not finite"),
        ] {
            for option in ["--mean", "--std"] {
                let message = parse(&["eval", "--weights", "w", option, text]).unwrap_err();
                assert!(message.contains(option) && message.contains(expected), "{message}");
            }
        }
        for text in ["0.5,0,0.5", "-1,1,1"] {
            let message = parse(&["eval", "--weights", "w", "--std", text]).unwrap_err();
            assert!(message.contains("above 0"), "{message}");
        }
        assert!(parse(&["eval", "--weights", "w", "--mean", "0.5", "0.5", "0.5"]).is_err());
    }

    #[test]
    fn devices_have_names() {
        for known in ["cpu", "cuda", "cuda:0", "cuda:1", "cuda:12"] {
            assert_eq!(parse(&["inspect", "--device", known]).unwrap().common.device, known);
        }
        for unknown in ["gpu", "CPU", "cuda:", "cuda:9x", "cuda:+1", "cuda1", "cuda:99999999999"] {
            let message = parse(&["inspect", "--device", unknown]).unwrap_err();
            let expected = ["`cpu`", "`cuda`", "`cuda:N`", &*format!("`{unknown}`")];
            assert!(expected.iter().all(|e| message.contains(e)), "{message}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        let most = i64::MAX.to_string();
        let over = (i64::MAX as u64 + 1).to_string();
        for args in [&["train"][..], &["distill"], &["table", "t.toml"]] {
            let with = |seed: &str| parse(&[args, &["--seed", seed]].concat());
            assert!(with(&most).is_ok() && with("0").is_ok());
            for seed in [&*over, "18446744073709551615"] {
                let message = with(seed).unwrap_err();
                assert!(message.contains("--seed") && message.contains(&format!("0..={most}")), "{message}");
            }
            let message = parse(&[args, &["--epochs", "4294967296"]].concat()).unwrap_err();
            assert!(message.contains("0..=4294967295"), "{message}");
        }
        let message = parse(&["table", "t.toml", "--seeds", "0"]).unwrap_err();
        assert!(message.contains("--seeds") && message.contains("1..="), "{message}");
        for batch in ["0", "65537"] {
            let message = parse(&["bench", "--batch", batch]).unwrap_err();
            assert!(message.contains("1..=65536"), "{message}");
        }
    }
}
