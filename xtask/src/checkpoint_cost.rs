//! `cargo xtask checkpoint-cost`: what checkpoints cost a training run.

use crate::run::{build_dkd, run as start};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Share of the time that checkpoints may cost.
const LIMIT: f64 = 0.02;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Network
    #[arg(long, default_value = "resnet20", value_name = "MODEL")]
    model: String,
    /// Batches between two checkpoints
    #[arg(long, default_value_t = 200, value_name = "N")]
    every: u64,
    /// Epochs of 10,000 images in each run
    #[arg(long, default_value_t = 6, value_name = "N")]
    epochs: u64,
    /// Pairs of runs, one with checkpoints and one without
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A program to measure instead of the one built here
    #[arg(long, value_name = "FILE")]
    dkd: Option<PathBuf>,
    /// Folder for the runs, which must not exist
    #[arg(long, default_value = "runs/checkpoint-cost", value_name = "DIR")]
    out: PathBuf,
}

/// Trains in turns with and without checkpoints.
pub fn run(args: &Args) -> Result<()> {
    let dkd = match &args.dkd {
        Some(path) => path.clone(),
        None => build_dkd(&[])?,
    };
    if args.out.exists() {
        bail!("{} exists; choose another --out or remove it", args.out.display());
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        // The order changes, so that a machine that slows down favours neither.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        for checkpoints in order {
            let every = if checkpoints { args.every } else { 0 };
            let out = args.out.join(format!("{round}-{every}"));
            let seconds = train(&dkd, args, every, &out)?;
            println!("round {}, checkpoints every {every} batches: {seconds:.2} s", round + 1);
            if checkpoints { with.push(seconds) } else { without.push(seconds) }
        }
    }
    std::fs::remove_dir_all(&args.out).with_context(|| format!("cannot remove {}", args.out.display()))?;
    let (with, without) = (median(&mut with), median(&mut without));
    let cost = with / without - 1.0;
    println!(
        "{}: {with:.2} s with a checkpoint every {} batches, {without:.2} s with none: {:+.2} % (limit {:.0} %)",
        args.model,
        args.every,
        100.0 * cost,
        100.0 * LIMIT
    );
    if cost > LIMIT {
        bail!("checkpoints cost more than they may");
    }
    Ok(())
}

fn train(dkd: &Path, args: &Args, every: u64, out: &Path) -> Result<f64> {
    let mut command = Command::new(dkd);
    command.args(["train", "--model", &args.model, "--data", "synthetic"]);
    command.args(["--epochs", &args.epochs.to_string()]).arg("--out").arg(out);
    let settings = [
        format!("checkpoints.every_steps={every}"),
        "checkpoints.every_epochs=0".to_owned(),
        "checkpoints.every_minutes=0".to_owned(),
        "data.test_limit=100".to_owned(),
    ];
    for setting in settings {
        command.args(["--set", &setting]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    start(&mut command)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// The middle one, or the mean of the two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
