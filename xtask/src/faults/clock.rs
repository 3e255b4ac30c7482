//! Clocks that are set back or ahead between stop and resume.

use super::files;
use super::lab::Lab;
use super::process::is_there;
use super::random::Random;
use super::setting;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Trials with the times of files, and with the clock itself.
const TIMES: usize = 20;
const CLOCKS: usize = 10;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let tally = lab.each("times", lab.count(TIMES), |trial, random, i| {
        setting::stopped(trial, random, &[])?;
        shift(trial, random, i)?;
        setting::finish(trial, lab, &[], &["going on with"])
    });
    let trials = tally.seen.len() + tally.lost.len();
    let how = "times of all files set years back, ahead, or each elsewhere, between stop and resume";
    let mut rows = vec![Row::new("times of files", how, trials, "", tally.lost)];
    let how = "stopped, then resumed under `faketime` decades back or ahead";
    if !is_there("faketime") {
        rows.push(Row::skipped("clock set back", how, "`faketime` is not installed"));
        return Ok(rows);
    }
    let tally = lab.each("clock", lab.count(CLOCKS), |trial, random, i| {
        setting::stopped(trial, random, &[])?;
        let date = ["1999-12-31 23:59:59", "2036-02-29 12:00:00"][i % 2];
        let words = setting::table(trial, &["--resume"])?;
        let fake = ["faketime", date].map(str::to_owned);
        trial.run(&[&fake[..], &words].concat())?.expect(0, &["going on with"])?;
        setting::as_undisturbed(trial, lab)
    });
    rows.push(Row::new("clock set back", how, tally.seen.len() + tally.lost.len(), "", tally.lost));
    Ok(rows)
}

/// Sets the times of all files: back, ahead, or each its own way.
fn shift(trial: &mut Trial, random: &mut Random, i: usize) -> Result<()> {
    let out = trial.path("out");
    let mut paths = files::walk(&out)?;
    paths.extend(["", "checkpoints", "weights"].map(|folder| out.join(folder)));
    let now = SystemTime::now();
    let (back, ahead) = (now - 30 * YEAR, now + 40 * YEAR);
    trial.note(["all times 30 years back", "all times 40 years ahead", "times at random"][i % 3]);
    for path in paths {
        let there = if i % 3 == 2 { random.below(2) } else { i % 3 };
        set(&path, [back, ahead][there] + Duration::from_secs(random.below(1000) as u64))?;
    }
    Ok(())
}

fn set(path: &Path, time: SystemTime) -> Result<()> {
    let failed = || format!("cannot set the time of {}", path.display());
    File::open(path).and_then(|file| file.set_modified(time)).with_context(failed)
}
