//! `dkd eval`.

use super::cpu;
use crate::args::{Common, EvalArgs};
use crate::data::{names, obtain};
use crate::output;
use anyhow::{Context, Result, bail};
use dkd_datasets::{Loader, LoaderConfig, Normalization};
use dkd_engine::SessionOptions;
use dkd_models::{ModelOptions, checkpoint};
use dkd_trainer::{EngineNetwork, Network, evaluate};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Images in a batch: results do not depend on it.
const BATCH: usize = 100;

/// Measures a trained network on the test split.
pub fn eval(args: &EvalArgs, common: &Common) -> Result<()> {
    let cpu = cpu(common)?;
    let (tensors, metadata) = checkpoint::load(&args.weights)?;
    let model = args.model.as_deref().or(metadata.model());
    let model = model.context("the weights' file does not name its network; use --model M")?;
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), "cifar10")?;
    let data = obtain(&dataset, &source)?;
    let normalization = normalization(args, &metadata, data.normalization)?;
    let image = (3, data.test.height, data.test.width);
    let graph = dkd_models::build(model, &ModelOptions { image, ..ModelOptions::new(data.num_classes()) })?;
    let options = SessionOptions { max_batch: BATCH, train: false, taps: Vec::new() };
    let mut network = EngineNetwork::new(graph, &cpu, options, 0)?;
    network.load_state_dict(&tensors).with_context(|| format!("loading {}", args.weights.display()))?;
    let chance = 100.0 / data.num_classes() as f64;
    let config = LoaderConfig { batch_size: BATCH, shuffle: false, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(data.test), &normalization, config)
        .with_context(|| format!("images for {}", args.weights.display()))?;
    let start = Instant::now();
    let metrics = evaluate(&mut [&mut network], &loader)?[0];
    let rate = metrics.images as f64 / start.elapsed().as_secs_f64();
    if args.json {
        return output::json(&json!({
            "model": model, "dataset": dataset, "images": metrics.images, "top1": metrics.top1,
            "top5": metrics.top5, "loss": metrics.loss, "images_per_s": rate,
        }));
    }
    output::line(&format!(
        "{model} on {dataset}: top-1 {:.2} %, top-5 {:.2} %, loss {:.4} ({} images, {rate:.0} img/s)",
        metrics.top1, metrics.top5, metrics.loss, metrics.images
    ))?;
    if metrics.top1 < 2.0 * chance {
        output::note(&format!(
            "this is close to chance ({chance:.1} %): check the normalisation (--mean, --std; used: {:?}, {:?}), the \
             data set and the order of its classes",
            normalization.mean, normalization.std
        ));
    }
    Ok(())
}

/// From the options, else from the file, else the data set's.
fn normalization(
    args: &EvalArgs,
    metadata: &checkpoint::Metadata,
    default: Normalization,
) -> Result<Normalization> {
    let three = |v: &[f32], name: &str| -> Result<[f32; 3]> {
        let Ok(values) = <[f32; 3]>::try_from(v) else { bail!("{name} has {} values, expected 3", v.len()) };
        Ok(values)
    };
    let stored = match metadata.normalization() {
        Some(n) => Normalization { mean: three(&n.mean, "stored mean")?, std: three(&n.std, "stored std")? },
        None => default,
    };
    Ok(Normalization { mean: args.mean.unwrap_or(stored.mean), std: args.std.unwrap_or(stored.std) })
}
