//! `kill -9` at random moments.

use super::files;
use super::lab::Lab;
use super::random::Random;
use super::setting;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Result, bail};
use std::time::Duration;

/// Kills in all.
const KILLS: usize = 200;

/// Kills of one trial: a run is killed and resumed until it ends, then the next one.
const GROUP: usize = 8;

/// One of so many kills comes while the run starts; the others are spread over its work.
const AT_START: usize = 8;

/// One of so many kills waits, from its moment on, for the writer of checkpoints to be at work.
const AT_WRITE: usize = 4;

/// What one trial saw.
#[derive(Default)]
struct Seen {
    kills: usize,
    /// Runs that went to their end.
    runs: usize,
    /// Kills that left a half-written checkpoint.
    in_checkpoint: usize,
    /// Kills that left another half-written file.
    in_other: usize,
}

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let kills = lab.count(KILLS);
    let tally = lab.each("kill", kills.div_ceil(GROUP), |trial, random, i| {
        group(lab, trial, random, GROUP.min(kills - i * GROUP))
    });
    let sum = |of: fn(&Seen) -> usize| tally.seen.iter().map(of).sum::<usize>();
    let seen = format!(
        "{} runs came to their end; {} kills hit the writing of a checkpoint, {} of another file",
        sum(|s| s.runs),
        sum(|s| s.in_checkpoint),
        sum(|s| s.in_other)
    );
    let how = "`kill -9` at random moments, resumed and killed again; a quarter waits for the next half-written checkpoint";
    Ok(vec![Row::new("killed", how, sum(|s| s.kills), &seen, tally.lost)])
}

/// Kills runs, one after the other, until there were enough kills, and compares every run that comes to its end.
fn group(lab: &Lab, trial: &mut Trial, random: &mut Random, kills: usize) -> Result<Seen> {
    let mut seen = Seen::default();
    while seen.kills < kills {
        if !killed(lab, trial, random, &mut seen)? {
            ended(lab, trial)?;
            seen.runs += 1;
            std::fs::remove_dir_all(trial.path("out"))?;
        }
    }
    let words = setting::table(trial, &["--resume"])?;
    trial.run(&words)?.expect(0, &[])?;
    ended(lab, trial)?;
    seen.runs += 1;
    Ok(seen)
}

/// Starts the run or goes on with it, and kills it; `false` if it came to its end before.
fn killed(lab: &Lab, trial: &mut Trial, random: &mut Random, seen: &mut Seen) -> Result<bool> {
    let out = trial.path("out");
    let (start_s, whole_s) = (lab.reference.start_s, lab.reference.whole_s);
    let moment = match random.below(AT_START) {
        0 => start_s * random.unit(),
        _ => start_s + (whole_s - start_s) * random.unit(),
    };
    let at_write = random.below(AT_WRITE) == 0;
    let before = files::unfinished(&out)?;
    let had_checkpoint = !files::checkpoints(&out)?.is_empty();
    // Threads make no difference either.
    let mut more = vec!["--threads", ["1", "2"][random.below(2)]];
    if out.exists() {
        more.push("--resume");
    }
    setting::prepare(trial)?;
    let words = trial.dkd(&[&["table", "t.toml", "--out", "out"], &more[..]].concat());
    let mut running = trial.start(&words)?;
    let checkpoints = out.join("checkpoints");
    // A folder that cannot be listed at this moment can be at the next.
    let half_written = || files::unfinished(&checkpoints).unwrap_or_default();
    let writes = || half_written().iter().any(|path| !before.contains(path));
    let moment = Duration::from_secs_f64(moment);
    let is_time = running.until(|r| r.age() >= moment && (!at_write || writes()))?;
    let moment = running.age();
    if is_time {
        running.kill()?;
    }
    let over = running.end()?;
    let (seconds, phase) = (moment.as_secs_f64(), setting::phase(&out).name());
    trial.note(&format!("{} after {seconds:.3} s, at: {phase}", if is_time { "killed" } else { "over" }));
    over.expect_not(&["cannot be used", "panicked"])?;
    if had_checkpoint {
        over.expect_not(&["from the beginning"])?;
    }
    match over.code {
        // It may have ended in the moment of the kill.
        Some(0) => return Ok(false),
        None => {}
        Some(_) => over.expect(0, &[])?,
    }
    if !is_time {
        bail!("a signal ended the run, but none was sent");
    }
    seen.kills += 1;
    let fresh: Vec<_> = files::unfinished(&out)?.into_iter().filter(|p| !before.contains(p)).collect();
    let in_checkpoint = fresh.iter().filter(|path| path.starts_with(&checkpoints)).count();
    seen.in_checkpoint += in_checkpoint;
    seen.in_other += fresh.len() - in_checkpoint;
    Ok(true)
}

/// A run at its end: as if nothing had happened, but for half-written files, which `dkd runs clean` removes.
fn ended(lab: &Lab, trial: &mut Trial) -> Result<()> {
    setting::as_undisturbed(trial, lab)?;
    let words = trial.dkd(&["runs", "clean", "out"]);
    trial.run(&words)?.expect(0, &[])?;
    if let Some(left) = files::unfinished(&trial.path("out"))?.first() {
        bail!("`dkd runs clean` leaves {}", left.display());
    }
    setting::as_undisturbed(trial, lab)
}
