//! `cargo xtask bench`: this engine and PyTorch, in turns, on the same shapes.

use crate::run::{build_dkd, output, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Python that has PyTorch; without it only this engine is measured
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Networks; `all` for every one that takes 32x32 images
    #[arg(long, value_delimiter = ',', default_value = "seed_student,resnet20,resnet8x4,resnet32x4")]
    models: Vec<String>,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "train", value_parser = ["train", "infer"])]
    modes: Vec<String>,
    /// Networks that PyTorch also compiles first (needs a C++ compiler)
    #[arg(long, value_delimiter = ',', value_name = "MODELS")]
    compile: Vec<String>,
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

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Dkd,
    Default,
    ChannelsLast,
    Compiled,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Dkd => "dkd",
            Self::Default => "default",
            Self::ChannelsLast => "channels_last",
            Self::Compiled => "compiled",
        }
    }
}

/// The measurements of one candidate.
struct Candidate {
    who: Who,
    rounds: Vec<Value>,
}

impl Candidate {
    fn median(&self, key: &str) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(|r| r[key].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        if values.is_empty() { f64::NAN } else { values[values.len() / 2] }
    }
}

/// Measures and prints a Markdown table for each mode.
pub fn run(args: &Args) -> Result<()> {
    let dkd = build_dkd(&[])?;
    let models = models(args, &dkd)?;
    let descriptions = tempfile::tempdir()?;
    let mut all = Vec::new();
    for mode in &args.modes {
        println!(
            "| {mode} | ours img/s | GFLOP/s | of peak | GB/s | memory | PyTorch img/s | channels_last | compiled | memory | ratio |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
        let mut ratios = Vec::new();
        for model in &models {
            let description = descriptions.path().join(format!("{model}.json"));
            let text =
                output(Command::new(&dkd).args(["inspect", model, "--description", "--classes", CLASSES]))?;
            std::fs::write(&description, text)?;
            let candidates = measure(args, &dkd, model, mode, &description)?;
            println!("{}", line(model, &candidates));
            let ratio = ratio(&candidates);
            ratios.extend(Some(ratio).filter(|r| !r.is_nan()));
            let rounds = candidates.iter().map(|c| json!({"candidate": c.who.name(), "rounds": c.rounds}));
            let rounds = rounds.collect::<Vec<_>>();
            all.push(json!({"model": model, "mode": mode, "candidates": rounds, "ratio": ratio}));
        }
        if ratios.len() > 1 {
            let mean = ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64;
            println!("\nGeometric mean of {} ratios: {:.2}x.\n", ratios.len(), mean.exp());
        }
    }
    println!(
        "\nMedians of {} rounds, in turns; batch {}, {} threads. Operations are those of direct convolutions: a share of the \
         peak above 100 % means that fewer were needed. GB/s are the maps that planned steps read and write. The ratio is against the best of PyTorch's.",
        args.rounds.max(1),
        args.batch,
        args.threads
    );
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

/// Number of classes of what is measured.
const CLASSES: &str = "100";

/// The networks that were asked for.
fn models(args: &Args, dkd: &Path) -> Result<Vec<String>> {
    if args.models != ["all"] {
        return Ok(args.models.clone());
    }
    let list: Vec<Value> = serde_json::from_str(&output(Command::new(dkd).args(["inspect", "--json"]))?)?;
    Ok(list.iter().filter_map(|m| m["model"].as_str()).map(str::to_owned).collect())
}

/// All candidates in turns.
fn measure(args: &Args, dkd: &Path, model: &str, mode: &str, description: &Path) -> Result<Vec<Candidate>> {
    let mut who = vec![Who::Dkd];
    if args.torch.is_some() {
        who.extend([Who::Default, Who::ChannelsLast]);
        if args.compile.iter().any(|m| m == model) {
            who.push(Who::Compiled);
        }
    }
    let mut candidates: Vec<Candidate> =
        who.into_iter().map(|who| Candidate { who, rounds: Vec::new() }).collect();
    for _ in 0..args.rounds.max(1) {
        for candidate in &mut candidates {
            let mut command = match (candidate.who, &args.torch) {
                (Who::Dkd, _) => ours(dkd),
                (who, Some(python)) => torch(python, who, description),
                _ => bail!("no Python was given"),
            };
            command.args(["--model", model, "--mode", mode, "--classes", CLASSES]);
            command.args(["--batch", &args.batch.to_string(), "--threads", &args.threads.to_string()]);
            command.args(["--seconds", &args.seconds.to_string()]);
            let text = output(&mut command)?;
            let last = text.lines().last().context("a measurement prints one line of JSON")?;
            candidate.rounds.push(serde_json::from_str(last)?);
        }
    }
    Ok(candidates)
}

fn rate(candidates: &[Candidate], who: Who) -> f64 {
    candidates.iter().find(|c| c.who == who).map_or(f64::NAN, |c| c.median("images_per_s"))
}

/// Ours over the best of the others.
fn ratio(candidates: &[Candidate]) -> f64 {
    let others = [Who::Default, Who::ChannelsLast, Who::Compiled].map(|who| rate(candidates, who));
    rate(candidates, Who::Dkd) / others.into_iter().fold(f64::NAN, f64::max)
}

fn line(model: &str, candidates: &[Candidate]) -> String {
    let mb = |bytes: f64| if bytes.is_nan() { "–".to_owned() } else { format!("{:.0} MB", bytes / 1e6) };
    let number = |v: f64| if v.is_nan() { "–".to_owned() } else { format!("{v:.0}") };
    let ours = &candidates[0];
    let memory = candidates.iter().skip(1).map(|c| c.median("peak_bytes")).fold(f64::NAN, f64::min);
    let ratio = ratio(candidates);
    format!(
        "| {model} | {} | {:.1} | {:.0} % | {:.1} | {} | {} | {} | {} | {} | {} |",
        number(ours.median("images_per_s")),
        ours.median("gflops"),
        100.0 * ours.median("peak_fraction"),
        ours.median("gb_per_s"),
        mb(ours.median("peak_bytes")),
        number(rate(candidates, Who::Default)),
        number(rate(candidates, Who::ChannelsLast)),
        number(rate(candidates, Who::Compiled)),
        mb(memory),
        if ratio.is_nan() { "–".to_owned() } else { format!("{ratio:.2}x") },
    )
}

fn ours(dkd: &Path) -> Command {
    let mut command = Command::new(dkd);
    command.args(["bench", "--json"]);
    command
}

fn torch(python: &Path, who: Who, description: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(root().join("xtask/python/torch_bench.py")).arg("--description").arg(description);
    // Compiled code is faster with channels last here as well.
    command.args(["--format", if who == Who::Default { "default" } else { "channels_last" }]);
    if who == Who::Compiled {
        command.arg("--compile");
    }
    command
}
