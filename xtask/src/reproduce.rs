//! `cargo xtask reproduce-cifar10`.

use crate::device::Device;
use crate::run::{root, run as start};
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// First seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Epochs, in the place of the table's
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Only these rows
    #[arg(long, value_name = "ID,…")]
    rows: Option<String>,
    #[command(flatten)]
    device: Device,
    /// Worker threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Folder for weights, results and reports; default runs/reproduce-cifar10, with -synthetic and -quick appended
    /// where they apply
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on where the same command was stopped
    #[arg(long)]
    resume: bool,
    /// Further folder that gets a copy of the result files
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// Builds `dkd` and trains the tables.
fn run_tables(args: &Args, dkd: &Path) -> Result<()> {
    let out = match &args.out {
        Some(folder) => absolute(folder)?,
        None => root().join("runs").join(default_folder(&args.data, args.quick)),
    };
    let data = source(&args.data)?;
    let tables = args.profile.tables();
    if tables.len() > 1 && args.rows.is_some() {
        bail!("--rows names rows of one table; choose it with --profile");
    }
    for table in &tables {
        let mut command = Command::new(dkd);
        // `auto` looks for data/ in the current folder; all that the caller named has become absolute.
        command.current_dir(root()).arg("table").arg(format!("configs/tables/cifar10-{table}.toml"));
        command.arg("--data").arg(&data);
        args.device.pass(&mut command);
        command.args(["--threads", &args.threads.to_string()]);
        command.arg("--out").arg(out.join(table));
        for (flag, name) in [(args.quick, "--quick"), (args.resume, "--resume")] {
            if flag {
                command.arg(name);
            }
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

/// From the caller's folder.
fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// Images that are generated.
const SYNTHETIC: &str = "synthetic";

/// `--data` for `dkd`, which runs in another folder: `auto` and `synthetic` are names, everything else is a folder.
fn source(data: &str) -> Result<PathBuf> {
    if ["auto", SYNTHETIC].contains(&data) { Ok(data.into()) } else { absolute(Path::new(data)) }
}

/// Folder under `runs/` without `--out`: minutes on generated images or few epochs must not replace the results of hours.
fn default_folder(data: &str, quick: bool) -> String {
    let synthetic = if data == SYNTHETIC { "-synthetic" } else { "" };
    let quick = if quick { "-quick" } else { "" };
    format!("reproduce-cifar10{synthetic}{quick}")
}

/// The task.
pub fn run(args: &Args) -> Result<()> {
    run_tables(args, &args.device.dkd()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_do_not_share_a_folder_with_full_runs() {
        let cases = [
            ("auto", false, "reproduce-cifar10"),
            ("some/where", false, "reproduce-cifar10"),
            ("auto", true, "reproduce-cifar10-quick"),
            (SYNTHETIC, false, "reproduce-cifar10-synthetic"),
            (SYNTHETIC, true, "reproduce-cifar10-synthetic-quick"),
        ];
        for (data, quick, expected) in cases {
            assert_eq!(default_folder(data, quick), expected);
        }
    }

    #[test]
    fn folders_are_the_callers_and_names_stay_names() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(source("auto").unwrap(), Path::new("auto"));
        assert_eq!(source("synthetic").unwrap(), Path::new("synthetic"));
        assert_eq!(source("./auto").unwrap(), here.join("auto"));
        assert_eq!(source("some/where").unwrap(), here.join("some/where"));
        assert_eq!(source(here.to_str().unwrap()).unwrap(), here);
    }
}
