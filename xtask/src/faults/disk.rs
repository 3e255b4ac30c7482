//! Full disks: a limit on the size of files, and a disk that is too small.

use super::files;
use super::lab::Lab;
use super::mount::{self, Disk};
use super::process::{Ended, Words, is_there};
use super::setting::{self, BATCHES};
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Trials of each limit, and of the small disk.
const LIMITS: usize = 5 * 4;
const DISKS: usize = 4;

/// A stopped run, with what it has written.
struct Base {
    out: PathBuf,
    /// Bytes of a checkpoint of the students.
    checkpoint: u64,
    /// Bytes of the event log.
    log: u64,
}

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let how = "`ulimit -f`: files cannot grow beyond a checkpoint, the event log or a report";
    let mut rows = Vec::new();
    let base = base(lab)?;
    if is_there("bash") {
        let count = lab.count(LIMITS).max(5);
        let tally = lab.each("file-limit", count, |trial, _, i| match i % 5 {
            0 => checkpoint_and_on(lab, trial, below_checkpoints(&base, i / 5)),
            1 => checkpoint_and_stop(lab, trial, below_checkpoints(&base, i / 5)),
            2 => signal_and_no_checkpoint(lab, trial, below_checkpoints(&base, i / 5)),
            3 => log(lab, trial, &base),
            _ => report(lab, trial),
        });
        let trials = tally.seen.len() + tally.lost.len();
        let seen = "each named the file; on_failure = \"continue\" went on, \"stop\" ended with the last checkpoint there";
        rows.push(Row::new("full disk: size limit", how, trials, seen, tally.lost));
    } else {
        rows.push(Row::skipped("full disk: size limit", how, "there is no `bash`"));
    }
    let how = "a tmpfs of two or two and a half checkpoints, enlarged before `--resume`";
    if let Some(why) = mount::refused(&lab.shared("mount-test")?.path("disk")) {
        rows.push(Row::skipped("full disk: small disk", how, &why));
        return Ok(rows);
    }
    let tally = lab.each("small-disk", lab.count(DISKS).max(2), |trial, _, i| {
        small_disk(lab, trial, &base, [5, 4][i % 2])
    });
    let ended = tally.seen.iter().filter(|ended| **ended).count();
    let trials = tally.seen.len() + tally.lost.len();
    let seen = format!(
        "all told of checkpoints that did not fit; {ended} ended for lack of space and went on later"
    );
    rows.push(Row::new("full disk: small disk", how, trials, &seen, tally.lost));
    Ok(rows)
}

fn base(lab: &Lab) -> Result<Base> {
    let mut trial = lab.shared("disk-base")?;
    setting::stopped(&mut trial, &mut lab.random("disk-base", 0), &[])?;
    let out = trial.path("out");
    let newest = files::checkpoints(&out)?.into_iter().next().context("a stopped run has a checkpoint")?;
    Ok(Base { checkpoint: files::size(&newest)?, log: files::size(&setting::log(&out))?, out })
}

/// A command under a limit of so many bytes for each file, rounded up to KiB.
fn limited(bytes: u64, words: &[String]) -> Words {
    let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", bytes.div_ceil(1024));
    ["bash".to_owned(), "-c".to_owned(), script].into_iter().chain(words.iter().cloned()).collect()
}

/// Limits that weights, logs and reports keep, and the students' checkpoints do not: the first lets their first one pass,
/// which has no momentum in it, the other none.
fn below_checkpoints(base: &Base, i: usize) -> u64 {
    [base.checkpoint * 3 / 4, base.checkpoint * 2 / 5][i % 2]
}

/// Checkpoints cannot be written: it is told, and the run goes on.
fn checkpoint_and_on(lab: &Lab, trial: &mut Trial, limit: u64) -> Result<()> {
    let words = limited(limit, &setting::table(trial, &[])?);
    trial.run(&words)?.expect(0, &["could not be written", "out/checkpoints/0-s-"])?;
    setting::as_undisturbed(trial, lab)
}

/// The same, where that is to end the run: the last good one stays, and the run goes on once there is space.
fn checkpoint_and_stop(lab: &Lab, trial: &mut Trial, limit: u64) -> Result<()> {
    let stop = ["--set", "checkpoints.on_failure=stop"];
    let words = limited(limit, &setting::table(trial, &stop)?);
    trial.run(&words)?.expect(1, &["out/checkpoints/0-s-"])?;
    one_stays(trial)?;
    setting::finish(trial, lab, &stop, &["going on with"])
}

/// A signal, and its checkpoint cannot be written.
fn signal_and_no_checkpoint(lab: &Lab, trial: &mut Trial, limit: u64) -> Result<()> {
    let words = limited(limit, &setting::table(trial, &[])?);
    let mut running = trial.start(&words)?;
    // Without checkpoints the log of steps comes with the evaluation.
    setting::at_step(trial, &mut running, BATCHES)?;
    running.signal("TERM")?;
    let ended = running.end()?;
    trial.note("SIGTERM after the students' first epoch");
    ended.expect(130, &["could not be written", "nothing was saved"])?;
    one_stays(trial)?;
    setting::finish(trial, lab, &[], &["going on with"])
}

fn one_stays(trial: &Trial) -> Result<()> {
    if files::checkpoints(&trial.path("out"))?.is_empty() {
        bail!("the last checkpoint that could be written is gone");
    }
    Ok(())
}

/// The event log cannot grow: the run ends and names it; its checkpoint is untouched.
fn log(lab: &Lab, trial: &mut Trial, base: &Base) -> Result<()> {
    let out = trial.path("out");
    files::copy(&base.out, &out)?;
    let before = checkpoint_prints(&out)?;
    let words = limited(base.log, &setting::table(trial, &["--resume"])?);
    trial.run(&words)?.expect(1, &["events-0.jsonl"])?;
    files::same(&before, &checkpoint_prints(&out)?).context("the checkpoints")?;
    setting::finish(trial, lab, &[], &["going on with the students"])
}

fn checkpoint_prints(out: &Path) -> Result<files::Prints> {
    files::exact(&out.join("checkpoints"))
}

/// A report cannot be written: the old ones stay whole, and the next attempt makes it.
fn report(lab: &Lab, trial: &mut Trial) -> Result<()> {
    let out = trial.path("out");
    files::copy(&lab.reference.out, &out)?;
    let before = files::exact(&out)?;
    let names = ["results.json", "report.html", "report.md", "t.svg"];
    let sizes = names.map(|name| Ok((files::size(&out.join(name))?, name)));
    let sizes = sizes.into_iter().collect::<Result<Vec<_>>>()?;
    let (bytes, largest) = sizes.into_iter().max().context("there are reports")?;
    let words = limited(bytes.saturating_sub(2048), &setting::table(trial, &["--resume"])?);
    let ended: Ended = trial.run(&words)?;
    ended.expect(1, &[largest])?;
    // What came before the file that did not fit was made anew, of the same results.
    files::same(&before, &files::exact(&out)?)?;
    setting::finish(trial, lab, &[], &["is complete"])
}

/// A disk of some halves of a checkpoint; whether the run ended for that.
fn small_disk(lab: &Lab, trial: &mut Trial, base: &Base, halves: u64) -> Result<bool> {
    let out = trial.path("out");
    let kib = base.checkpoint * halves / 2 / 1024;
    let disk = Disk::new(&out, kib)?;
    trial.note(&format!("mount -t tmpfs -o size={kib}k tmpfs out"));
    let words = setting::table(trial, &[])?;
    let ended = trial.run(&words)?;
    if !ended.text.contains("could not be written") {
        bail!("no checkpoint failed on a disk of {kib} KiB; it said: {}", ended.text);
    }
    if ended.code == Some(0) {
        setting::as_undisturbed(trial, lab)?;
        return Ok(false);
    }
    ended.expect(1, &["out/", "No space left"])?;
    if files::checkpoints(&out)?.is_empty() {
        bail!("there is no checkpoint left; it said: {}", ended.text);
    }
    disk.change("size=64m")?;
    trial.note("mount -o remount,size=64m out");
    setting::finish(trial, lab, &[], &["going on with"])?;
    Ok(true)
}
