//! Two processes for one folder, and locks of processes that are gone.

use super::files;
use super::lab::Lab;
use super::random::Random;
use super::setting;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};

/// Trials of each kind.
const SECOND: usize = 10;
const STALE: usize = 10;

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let second = lab.each("second", lab.count(SECOND), |trial, random, _| refused(lab, trial, random));
    let stale = lab.each("stale", lab.count(STALE).max(2), |trial, random, i| {
        if i.is_multiple_of(2) { of_the_dead(lab, trial, random) } else { of_nobody(lab, trial, random) }
    });
    Ok(vec![
        Row::new(
            "two owners",
            "a second `dkd table`, with and without `--resume`, and `dkd runs resume` while the first trains",
            second.seen.len() + second.lost.len(),
            "each was refused and named the first, which was not disturbed",
            second.lost,
        ),
        Row::new(
            "lock of nobody",
            "a lock file left by `kill -9`, or with another process's number or nonsense in it",
            stale.seen.len() + stale.lost.len(),
            "none was in the way",
            stale.lost,
        ),
    ])
}

/// A second process is refused, whatever it wants; the first does not notice.
fn refused(lab: &Lab, trial: &mut Trial, random: &mut Random) -> Result<()> {
    let first = setting::table(trial, &[])?;
    let mut running = trial.start(&first)?;
    setting::at_step(trial, &mut running, 1 + random.below(4))?;
    let owner = format!("in use by process {} ", running.id());
    let others = [first, setting::table(trial, &["--resume"])?, trial.dkd(&["runs", "resume", "out"])];
    let other = &others[random.below(others.len())];
    // It would be done before the second has read its images.
    running.signal("STOP")?;
    trial.note("kill -STOP, and -CONT after the next command");
    let ended = trial.run(other)?;
    running.signal("CONT")?;
    ended.expect(1, &[&owner, "out"])?;
    running.end()?.expect(0, &[])?;
    setting::as_undisturbed(trial, lab)
}

/// The lock of a process that was killed.
fn of_the_dead(lab: &Lab, trial: &mut Trial, random: &mut Random) -> Result<()> {
    let words = setting::table(trial, &[])?;
    let mut running = trial.start(&words)?;
    setting::at_step(trial, &mut running, 1 + random.below(10))?;
    let owner = format!("process {} ", running.id());
    running.kill()?;
    running.end()?;
    trial.note("kill -9");
    let lock =
        std::fs::read_to_string(trial.path("out/.dkd.lock")).context("a killed run leaves its lock file")?;
    if !lock.contains(&owner) {
        bail!("the lock file does not name its owner: {lock}");
    }
    setting::finish(trial, lab, &[], &["going on with"])
}

/// A lock file that nobody holds, with a number in it that is some living process's, or nonsense.
fn of_nobody(lab: &Lab, trial: &mut Trial, random: &mut Random) -> Result<()> {
    setting::stopped(trial, random, &[])?;
    let texts = [
        format!("process {} (dkd table)\n", std::process::id()).into_bytes(),
        b"process 1 (dkd table)\n".to_vec(),
        (0..5000).map(|_| random.word() as u8).collect(),
        Vec::new(),
    ];
    let text = &texts[random.below(texts.len())];
    files::replace(&trial.path("out/.dkd.lock"), text)?;
    trial.note(&format!("{} bytes put into out/.dkd.lock", text.len()));
    setting::finish(trial, lab, &[], &["going on with"])
}
