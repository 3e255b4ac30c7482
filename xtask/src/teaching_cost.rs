//! `cargo xtask teaching-cost`: what distillation costs beside a student's own training.
//!
//! Times are those that `dkd table` states for its rows: of the steps, with the row's share of the teacher's, and without the time for
//! which batches were waited for. The kinds of runs take turns, and the median over the rounds counts.

use crate::checkpoint_cost::median;
use crate::run::{build_dkd, run as start};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Students that share a teacher.
const STUDENTS: usize = 8;

/// What the cohort may take, of the time that follows from one student's and the teacher's.
const COHORT: f64 = 1.05;

/// What a step with a cached teacher may take, of one without a teacher.
const CACHED: f64 = 1.10;

/// What a step may take with the loss of KD or DKD, of one with cross-entropy alone.
const LOSS: f64 = 1.03;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Teacher and student
    #[arg(long, default_values = ["resnet56", "resnet20"], num_args = 2, value_names = ["TEACHER", "STUDENT"])]
    pair: Vec<String>,
    /// Share of eight runs that eight students together may take, in percent; by default what follows from the times of teacher
    /// and student, and 5 percent of that
    #[arg(long, value_name = "PERCENT")]
    limit: Option<f64>,
    /// Images: synthetic (ten classes), or a folder with CIFAR-100, whose hundred classes make the losses dearer
    #[arg(long, default_value = "synthetic", value_name = "SOURCE")]
    data: String,
    /// Images of an epoch
    #[arg(long, default_value_t = 2560, value_name = "N", value_parser = clap::value_parser!(u64).range(64..=10_000))]
    images: u64,
    /// Runs of each kind
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A program to measure instead of the one built here
    #[arg(long, value_name = "FILE")]
    dkd: Option<PathBuf>,
    /// Folder for the runs, which must not exist
    #[arg(long, default_value = "runs/teaching-cost", value_name = "DIR")]
    out: PathBuf,
}

/// The seconds of a table's rows, by row.
type Seconds = BTreeMap<String, f64>;

/// Measures and compares.
pub fn run(args: &Args) -> Result<()> {
    let dkd = match &args.dkd {
        Some(path) => path.clone(),
        None => build_dkd(&[])?,
    };
    if args.out.exists() {
        bail!("{} exists; choose another --out or remove it", args.out.display());
    }
    std::fs::create_dir_all(&args.out)?;
    let file = args.out.join("teaching-cost.toml");
    std::fs::write(&file, table(args)).with_context(|| format!("cannot write {}", file.display()))?;
    let all: Vec<String> = (0..STUDENTS).map(|i| format!("kd{i}")).collect();
    let measure = |rows: &str, cache: &str| measure(&dkd, args, &file, rows, cache);
    // Trains the teacher and fills the cache.
    measure("kd0", "f32")?;
    let (mut alone, mut cohort, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_loss = [Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        alone.push(measure("kd0", "off")?["kd0"]);
        cohort.push(measure(&all.join(","), "off")?.values().sum());
        let cached = measure("none,kd0,dkd", "f32")?;
        plain.push(cached["none"]);
        by_loss[0].push(cached["kd0"] / cached["none"]);
        by_loss[1].push(cached["dkd"] / cached["none"]);
        println!(
            "round {}: one student {:.2} s, {STUDENTS} together {:.2} s; cached: none {:.2}, kd {:.2}, dkd {:.2} s",
            round + 1,
            alone[alone.len() - 1],
            cohort[cohort.len() - 1],
            cached["none"],
            cached["kd0"],
            cached["dkd"]
        );
    }
    std::fs::remove_dir_all(&args.out).with_context(|| format!("cannot remove {}", args.out.display()))?;
    let [alone, cohort, student] = [&mut alone, &mut cohort, &mut plain].map(|v| median(v));
    let teacher = alone - student;
    let n = STUDENTS as f64;
    let share = cohort / (n * alone);
    let expected = (teacher + n * student) / (n * alone);
    let limit = args.limit.map_or(COHORT * expected, |percent| percent / 100.0);
    let [kd, dkd] = by_loss.map(|mut v| median(&mut v));
    println!("{} taught by {}, {} images:", args.pair[1], args.pair[0], args.images);
    let lines = [
        (format!("{STUDENTS} students together, of {STUDENTS} runs"), share, limit),
        ("KD with a cached teacher, of no teacher".to_owned(), kd, CACHED),
        ("DKD with a cached teacher, of no teacher".to_owned(), dkd, CACHED),
        ("loss of KD and reading the cache, of a step".to_owned(), kd, LOSS),
        ("loss of DKD and reading the cache, of a step".to_owned(), dkd, LOSS),
    ];
    for (what, value, limit) in &lines {
        println!("  {what:<46} {:6.1} % (at most {:.1} %)", 100.0 * value, 100.0 * limit);
    }
    println!(
        "  teacher {teacher:.2} s, student {student:.2} s: (t + {n} s) / ({n} t + {n} s) = {:.1} %",
        100.0 * expected
    );
    if lines.iter().any(|(_, value, limit)| value > limit) {
        bail!("it costs more than it may");
    }
    Ok(())
}

/// Students with equal settings and different initial weights, one without a teacher, and one with DKD.
fn table(args: &Args) -> String {
    let kd = "loss = [{ method = \"ce\", weight = 0.1 }, { method = \"kd\", weight = 0.9 }]";
    let dkd = "loss = [{ method = \"ce\" }, { method = \"dkd\", warmup_epochs = 0 }]";
    let mut text = format!(
        "name = \"teaching-cost\"\n\
         [data]\ndataset = \"{}\"\ntrain_limit = {}\ntest_limit = 64\n\
         [train]\nepochs = 1\nbatch_size = 64\n\
         [cache]\nfolder = {:?}\n\
         [student]\nmodel = \"{}\"\n[teacher]\nmodel = \"{}\"\n\
         [[rows]]\nid = \"none\"\n[[rows]]\nid = \"dkd\"\n{dkd}\n",
        if args.data == "synthetic" { "synthetic" } else { "cifar100" },
        args.images,
        args.out.join("cache"),
        args.pair[1],
        args.pair[0]
    );
    for i in 0..STUDENTS {
        text.push_str(&format!("[[rows]]\nid = \"kd{i}\"\nseed_offset = {i}\n{kd}\n"));
    }
    text
}

/// Trains rows of the table and returns what each took.
fn measure(dkd: &Path, args: &Args, file: &Path, rows: &str, cache: &str) -> Result<Seconds> {
    let out = args.out.join("run");
    let results = out.join("results/teaching-cost");
    if results.exists() {
        std::fs::remove_dir_all(&results)?;
    }
    let mut command = Command::new(dkd);
    command.arg("table").arg(file).args(["--rows", rows, "--data", &args.data]);
    command.args(["--set", &format!("cache.teacher={cache}")]).arg("--out").arg(&out);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    start(&mut command)?;
    let mut seconds = Seconds::new();
    for entry in std::fs::read_dir(&results)? {
        let path = entry?.path();
        let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let row = result["row"].as_str().unwrap_or_default();
        if rows.split(',').any(|r| r == row) {
            let value = result["seconds"].as_f64();
            seconds.insert(row.to_owned(), value.with_context(|| format!("{}: no seconds", path.display()))?);
        }
    }
    if seconds.len() != rows.split(',').count() {
        bail!("{} lacks a result of {rows}", results.display());
    }
    Ok(seconds)
}
