//! Trials that are trained together.

use crate::progress::Progress;
use anyhow::{Context as _, Result};
use dkd_datasets::Dataset;
use dkd_trainer::checkpoint::{Identity, Snapshot, Store};
use dkd_trainer::record::Host;
use dkd_trainer::search::{Cohort, Proposal, Trial};
use dkd_trainer::{Checkpoints, Compute, Context, Error, run};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What all trials share.
pub struct Job<'a> {
    pub compute: &'a Compute,
    pub host: &'a Host,
    pub stop: &'a AtomicBool,
    /// Images as the search cut them.
    pub data: &'a Dataset,
    /// Their fingerprint.
    pub sha256: &'a str,
    /// Folder of the search.
    pub out: &'a Path,
}

/// Trains a cohort, from the start or from where it was stopped.
pub fn train(cohort: &Cohort, job: &Job<'_>) -> Result<Vec<Trial>> {
    let recipe = &cohort.recipe;
    let seed = recipe.train.seed;
    let store = store(cohort, job);
    let identity = Identity { config: recipe.to_toml(), data: job.sha256.to_owned(), seed };
    let own = |snapshot: &Snapshot| {
        if snapshot.header.identity == identity {
            return Ok(());
        }
        Err(Error::Invalid("it is of other trials".to_owned()))
    };
    let resume = store.newest(own)?.snapshot.map(|(_, snapshot)| snapshot);
    if resume.is_none() {
        store.clear()?;
    }
    let mut progress = Progress::new().tested_with("held out");
    let mut context = Context {
        compute: job.compute.clone(),
        sink: &mut progress,
        // For the teacher's, which is trained once.
        weights: Some(job.out.join("weights")),
        host: Some(job.host.clone()),
        last: None,
        stop: job.stop,
        checkpoints: Some(Checkpoints {
            folder: store.folder().to_owned(),
            settings: recipe.checkpoints,
            identity: identity.clone(),
        }),
        resume,
        probe: None,
    };
    let results = run(recipe, job.data, seed, &mut context).map_err(|e| explained(e, job.out))?;
    let of = |proposal: &Proposal| {
        let result = results.iter().find(|r| r.row == proposal.id());
        result.map(|r| Trial::of(proposal, r)).with_context(|| format!("{} has no result", proposal.id()))
    };
    cohort.proposals.iter().map(of).collect()
}

/// Removes what nobody needs once results are stored: checkpoints, and the weights of trials. Whoever takes their settings trains
/// with them on all images.
pub fn tidy(cohort: &Cohort, job: &Job<'_>) -> Result<()> {
    store(cohort, job).clear()?;
    for row in &cohort.recipe.rows {
        let name = format!("{}-{}.safetensors", row.id, cohort.recipe.train.seed);
        let file = job.out.join("weights").join(name);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("`{}` cannot be removed", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn store(cohort: &Cohort, job: &Job<'_>) -> Store {
    Store::new(&job.out.join("checkpoints"), cohort.recipe.train.seed)
}

/// The error with what to do about it.
fn explained(error: Error, out: &Path) -> anyhow::Error {
    let advice = match error {
        Error::Interrupted { .. } => {
            format!("the search in {} goes on with --resume after the same command", out.display())
        }
        Error::Memory { .. } | Error::DeviceMemory { .. } => {
            "train fewer trials at once: `together` in the search's file".to_owned()
        }
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(advice)
}
