//! Whole runs of the trainer, as the program `dkd` does them.

use anyhow::{Result, anyhow};
use dkd_datasets::{Dataset, synthetic};
use dkd_engine::{Precision, Session, SessionOptions};
use dkd_kernels::Cpu;
use dkd_models::checkpoint::{Metadata, save};
use dkd_models::{ModelOptions, build};
use dkd_trainer::config::Config;
use dkd_trainer::{Compute, Context, Error, Recipe, Sink, run};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Seed of all runs.
pub const SEED: u64 = 5;

/// Reads a recipe.
pub fn recipe(text: &str) -> Result<Recipe> {
    Ok(Config::parse(text, "gpu-suite")?.check()?)
}

/// The given images, or as many generated ones as are needed.
pub fn images(given: Option<&Dataset>, train: usize, test: usize) -> Cow<'_, Dataset> {
    match given {
        Some(data) => Cow::Borrowed(data),
        None => Cow::Owned(synthetic::generate(&synthetic::Options { train, test, seed: 1 })),
    }
}

/// Trains until the end or until `stop` is set, with the weights written into a folder if there is one.
pub fn train(
    recipe: &Recipe,
    data: &Dataset,
    compute: Compute,
    weights: Option<PathBuf>,
    sink: &mut dyn Sink,
    stop: &AtomicBool,
) -> Result<()> {
    let mut context = Context {
        compute,
        sink,
        weights,
        host: None,
        last: None,
        stop,
        checkpoints: None,
        resume: None,
        probe: None,
    };
    match run(recipe, data, SEED, &mut context) {
        Ok(_) | Err(Error::Interrupted { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Writes a network's initial weights: a teacher that needs no training, and whose answers are as good as any to compute with.
pub fn untrained(model: &str, classes: usize, cpu: &Arc<Cpu>, file: &Path) -> Result<()> {
    let graph = build(model, &ModelOptions::new(classes))?;
    let options = SessionOptions { max_batch: 1, train: false, taps: Vec::new(), precision: Precision::F32 };
    let mut session = Session::new(graph, Arc::clone(cpu), options)?;
    session.init(SEED + 1);
    Ok(save(file, &session.state_dict()?, &Metadata::default())?)
}

/// A path in a recipe's text.
pub fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| anyhow!("{}: the path is no text", path.display()))?;
    Ok(format!("'{text}'"))
}
