//! `cargo xtask bench`: this engine and PyTorch, in turns, on the same shapes.

use crate::run::{build_dkd, output, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Python that has PyTorch; without it only this engine is measured
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Networks
    #[arg(long, value_delimiter = ',', default_value = "seed_student,resnet20,resnet8x4,resnet32x4")]
    models: Vec<String>,
    /// Images in a batch
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch: usize,
    /// Threads for both
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
    /// Rounds: each measures every candidate once
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4.0, value_name = "S")]
    seconds: f64,
    /// Also write the numbers as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The measurements of one candidate.
struct Candidate {
    name: &'static str,
    rounds: Vec<Value>,
}

impl Candidate {
    fn median(&self, key: &str) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(|r| r[key].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        if values.is_empty() { f64::NAN } else { values[values.len() / 2] }
    }
}

/// Measures and prints a Markdown table.
pub fn run(args: &Args) -> Result<()> {
    let dkd = build_dkd(&[])?;
    println!(
        "| model | ours img/s | GFLOP/s | of peak | memory | PyTorch img/s | channels_last | memory | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut all = Vec::new();
    for model in &args.models {
        let mut candidates = vec![Candidate { name: "dkd", rounds: Vec::new() }];
        if args.torch.is_some() {
            candidates
                .extend(["default", "channels_last"].map(|name| Candidate { name, rounds: Vec::new() }));
        }
        for _ in 0..args.rounds.max(1) {
            for candidate in &mut candidates {
                let text = match (candidate.name, &args.torch) {
                    ("dkd", _) => output(&mut ours(args, &dkd, model))?,
                    (format, Some(python)) => output(&mut torch(args, python, model, format))?,
                    _ => bail!("no Python was given"),
                };
                let last = text.lines().last().context("a measurement prints one line of JSON")?;
                candidate.rounds.push(serde_json::from_str(last)?);
            }
        }
        println!("{}", line(model, &candidates));
        let rounds = candidates.iter().map(|c| json!({"candidate": c.name, "rounds": c.rounds}));
        all.push(json!({"model": model, "candidates": rounds.collect::<Vec<_>>()}));
    }
    println!(
        "\nMedians of {} rounds, in turns; batch {}, {} threads. Operations are those of direct convolutions: a share of the \
         peak above 100 % means that fewer were needed. The ratio is against the better of PyTorch's two layouts.",
        args.rounds.max(1),
        args.batch,
        args.threads
    );
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

fn line(model: &str, candidates: &[Candidate]) -> String {
    let mb = |bytes: f64| if bytes.is_nan() { "–".to_owned() } else { format!("{:.0} MB", bytes / 1e6) };
    let rate = |c: Option<&Candidate>| c.map_or(f64::NAN, |c| c.median("images_per_s"));
    let number = |v: f64| if v.is_nan() { "–".to_owned() } else { format!("{v:.0}") };
    let ours = &candidates[0];
    let (plain, last) = (rate(candidates.get(1)), rate(candidates.get(2)));
    let best = plain.max(last);
    let memory = candidates.iter().skip(1).map(|c| c.median("peak_bytes")).fold(f64::NAN, f64::min);
    let ratio = ours.median("images_per_s") / best;
    format!(
        "| {model} | {} | {:.1} | {:.0} % | {} | {} | {} | {} | {} |",
        number(ours.median("images_per_s")),
        ours.median("gflops"),
        100.0 * ours.median("peak_fraction"),
        mb(ours.median("peak_bytes")),
        number(plain),
        number(last),
        mb(memory),
        if ratio.is_nan() { "–".to_owned() } else { format!("{ratio:.2}x") },
    )
}

fn ours(args: &Args, dkd: &PathBuf, model: &str) -> Command {
    let mut command = Command::new(dkd);
    command.args(["bench", "--mode", "train", "--json", "--model", model]);
    command.args(["--batch", &args.batch.to_string(), "--threads", &args.threads.to_string()]);
    command.args(["--seconds", &args.seconds.to_string()]);
    command
}

fn torch(args: &Args, python: &PathBuf, model: &str, format: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(root().join("xtask/bench/torch_bench.py")).args(["--model", model, "--format", format]);
    command.args(["--batch", &args.batch.to_string(), "--threads", &args.threads.to_string()]);
    command.args(["--seconds", &args.seconds.to_string()]);
    command
}
