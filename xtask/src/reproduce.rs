//! `cargo xtask reproduce-cifar10`.

use crate::run::{build_dkd, root, run as start};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask reproduce-cifar10 --data synthetic --quick
      the whole way on generated images, in about two minutes
  cargo xtask reproduce-cifar10 --profile seed
      the replication's table on CIFAR-10 (fetched into data/ if it is not there)
  cargo xtask reproduce-cifar10 --profile fixed --seeds 3 --rows none,kd --results docs/results
      some rows of a table; further calls fill in others, `dkd report` merges them";

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// The replication as it was
    Seed,
    /// With its defects repaired
    Fixed,
    /// One defect repaired at a time
    Ablation,
    /// Our best recipe
    Tuned,
    /// DKD above T = 1
    Nan,
    /// All of them
    All,
}

impl Profile {
    fn tables(self) -> Vec<&'static str> {
        match self {
            Self::Seed => vec!["seed"],
            Self::Fixed => vec!["fixed"],
            Self::Ablation => vec!["ablation"],
            Self::Tuned => vec!["tuned"],
            Self::Nan => vec!["nan"],
            Self::All => vec!["seed", "fixed", "ablation", "tuned", "nan"],
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which table
    #[arg(long, value_enum, default_value = "seed")]
    profile: Profile,
    /// Images: auto (data/, else fetched), synthetic (generated), or a folder
    #[arg(long, default_value = "auto", value_name = "SOURCE")]
    data: String,
    /// Small: four epochs of 10,000 images with small steps, the most telling rows
    #[arg(long)]
    quick: bool,
    /// Number of seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// First seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Epochs, in the place of the table's
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Only these rows
    #[arg(long, value_name = "ID,…")]
    rows: Option<String>,
    /// Where to compute
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Worker threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Folder for weights, results and reports; default runs/reproduce-cifar10
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Further folder that gets a copy of the result files
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// Builds `dkd` and trains the tables.
fn run_tables(args: &Args, dkd: &Path) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| root().join("runs/reproduce-cifar10"));
    let tables = args.profile.tables();
    if tables.len() > 1 && args.rows.is_some() {
        bail!("--rows names rows of one table; choose it with --profile");
    }
    for table in &tables {
        let mut command = Command::new(dkd);
        // `auto` looks for data/ in the current folder.
        command.current_dir(root()).arg("table").arg(format!("configs/tables/cifar10-{table}.toml"));
        command.args(["--data", &args.data, "--device", &args.device]);
        command.args(["--threads", &args.threads.to_string()]);
        command.arg("--out").arg(absolute(&out)?.join(table));
        if args.quick {
            command.arg("--quick");
        }
        let numbers = [
            ("--seeds", args.seeds.map(|n| n.to_string())),
            ("--seed", args.seed.map(|n| n.to_string())),
            ("--epochs", args.epochs.map(|n| n.to_string())),
            ("--rows", args.rows.clone()),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                command.args([name, &value]);
            }
        }
        if let Some(results) = &args.results {
            command.arg("--results").arg(absolute(results)?);
        }
        start(&mut command)?;
    }
    if tables.len() > 1 {
        let mut command = Command::new(dkd);
        command.arg("report").args(tables.iter().map(|t| out.join(t).join("results"))).arg("--out").arg(&out);
        start(&mut command)?;
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// The task.
pub fn run(args: &Args) -> Result<()> {
    let features: &[&str] = if args.device.starts_with("cuda") { &["cuda"] } else { &[] };
    if !features.is_empty() {
        bail!("device `{}`: this version computes on the CPU only", args.device);
    }
    run_tables(args, &build_dkd(features)?)
}
