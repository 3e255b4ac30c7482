//! `cargo xtask reproduce-cifar100`: the paper's tables, one pair of networks after the other.
//!
//! `configs/cifar100/METHOD/PAIR.toml` is a row of the table of a pair. The rows that were asked for become one file, so that they share
//! their teacher and their data: `dkd table` trains them in one pass.

mod plan;
mod table;

use crate::device::Device;
use crate::run::{root, run as start};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Table;

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask reproduce-cifar100 --plan
      what would be trained, and how long it takes on this machine
  cargo xtask reproduce-cifar100 --pairs resnet56-resnet20 --methods none,kd,dkd --seeds 3
      one pair of the paper's first table
  cargo xtask reproduce-cifar100 --pairs resnet32x4-resnet8x4 --scale short
      a tenth of the epochs: the order of the methods, not the paper's numbers
  cargo xtask reproduce-cifar100 --pairs all --methods all --epochs 1 --images 320
      every method on every pair for five steps: whether it runs";

/// The pairs of the paper's two tables, in their order, and three that others added.
const PAIRS: [&str; 14] = [
    "resnet56-resnet20",
    "resnet110-resnet32",
    "resnet32x4-resnet8x4",
    "wrn_40_2-wrn_16_2",
    "wrn_40_2-wrn_40_1",
    "vgg13-vgg8",
    "resnet32x4-ShuffleV1",
    "wrn_40_2-ShuffleV1",
    "vgg13-MobileNetV2",
    "ResNet50-MobileNetV2",
    "resnet32x4-ShuffleV2",
    "resnet110-resnet20",
    "ResNet50-vgg8",
    "resnet32x4-MobileNetV2",
];

/// Folders of `configs/cifar100`.
const METHODS: [&str; 23] = [
    "none", "kd", "dkd", "dist", "nkd", "mlkd", "ttm", "ctkd", "rld", "sdd", "kd-lskd", "dkd-lskd", "fitnet",
    "at", "sp", "vid", "rkd", "pkt", "nst", "kdsvd", "crd", "ofd", "reviewkd",
];

/// The method that has no row for some pairs, and why.
const PARTIAL: (&str, &str) = ("kdsvd", "compares feature maps of the same width only");

/// How long rows are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scale {
    /// A tenth of the epochs, everything that counts epochs shortened alike
    Short,
    /// The paper's 240 epochs
    Paper,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Teacher and student; `all` for every pair
    #[arg(long, value_delimiter = ',', default_value = "resnet56-resnet20", value_name = "PAIR,…")]
    pairs: Vec<String>,
    /// Rows of each pair's table; `all` for every method
    #[arg(long, value_delimiter = ',', default_value = "none,kd,dkd", value_name = "METHOD,…")]
    methods: Vec<String>,
    /// Number of seeds
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// How long each row is trained
    #[arg(long, value_enum, default_value = "paper")]
    scale: Scale,
    /// Epochs, everything that counts epochs shortened alike
    #[arg(long, value_name = "N", conflicts_with = "scale", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Train and test on so many images only: a check that everything runs, not a result
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    images: Option<u64>,
    /// Images: auto (data/, else fetched) or a folder
    #[arg(long, default_value = "auto", value_name = "SOURCE")]
    data: String,
    #[command(flatten)]
    device: Device,
    /// Worker threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Folder for weights, results and reports; default runs/reproduce-cifar100, with -EPOCHS and -N-images appended where they are not the paper's
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Further folder that gets a copy of the result files
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Go on where the same command was stopped
    #[arg(long)]
    resume: bool,
    /// Only say what would be trained and how long it would take here, measured from a few steps
    #[arg(long)]
    plan: bool,
}

impl Args {
    fn epochs(&self) -> u64 {
        match (self.epochs, self.scale) {
            (Some(epochs), _) => epochs,
            (None, Scale::Paper) => table::PAPER_EPOCHS,
            (None, Scale::Short) => table::PAPER_EPOCHS / 10,
        }
    }

    fn out(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.out {
            return Ok(std::path::absolute(folder)?);
        }
        let mut name = "runs/reproduce-cifar100".to_owned();
        if self.epochs() != table::PAPER_EPOCHS {
            name.push_str(&format!("-{}", self.epochs()));
        }
        if let Some(images) = self.images {
            name.push_str(&format!("-{images}-images"));
        }
        Ok(root().join(name))
    }
}

/// The names that were asked for, in the order of `known`.
fn chosen<'a>(what: &str, asked: &[String], known: &[&'a str]) -> Result<Vec<&'a str>> {
    if asked == ["all"] {
        return Ok(known.to_vec());
    }
    if let Some(unknown) = asked.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no {what} `{unknown}`; known are {}", known.join(", "));
    }
    Ok(known.iter().copied().filter(|name| asked.iter().any(|a| a == name)).collect())
}

/// The task.
pub fn run(args: &Args) -> Result<()> {
    let pairs = chosen("pair", &args.pairs, &PAIRS)?;
    let methods = chosen("method", &args.methods, &METHODS)?;
    let tables = pairs.iter().map(|pair| Table::read(&root().join("configs/cifar100"), pair, &methods));
    let mut tables = tables.collect::<Result<Vec<_>>>()?;
    if let Some(images) = args.images {
        tables = tables.iter().map(|table| table.with_images(images)).collect();
    }
    for table in tables.iter().filter(|t| t.rows.len() < methods.len()) {
        let (method, reason) = PARTIAL;
        println!("{}: no row for {method}, which {reason}", table.pair);
    }
    let dkd = args.device.dkd()?;
    if args.plan {
        return plan::print(&dkd, &tables, args.epochs(), args.seeds, args.threads);
    }
    let out = args.out()?;
    for (i, table) in tables.iter().enumerate() {
        let folder = |table: &Table| out.join(&table.pair).join("weights");
        for earlier in tables[..i].iter().filter(|earlier| earlier.teacher == table.teacher) {
            share_teachers(&folder(earlier), &folder(table))?;
        }
        train(args, &dkd, table, &out)?;
    }
    let mut report = Command::new(&dkd);
    report
        .arg("report")
        .args(tables.iter().map(|t| out.join(&t.pair).join("results")))
        .arg("--out")
        .arg(&out);
    start(&mut report)
}

/// Copies the teachers of another pair, which `dkd table` takes if they were trained as its own would be.
fn share_teachers(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let (path, name) = file.map(|f| (f.path(), f.file_name()))?;
        let is_teacher = name.to_string_lossy().starts_with("teacher-");
        if is_teacher && !to.join(&name).exists() {
            dkd_files::atomic_write_bytes(&to.join(&name), &std::fs::read(path)?)?;
        }
    }
    Ok(())
}

/// Trains the table of one pair.
fn train(args: &Args, dkd: &Path, table: &Table, out: &Path) -> Result<()> {
    let folder = out.join(&table.pair);
    let file = out.join("tables").join(format!("cifar100-{}.toml", table.pair));
    dkd_files::atomic_write_bytes(&file, table.with_epochs(args.epochs()).to_text()?.as_bytes())?;
    let mut command = Command::new(dkd);
    // `auto` looks for data/ in the current folder.
    command.current_dir(root()).arg("table").arg(&file).args(["--dataset", "cifar100", "--data"]);
    command.arg(if args.data == "auto" { "auto".into() } else { std::path::absolute(&args.data)? });
    command.args(["--seeds", &args.seeds.to_string(), "--threads", &args.threads.to_string()]);
    args.device.pass(&mut command);
    command.arg("--out").arg(&folder);
    if args.resume {
        command.arg("--resume");
    }
    if let Some(results) = &args.results {
        command.arg("--results").arg(std::path::absolute(results)?);
    }
    start(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_every_method_that_can_compare_it() {
        let folder = root().join("configs/cifar100");
        for pair in PAIRS {
            let table = Table::read(&folder, pair, &METHODS).unwrap();
            // The stages' maps of these networks have the same widths.
            let alike = ["resnet", "wrn", "vgg"].iter().any(|f| pair.matches(f).count() == 2);
            assert_eq!(table.rows.len(), METHODS.len() - usize::from(!alike), "{pair}");
            assert_eq!(format!("{}-{}", table.teacher, table.student), pair);
        }
    }

    #[test]
    fn a_teacher_is_trained_once() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        share_teachers(&a, &b).unwrap();
        assert!(!b.exists());
        std::fs::create_dir_all(&a).unwrap();
        for (name, text) in
            [("teacher-0.safetensors", "new"), ("teacher-0.json", "{}"), ("dkd-0.safetensors", "-")]
        {
            std::fs::write(a.join(name), text).unwrap();
        }
        std::fs::create_dir_all(&b).unwrap();
        std::fs::write(b.join("teacher-0.safetensors"), "own").unwrap();
        share_teachers(&a, &b).unwrap();
        assert_eq!(std::fs::read(b.join("teacher-0.safetensors")).unwrap(), b"own");
        assert!(b.join("teacher-0.json").exists() && !b.join("dkd-0.safetensors").exists());
    }

    #[test]
    fn names_are_checked_and_ordered() {
        let asked = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen("method", &asked(&["dkd", "none"]), &METHODS).unwrap(), ["none", "dkd"]);
        assert_eq!(chosen("method", &asked(&["all"]), &METHODS).unwrap().len(), METHODS.len());
        let message = chosen("pair", &asked(&["resnet56"]), &PAIRS).unwrap_err().to_string();
        assert!(message.contains("`resnet56`") && message.contains("resnet56-resnet20"), "{message}");
    }
}
