//! Starting a run, or going on with one.

use crate::output;
use anyhow::{Result, bail};
use dkd_trainer::Checkpoints;
use dkd_trainer::checkpoint::{Identity, Policy, Snapshot, Store};
use dkd_trainer::record::JsonLines;
use std::collections::BTreeMap;
use std::path::Path;

/// What a run needs to start or to go on.
pub struct Start {
    /// The log, which ends where the run goes on.
    pub log: JsonLines,
    /// Where it goes on; at the beginning without it.
    pub resume: Option<Snapshot>,
    /// Where further checkpoints go.
    pub checkpoints: Checkpoints,
}

/// Opens log and checkpoints in `folder` for one seed.
///
/// Without `resume`, a folder with checkpoints of this seed is refused: they would be lost. With it, the newest usable
/// checkpoint is taken, if its settings are these but for the keys in `changes`; without a usable one the run begins anew.
pub fn start(
    folder: &Path,
    log: &str,
    identity: Identity,
    resume: bool,
    changes: &[String],
) -> Result<Start> {
    let store = Store::new(&folder.join("checkpoints"), identity.seed);
    let log_path = folder.join(log);
    let checkpoints = Checkpoints { folder: store.folder().to_owned(), policy: Policy::default(), identity };
    if !resume {
        if !store.list()?.is_empty() {
            bail!(
                "{} holds a run of seed {} that was stopped: --resume goes on with it; to begin anew, choose another folder or \
                 remove {}",
                folder.display(),
                checkpoints.identity.seed,
                store.folder().display()
            );
        }
        return Ok(Start { log: JsonLines::append(&log_path)?, resume: None, checkpoints });
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
        return Ok(Start { log: JsonLines::resume(&log_path, 0)?, resume: None, checkpoints });
    };
    check(&path, &snapshot.header.identity, &checkpoints.identity, changes)?;
    let place = snapshot.header.place;
    output::note(&format!(
        "going on with {} in epoch {}, batch {}, from {}",
        if place.teacher { "the teacher" } else { "the students" },
        place.epoch,
        place.batch + 1,
        path.display()
    ));
    let log = JsonLines::resume(&log_path, snapshot.header.log_bytes.unwrap_or(0))?;
    Ok(Start { log, resume: Some(snapshot), checkpoints })
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
    let refused: Vec<String> = differences(&stored.config, &own.config)?
        .into_iter()
        .filter(|d| !changes.contains(&d.0))
        .map(text)
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

fn text((key, old, new): (String, String, String)) -> String {
    format!("{key} was {old}, is {new}")
}

/// Keys that differ, with both values.
fn differences(old: &str, new: &str) -> Result<Vec<(String, String, String)>> {
    let (old, new) = (flat(old)?, flat(new)?);
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |map: &BTreeMap<String, String>, key: &str| {
        map.get(key).cloned().unwrap_or_else(|| "not set".to_owned())
    };
    let all = keys.into_iter().map(|k| (k.clone(), value(&old, k), value(&new, k)));
    Ok(all.filter(|(_, old, new)| old != new).collect())
}

/// Settings by their dotted names, a row's by its id.
fn flat(text: &str) -> Result<BTreeMap<String, String>> {
    fn add(prefix: &str, value: &toml::Value, to: &mut BTreeMap<String, String>) {
        let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(k, v)| add(&name(k), v, to)),
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (i, item) in items.iter().enumerate() {
                    let id = item.get("id").and_then(toml::Value::as_str);
                    add(&name(id.unwrap_or(&i.to_string())), item, to);
                }
            }
            other => {
                to.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut all = BTreeMap::new();
    add("", &toml::Value::Table(text.parse()?), &mut all);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_settings_are_named() {
        let old = "[train]\nepochs = 3\n[[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'kd' }]";
        let new =
            "[train]\nepochs = 4\nseed = 1\n[[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'dkd' }]";
        let found: Vec<String> = differences(old, new).unwrap().into_iter().map(text).collect();
        let expected = [
            "rows.kd.loss.0.method was \"kd\", is \"dkd\"",
            "train.epochs was 3, is 4",
            "train.seed was not set, is 1",
        ];
        assert_eq!(found, expected);
        assert!(differences(old, old).unwrap().is_empty());
        let identity = |config: &str| Identity { config: config.to_owned(), data: "d".repeat(64), seed: 0 };
        let check = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            check(Path::new("c"), &identity(old), &identity(new), &changes)
        };
        let message = check(&["train.epochs"]).unwrap_err().to_string();
        assert!(message.contains("--change") && !message.contains("train.epochs"), "{message}");
        check(&["train.epochs", "train.seed", "rows.kd.loss.0.method"]).unwrap();
    }
}
