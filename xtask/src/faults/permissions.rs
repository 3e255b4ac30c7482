//! Files and folders that may not be read or written.

use super::files;
use super::lab::Lab;
use super::mount::{self, Disk};
use super::process::{Words, is_there};
use super::random::Random;
use super::setting;
use super::table::Row;
use super::trial::Trial;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Trials.
const TRIALS: usize = 2 * CASES;
const CASES: usize = 7;
const READ_ONLY: usize = 2;

/// Who may do nothing.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

pub fn run(lab: &Lab) -> Result<Vec<Row>> {
    let fault = "no permission";
    let how = "folder closed or read-only, settings, data or a part of the run's folder closed, for a user who is not root";
    let root = is_root(&lab.reference.out)?;
    let mut rows = Vec::new();
    if root && !is_there(NOBODY[0]) {
        rows.push(Row::skipped(fault, how, "root may do everything, and there is no `setpriv`"));
    } else {
        let count = lab.count(TRIALS).max(CASES);
        let tally = lab.each("permission", count, |trial, random, i| {
            let user = User { root };
            match i % CASES {
                0 => closed_folder(trial, &user),
                1 => closed_output(trial, &user),
                2 => closed_settings(trial, &user),
                3 => closed_data(trial, &user),
                4 => closed_weights(lab, trial, &user),
                5 => closed_checkpoints(lab, trial, &user),
                _ => closed_later(lab, trial, &user, random),
            }
        });
        let trials = tally.seen.len() + tally.lost.len();
        rows.push(Row::new(
            fault,
            how,
            trials,
            "each named the path; nothing new was left behind",
            tally.lost,
        ));
    }
    let (fault, how) =
        ("read-only disk", "a stopped run's disk mounted read-only, and writable again before `--resume`");
    if let Some(why) = mount::refused(&lab.shared("mount-test")?.path("disk")) {
        rows.push(Row::skipped(fault, how, &why));
        return Ok(rows);
    }
    let tally = lab.each("read-only", lab.count(READ_ONLY), |trial, random, _| {
        let disk = Disk::new(&trial.path("out"), 64 << 10)?;
        trial.note("mount -t tmpfs -o size=64m tmpfs out");
        setting::stopped(trial, random, &[])?;
        let before = files::exact(&trial.path("out"))?;
        disk.change("ro")?;
        trial.note("mount -o remount,ro out");
        let words = setting::table(trial, &["--resume"])?;
        trial.run(&words)?.expect(1, &["out/", "Read-only file system"])?;
        files::same(&before, &files::exact(&trial.path("out"))?)?;
        disk.change("rw")?;
        trial.note("mount -o remount,rw out");
        setting::finish(trial, lab, &[], &["going on with"])
    });
    let trials = tally.seen.len() + tally.lost.len();
    rows.push(Row::new(fault, how, trials, "each named the file", tally.lost));
    Ok(rows)
}

/// Whether this process is root: it owns what it makes.
fn is_root(own: &Path) -> Result<bool> {
    Ok(std::fs::metadata(own).with_context(|| format!("cannot look at {}", own.display()))?.uid() == 0)
}

/// Somebody for whom permissions count.
struct User {
    root: bool,
}

impl User {
    /// A command as this user.
    fn runs(&self, words: Words) -> Words {
        if self.root { NOBODY.iter().map(|w| (*w).to_owned()).chain(words).collect() } else { words }
    }
}

/// Sets what everybody may do with a file or folder.
fn allow(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change the permissions of {}", path.display()))
}

/// Sets it for a folder and everything in it.
fn allow_all(trial: &mut Trial, name: &str, folders: u32, contents: u32) -> Result<()> {
    trial.note(&format!("{name}: folders {folders:o}, files {contents:o}"));
    let folder = trial.path(name);
    for path in files::walk(&folder)? {
        allow(&path, contents)?;
        for parent in path.ancestors().skip(1).take_while(|p| p.starts_with(&folder)) {
            allow(parent, folders)?;
        }
    }
    Ok(())
}

/// A folder that the user may look into and not write to.
fn folder(trial: &mut Trial, name: &str, mode: u32) -> Result<()> {
    trial.note(&format!("mkdir -p {name}; chmod {mode:o} {name}"));
    let path = trial.path(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    allow(&path, mode)
}

/// Runs a command as the user; it must be refused, name the path and change nothing in the trial's folder.
fn refused(trial: &mut Trial, user: &User, words: Words, code: i32, named: &str) -> Result<()> {
    let before = everything(trial)?;
    trial.run(&user.runs(words))?.expect(code, &[named, "ermission denied"])?;
    let after = everything(trial)?;
    if before == after {
        Ok(())
    } else {
        bail!("something was left behind: before {before:?}, after {after:?}")
    }
}

/// Names of all files and folders, as root sees them.
fn everything(trial: &Trial) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![trial.folder.clone()];
    while let Some(folder) = folders.pop() {
        // Without root's rights a closed folder keeps its secret, before and after.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            found.push(files::name_in(&trial.folder, &entry.path()));
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn closed_folder(trial: &mut Trial, user: &User) -> Result<()> {
    folder(trial, "closed", 0o555)?;
    setting::prepare(trial)?;
    let words = trial.dkd(&["table", "t.toml", "--out", "closed/run"]);
    refused(trial, user, words, 1, "closed/run")?;
    let words = trial.dkd(&["train", "--model", "resnet8", "--data", "synthetic", "--out", "closed/run"]);
    refused(trial, user, words, 1, "closed/run")
}

fn closed_output(trial: &mut Trial, user: &User) -> Result<()> {
    folder(trial, "out", 0o555)?;
    let words = setting::table(trial, &[])?;
    refused(trial, user, words, 1, "out/.dkd.lock")
}

fn closed_settings(trial: &mut Trial, user: &User) -> Result<()> {
    let words = setting::table(trial, &[])?;
    allow(&trial.path("t.toml"), 0)?;
    trial.note("chmod 0 t.toml");
    refused(trial, user, words, 1, "t.toml")
}

fn closed_data(trial: &mut Trial, user: &User) -> Result<()> {
    folder(trial, "data", 0o755)?;
    let file = trial.path("data/data_batch_1.bin");
    files::replace(&file, b"")?;
    allow(&file, 0)?;
    trial.note("chmod 0 data/data_batch_1.bin");
    let words = trial.dkd(&["data", "info", "--data", "data", "--dataset", "cifar10"]);
    refused(trial, user, words, 4, "data/data_batch_1.bin")
}

/// Weights cannot be written: the run ends, and goes on once they can.
fn closed_weights(lab: &Lab, trial: &mut Trial, user: &User) -> Result<()> {
    folder(trial, "out", 0o777)?;
    folder(trial, "out/weights", 0o555)?;
    let words = user.runs(setting::table(trial, &[])?);
    trial.run(&words)?.expect(1, &["out/weights", "ermission denied"])?;
    if !files::walk(&trial.path("out/weights"))?.is_empty() {
        bail!("something was left in out/weights");
    }
    folder(trial, "out/weights", 0o777)?;
    finish_as(lab, trial, user)
}

/// Checkpoints cannot be written: the run says so and goes on, or ends if that is asked for.
fn closed_checkpoints(lab: &Lab, trial: &mut Trial, user: &User) -> Result<()> {
    folder(trial, "out", 0o777)?;
    folder(trial, "out/checkpoints", 0o555)?;
    let words = user.runs(setting::table(trial, &["--set", "checkpoints.on_failure=stop"])?);
    trial.run(&words)?.expect(1, &["out/checkpoints", "ermission denied"])?;
    let words = user.runs(setting::table(trial, &["--resume"])?);
    trial.run(&words)?.expect(0, &["could not be written", "out/checkpoints", "ermission denied"])?;
    if !files::walk(&trial.path("out/checkpoints"))?.is_empty() {
        bail!("something was left in out/checkpoints");
    }
    setting::as_undisturbed(trial, lab)
}

/// A stopped run whose folder may not be written to any more.
fn closed_later(lab: &Lab, trial: &mut Trial, user: &User, random: &mut Random) -> Result<()> {
    setting::stopped(trial, random, &[])?;
    allow_all(trial, "out", 0o555, 0o444)?;
    let words = setting::table(trial, &["--resume"])?;
    refused(trial, user, words, 1, "out/")?;
    allow_all(trial, "out", 0o777, 0o666)?;
    finish_as(lab, trial, user)
}

fn finish_as(lab: &Lab, trial: &mut Trial, user: &User) -> Result<()> {
    let words = user.runs(setting::table(trial, &["--resume"])?);
    trial.run(&words)?.expect(0, &["going on with"])?;
    setting::as_undisturbed(trial, lab)
}
