//! `cargo xtask faults`: what can happen to a run must not harm it.
//!
//! A small table is trained once without disturbance. Every trial disturbs it, or its files, in one way, lets it go on and
//! compares: weights, results and event log must have the same bytes, and the program must say what it should.

mod checkpoints;
mod cifar;
mod clock;
mod data;
mod disk;
mod files;
mod kill;
mod lab;
mod memory;
mod mount;
mod numbers;
mod owners;
mod permissions;
mod process;
mod random;
mod setting;
mod signals;
mod table;
mod trial;

use crate::run::{build_dkd, root};
use anyhow::{Result, bail};
use clap::ValueEnum;
use lab::Lab;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use table::Row;
use trial::Lost;

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask faults --fraction 0.1
      a tenth of every count, in about two minutes
  cargo xtask faults --only kill,signals --seed 4711
      the same moments once more
  cargo xtask faults --write
      all of them, with their table in docs/reliability.md";

/// One kind of trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    /// `kill -9` at random moments
    Kill,
    /// SIGTERM, SIGINT and SIGUSR1 in every phase
    Signals,
    /// Truncated and bit-flipped checkpoints
    Checkpoints,
    /// Damaged data files
    Data,
    /// Full disk
    Disk,
    /// No permission, read-only folders
    Permissions,
    /// Two processes, one folder
    Owners,
    /// Clock and times of files set back and ahead
    Clock,
    /// Numbers that are not finite
    Numbers,
    /// Too little memory
    Memory,
}

impl Family {
    fn run(self, lab: &Lab) -> Result<Vec<Row>> {
        match self {
            Self::Kill => kill::run(lab),
            Self::Signals => signals::run(lab),
            Self::Checkpoints => checkpoints::run(lab),
            Self::Data => data::run(lab),
            Self::Disk => disk::run(lab),
            Self::Permissions => permissions::run(lab),
            Self::Owners => owners::run(lab),
            Self::Clock => clock::run(lab),
            Self::Numbers => numbers::run(lab),
            Self::Memory => memory::run(lab),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Share of all trials, for a quick look: at least one of each kind
    #[arg(long, default_value_t = 1.0, value_name = "F", value_parser = share)]
    fraction: f64,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<Family>,
    /// A program that is built already
    #[arg(long, value_name = "PATH")]
    dkd: Option<PathBuf>,
    /// Seed of all random moments and damages; without it, another one each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Put the table into docs/reliability.md
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if value > 0.0 && value <= 1.0 {
        Ok(value)
    } else {
        Err("expected a number above 0 and at most 1".to_owned())
    }
}

/// Makes the trials and prints their table.
pub fn run(args: &Args) -> Result<()> {
    let dkd = match &args.dkd {
        Some(path) => path.clone(),
        None => build_dkd(&[])?,
    };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let seed = args.seed.unwrap_or(clock % 1_000_000);
    println!("seed {seed}");
    let begun = Instant::now();
    let lab = Lab::new(&dkd, seed, args.fraction)?;
    let families = if args.only.is_empty() { Family::value_variants() } else { &args.only };
    let mut rows = Vec::new();
    for family in families {
        let start = Instant::now();
        let found = family.run(&lab).unwrap_or_else(|e| vec![unprepared(*family, &lab, &e)]);
        rows.extend(found);
        println!("{}: {:.0} s", family.name(), start.elapsed().as_secs_f64());
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let text = table::markdown(&rows);
    println!("\n{text}");
    let lost: Vec<&Lost> = rows.iter().flat_map(|row| &row.lost).collect();
    if !lost.is_empty() {
        report(&lost, seed);
        bail!("{} trials did not end as promised", lost.len());
    }
    println!("nothing was lost, in {minutes:.1} minutes");
    if args.write {
        let made =
            if args.fraction < 1.0 { format!("; {} of the full set", args.fraction) } else { String::new() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let about = format!("Seed {seed}, {minutes:.0} minutes on {cores} cores{made}.\n\n");
        table::write(&document(), &(about + &text))?;
    }
    lab.close()
}

/// A family whose trials could not begin, since the run that they start from did not go as it should.
fn unprepared(family: Family, lab: &Lab, error: &anyhow::Error) -> Row {
    let lost = Lost { what: format!("{error:#}"), folder: lab.folder().to_owned(), commands: Vec::new() };
    Row::new(&family.name(), "before its trials", 1, "", vec![lost])
}

fn document() -> PathBuf {
    root().join(Path::new("docs/reliability.md"))
}

/// What was lost, and how it can be had again.
fn report(lost: &[&Lost], seed: u64) {
    for lost in lost {
        println!("LOST: {}\n  in {} (seed {seed})", lost.what, lost.folder.display());
        lost.commands.iter().for_each(|command| println!("    {command}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shares() {
        assert_eq!(share("0.1"), Ok(0.1));
        assert!(["0", "1.5", "-1", "nan", "x"].iter().all(|text| share(text).is_err()));
    }

    #[test]
    fn the_document_tells_of_every_family() {
        let text = std::fs::read_to_string(document()).unwrap();
        for family in Family::value_variants() {
            let name = format!("`{}`", family.name());
            assert!(text.contains(&name), "docs/reliability.md has no {name}");
        }
    }
}
