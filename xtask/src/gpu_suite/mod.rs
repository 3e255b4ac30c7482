//! `cargo xtask gpu-suite`: what checks and measures a GPU, made ready to be carried to one.

mod folder;
mod prepare;
#[cfg(all(test, unix))]
mod script_tests;
mod start;

use crate::run::{cargo, run as start};
use anyhow::{Result, bail};
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask gpu-suite --emulated
      the whole suite in small, with the CPU in the place of a GPU
  cargo xtask gpu-suite --prepare runs/gpu
      programs, reference values and scripts; then, on a computer with a GPU: runs/gpu/trip-1/run.sh
  cargo xtask gpu-suite --prepare runs/gpu --data data --dataset cifar10
      also a data set, in trips of its own: their files go beside run.sh";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make the folders that are carried, below DIR, which must not exist
    #[arg(long, value_name = "DIR", required_unless_present = "emulated")]
    prepare: Option<PathBuf>,
    /// Run the suite here, in small
    #[arg(long, conflicts_with = "prepare")]
    emulated: bool,
    /// Folder of a data set that goes along
    #[arg(long, value_name = "DIR", requires = "prepare")]
    data: Option<PathBuf>,
    /// Which it is
    #[arg(long, default_value = "cifar10", value_name = "NAME", value_parser = ["cifar10", "cifar100"])]
    dataset: String,
    /// Python that has pip
    #[arg(long, default_value = "python3", value_name = "PYTHON")]
    python: PathBuf,
}

/// Prepares, or runs in small.
pub fn run(args: &Args) -> Result<()> {
    if let Some(folder) = &args.prepare {
        if folder.exists() {
            bail!("{} exists; choose another --prepare or remove it", folder.display());
        }
        let data = args.data.as_deref().map(|data| (data, args.dataset.as_str()));
        return prepare::prepare(folder, data, &args.python);
    }
    let mut command = cargo("run");
    command.args(["--release", "-p", "dkd-gpu-suite", "--", "--device", "emulated"]);
    start(&mut command)
}
