//! `cargo xtask check-synthetic`: does the generated data set do what it is for?

use crate::run::{build_dkd, output, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// A larger network is better by at least so many points.
const GAP: f64 = 3.0;
/// Distillation helps by more than so many standard errors.
const ERRORS: f64 = 2.0;
/// No network gets beyond this.
const CEILING: f64 = 97.0;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of seeds
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Worker threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Folder for the runs
    #[arg(long, default_value = "runs/check-synthetic", value_name = "DIR")]
    out: PathBuf,
}

/// Last test accuracies of one row, by seed.
fn accuracies(results: &[Value], row: &str) -> Result<Vec<f64>> {
    let of_row = results.iter().filter(|r| r["row"] == row);
    of_row.map(|r| r["last"].as_f64().with_context(|| format!("`{row}` has no accuracy"))).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Trains and checks.
pub fn run(args: &Args) -> Result<()> {
    let dkd = build_dkd(&[])?;
    let out = std::path::absolute(&args.out)?;
    let mut command = Command::new(dkd);
    command.current_dir(root()).args([
        "table",
        "configs/tables/cifar10-fixed.toml",
        "--data",
        "synthetic",
        "--quick",
    ]);
    command.args([
        "--rows",
        "none,kd",
        "--seeds",
        &args.seeds.to_string(),
        "--threads",
        &args.threads.to_string(),
    ]);
    print!("{}", output(command.arg("--out").arg(&out))?);
    let text = std::fs::read(out.join("results.json")).context("the table has written its results")?;
    let results: Vec<Value> = serde_json::from_slice(&text)?;
    let (teacher, none, kd) =
        (accuracies(&results, "teacher")?, accuracies(&results, "none")?, accuracies(&results, "kd")?);
    let gap = mean(&teacher) - mean(&none);
    let gains: Vec<f64> = kd.iter().zip(&none).map(|(a, b)| a - b).collect();
    let gain = mean(&gains);
    let spread: f64 = gains.iter().map(|g| (g - gain).powi(2)).sum();
    let error = (spread / (gains.len() as f64 - 1.0).max(1.0) / gains.len() as f64).sqrt();
    let best = teacher.iter().chain(&kd).chain(&none).copied().fold(0.0, f64::max);
    println!("teacher {teacher:.2?}, student {none:.2?}, KD student {kd:.2?}");
    println!("teacher - student: {gap:.2} points (at least {GAP})");
    println!(
        "KD - no KD, paired by seed: {gain:.2} points, standard error {error:.2} (more than {ERRORS} of them)"
    );
    println!("best accuracy: {best:.2} % (below {CEILING})");
    if gap < GAP || gain <= ERRORS * error || best >= CEILING {
        bail!("the generated data set does not keep its promises");
    }
    println!("all kept");
    Ok(())
}
