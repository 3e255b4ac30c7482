//! The command line.

use anyhow::{Result, bail};
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand};
use dkd_gpu_suite::{Part, Sizes, precision};
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_trainer::Arithmetic;
use std::path::{Path, PathBuf};

/// Checks and measures a GPU: reference values, the CPU's results, training runs, speed.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What is run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The device: cuda, cuda:N, emulated (the CPU in its place, in small)
    #[arg(long, default_value = "cuda:0", value_name = "DEVICE")]
    pub device: String,
    /// A Python environment, its site-packages, or a folder, with NVIDIA's libraries
    #[arg(long, value_name = "DIR")]
    pub libraries: Option<PathBuf>,
    /// Convolutions: by cuDNN's rules, or those that are measured once to be fastest: of those that give the same bits in every run, or of
    /// all
    #[arg(long, default_value = "rules", value_name = "KIND", value_parser = ["rules", "measured", "fastest"])]
    algorithms: String,
    /// Begin every kernel only when the one before it has ended
    #[arg(long)]
    pub in_turn: bool,
    /// Reference values [default: fixtures/models beside this program, else the repository's]
    #[arg(long, value_name = "DIR")]
    goldens: Option<PathBuf>,
    /// Folder of a data set for curves and measurements, in the place of generated images
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which data set: cifar10, cifar100
    #[arg(long, default_value = "cifar10", value_name = "NAME")]
    pub dataset: String,
    /// Parts: goldens, compare, curves, bench, profile, answers
    #[arg(
        long,
        overrides_with = "parts",
        value_delimiter = ',',
        default_value = "goldens,compare,curves,bench,profile,answers"
    )]
    parts: Vec<String>,
    /// Networks [default: all; for measurements and on the emulated machine a choice]
    #[arg(long, overrides_with = "models", value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// What `bench` measures: networks, pair (a student of DKD), cohort (several students in one step)
    #[arg(
        long,
        overrides_with = "bench",
        value_delimiter = ',',
        default_value = "networks,pair,cohort",
        value_parser = ["networks", "pair", "cohort"]
    )]
    bench: Vec<String>,
    /// Batches of the measurements [default: 64,512]
    #[arg(long, overrides_with = "batches", value_delimiter = ',', value_name = "N")]
    batches: Vec<usize>,
    /// How the device computes
    #[arg(long, overrides_with = "precisions", value_delimiter = ',', default_value = "f32,tf32,bf16")]
    precisions: Vec<String>,
    /// Seconds of each measurement [default: 2]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Steps of the curves [default: 100]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Begin no case later than so many seconds after the start
    #[arg(long, value_name = "S")]
    pub limit: Option<u64>,
    /// Threads of the CPU
    #[arg(long, default_value_t = threads(), value_name = "N")]
    pub threads: usize,
    /// Also write all results as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// As many as there are processors.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Precisions of these names.
pub fn precisions(names: &[String]) -> Result<Vec<Arithmetic>> {
    names.iter().map(|name| precision(name)).collect()
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Pack a data set in CIFAR's binary layout without loss, in parts
    Pack {
        /// Its folder
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Which it is: cifar10, cifar100
        #[arg(long, default_value = "cifar10", value_name = "NAME")]
        dataset: String,
        /// Where to: FILE, or FILE.1, FILE.2 and so on
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Largest part, in MB
        #[arg(long, default_value = "55", value_name = "MB", value_parser = clap::value_parser!(u16).range(4..=500).map(usize::from))]
        megabytes: usize,
    },
    /// Show the results of several runs as one table
    Merge {
        /// What `--out` has written; of a result that is there twice, the last counts
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// PyTorch's rates, as `gpu_torch.py --out` has written them
        #[arg(long, value_name = "FILE")]
        torch: Vec<PathBuf>,
        /// Where all results are written as JSON
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Ask cuDNN which engines it would take for networks' convolutions on a device that is not here
    Engines {
        /// The device's properties, in cuDNN's JSON
        #[arg(long, value_name = "FILE")]
        properties: PathBuf,
        /// A Python environment, its site-packages, or a folder, with NVIDIA's libraries
        #[arg(long, value_name = "DIR")]
        libraries: Option<PathBuf>,
        /// Networks [default: those of the measurements, and the replication's]
        #[arg(long, value_delimiter = ',', value_name = "MODEL")]
        models: Vec<String>,
        /// Images in a batch
        #[arg(long, default_value_t = 64, value_name = "N")]
        batch: usize,
        /// How the device computes
        #[arg(long, value_delimiter = ',', default_value = "f32,tf32,bf16")]
        precisions: Vec<String>,
        /// Also show every kind of convolution with its engine
        #[arg(long)]
        list: bool,
    },
    /// Unpack all parts of a data set into a folder that `--data` takes
    Unpack {
        /// The parts
        #[arg(required = true, value_name = "FILE")]
        parts: Vec<PathBuf>,
        /// Where to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

impl RunArgs {
    /// Folder of the reference values.
    pub fn goldens(&self) -> PathBuf {
        if let Some(folder) = &self.goldens {
            return folder.clone();
        }
        // Where it is this program cannot tell without /proc: then it has been started in its folder.
        let program = std::env::current_exe().unwrap_or_default();
        let beside = program.parent().unwrap_or(Path::new("")).join("fixtures/models");
        // From where this repository is built, and run.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dkd-models/tests/fixtures/golden/models");
        if own.is_dir() && !beside.is_dir() { own } else { beside }
    }

    /// The parts that were asked for.
    pub fn parts(&self) -> Result<Vec<Part>> {
        let known = |name: &String| match Part::ALL.into_iter().find(|part| part.name() == name) {
            Some(part) => Ok(part),
            None => bail!(
                "--parts: there is no part `{name}`; expected goldens, compare, curves, bench, profile or answers"
            ),
        };
        let asked: Vec<Part> = self.parts.iter().map(known).collect::<Result<_>>()?;
        Ok(Part::ALL.into_iter().filter(|part| asked.contains(part)).collect())
    }

    /// The precisions that were asked for.
    pub fn precisions(&self) -> Result<Vec<Arithmetic>> {
        precisions(&self.precisions)
    }

    /// How convolutions are chosen.
    pub fn algorithms(&self) -> Algorithms {
        Algorithms::named(&self.algorithms).unwrap_or_default()
    }

    /// The networks that were asked for; none for all.
    pub fn models(&self) -> Vec<String> {
        if self.models.is_empty() && self.device == "emulated" {
            return ["resnet8", "ShuffleV1", "MobileNetV2"].map(str::to_owned).to_vec();
        }
        self.models.clone()
    }

    /// How much of everything.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = if self.device == "emulated" { Sizes::small() } else { Sizes::full() };
        if !self.models.is_empty() {
            sizes.bench_models.clone_from(&self.models);
            sizes.profile_models.retain(|model| self.models.contains(model));
            sizes.answer_models.clone_from(&self.models);
        }
        let wants = |what: &str| self.bench.iter().any(|name| name == what);
        if !wants("networks") {
            sizes.bench_models.clear();
        }
        sizes.pair = sizes.pair.filter(|_| wants("pair"));
        sizes.cohorts.retain(|_| wants("cohort"));
        if !self.batches.is_empty() {
            sizes.batches.clone_from(&self.batches);
        }
        sizes.seconds = self.seconds.unwrap_or(sizes.seconds);
        sizes.steps = self.steps.unwrap_or(sizes.steps);
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_an_option_counts() {
        let given = "suite --batches 64,512 --seconds 2 --batches 8 --seconds 1";
        let sizes = Cli::try_parse_from(given.split(' ')).unwrap().run.sizes();
        assert_eq!((sizes.batches, sizes.seconds), (vec![8], 1.0));
    }

    #[test]
    fn some_measurements_can_be_left_out() {
        let sizes = |given: &str| Cli::try_parse_from(given.split(' ')).unwrap().run.sizes();
        let all = sizes("suite");
        assert!(!all.bench_models.is_empty() && all.pair.is_some() && !all.cohorts.is_empty());
        let pair = sizes("suite --bench networks --bench pair");
        assert!(pair.bench_models.is_empty() && pair.pair.is_some() && pair.cohorts.is_empty());
    }

    #[test]
    fn names_are_known_or_refused() {
        let run = |args: &[&str]| Cli::try_parse_from([&["suite"], args].concat()).unwrap().run;
        let all = run(&[]);
        assert_eq!(all.parts().unwrap(), Part::ALL);
        assert_eq!(all.precisions().unwrap().len(), 3);
        assert_eq!(run(&["--parts", "bench,compare"]).parts().unwrap(), [Part::Compare, Part::Bench]);
        assert!(run(&["--parts", "speed"]).parts().unwrap_err().to_string().contains("`speed`"));
        assert!(run(&["--precisions", "f16"]).precisions().unwrap_err().to_string().contains("`f16`"));
    }
}
