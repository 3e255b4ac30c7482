//! Starting a run, or going on with one.

use super::settings::differences;
use crate::args::ResumeArgs;
use crate::output;
use anyhow::{Context, Result, bail};
use dkd_trainer::checkpoint::{Identity, Snapshot, Store};
use dkd_trainer::record::{JsonLines, Records};
use dkd_trainer::{CheckpointRecipe, Checkpoints};
use std::path::Path;

/// What a run needs to start or to go on.
pub struct Start {
    /// The log, which ends where the run goes on, and what is derived from it.
    pub records: Records,
    /// Where it goes on; at the beginning without it.
    pub resume: Option<Snapshot>,
    /// Where further checkpoints go.
    pub checkpoints: Checkpoints,
}

/// Opens log and checkpoints in `folder` for one seed.
///
/// Without `--resume`, a folder with checkpoints of this seed is refused: they would be lost. With it, the newest usable
/// checkpoint is taken, if its settings are these but for the keys to be changed; without a usable one the run begins anew.
pub fn start(
    folder: &Path,
    log: &str,
    settings: CheckpointRecipe,
    identity: Identity,
    args: &ResumeArgs,
) -> Result<Start> {
    let seed = identity.seed;
    let store = Store::new(&folder.join("checkpoints"), seed);
    let log_path = folder.join(log);
    let records = |log: JsonLines| {
        Records::new(log, args.record, seed)
            .context("what stands beside the log cannot be made from it; `--record none` goes on without")
    };
    let checkpoints = Checkpoints { folder: store.folder().to_owned(), settings, identity };
    if !args.resume {
        if !store.list()?.is_empty() {
            bail!(
                "{} holds a run of seed {} that was stopped: --resume goes on with it; to begin anew, choose another folder or \
                 remove {}",
                folder.display(),
                checkpoints.identity.seed,
                store.folder().display()
            );
        }
        return Ok(Start { records: records(JsonLines::append(&log_path)?)?, resume: None, checkpoints });
    }
    let long_enough = |s: &Snapshot| {
        let bytes = s.header.log_bytes.unwrap_or(0);
        JsonLines::check(&log_path, bytes)
    };
    let found = store.newest(long_enough)?;
    for skipped in &found.skipped {
        output::note(&format!("a checkpoint cannot be used: {skipped}"));
    }
    let Some((path, snapshot)) = found.snapshot else {
        output::note(&format!(
            "there is no usable checkpoint of seed {} in {}: starting from the beginning",
            checkpoints.identity.seed,
            store.folder().display()
        ));
        store.clear()?;
        return Ok(Start { records: records(JsonLines::resume(&log_path, 0)?)?, resume: None, checkpoints });
    };
    check(&path, &snapshot.header.identity, &checkpoints.identity, &args.change)?;
    let place = snapshot.header.place;
    output::note(&format!(
        "going on with {} in epoch {}, batch {}, from {}",
        if place.teacher { "the teacher" } else { "the students" },
        place.epoch,
        place.batch + 1,
        path.display()
    ));
    let log = JsonLines::resume(&log_path, snapshot.header.log_bytes.unwrap_or(0))?;
    Ok(Start { records: records(log)?, resume: Some(snapshot), checkpoints })
}

/// Whether a checkpoint belongs to this run.
fn check(path: &Path, stored: &Identity, own: &Identity, changes: &[String]) -> Result<()> {
    if stored.data != own.data {
        bail!(
            "{} was made with other images (SHA-256 {}…, now {}…)",
            path.display(),
            &stored.data[..12],
            &own.data[..12]
        );
    }
    let refused: Vec<String> = differences(&[&stored.config, &own.config])?
        .into_iter()
        .filter(|(key, _)| !changes.contains(key))
        .map(|(key, values)| format!("{key} was {}", values.join(", is ")))
        .collect();
    if !refused.is_empty() {
        bail!(
            "{} was made with other settings: {}. Use the same settings, or --change KEY for each that is meant to differ",
            path.display(),
            refused.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_settings_are_refused_unless_they_are_named() {
        let old = "[train]\nepochs = 3\n[[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'kd' }]";
        let new =
            "[train]\nepochs = 4\nseed = 1\n[[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'dkd' }]";
        let identity = |config: &str| Identity { config: config.to_owned(), data: "d".repeat(64), seed: 0 };
        let check = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            check(Path::new("c"), &identity(old), &identity(new), &changes)
        };
        let message = check(&[]).unwrap_err().to_string();
        assert!(message.contains("train.epochs was 3, is 4; train.seed was not set, is 1"), "{message}");
        let message = check(&["train.epochs"]).unwrap_err().to_string();
        assert!(message.contains("--change") && !message.contains("train.epochs"), "{message}");
        check(&["train.epochs", "train.seed", "rows.kd.loss.0.method"]).unwrap();
    }
}
