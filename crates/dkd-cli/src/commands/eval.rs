//! `dkd eval`.

use crate::args::{Common, EvalArgs};
use crate::compute::compute;
use crate::data::{names, obtain};
use crate::output::{self, columns, shorten};
use crate::weights::{Trained, fitted, foreign, normalization};
use anyhow::{Context, Result};
use dkd_datasets::{Loader, LoaderConfig, Normalization, has_any_size};
use dkd_trainer::{Assessment, CONFIDENCE_BINS, ClassSummary, assess};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Images in a batch: results do not depend on it.
const BATCH: usize = 100;

/// Classes that are shown without being asked for all.
const SHOWN: usize = 20;

/// Measures a trained network on the test split.
pub fn eval(args: &EvalArgs, common: &Common) -> Result<()> {
    let compute = compute(common)?;
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), "cifar10")?;
    let foreign = foreign(&args.weights)?;
    // A folder's images are brought to the size that the weights were trained on, if their file says so.
    let stored = foreign.metadata.image().filter(|_| has_any_size(&dataset));
    let size = stored.map(|(_, height, width)| (height, width));
    let data = obtain(&dataset, &source, size)?;
    let image = (3, data.test.height, data.test.width);
    let Trained { model, graph, tensors, metadata } =
        fitted(foreign, &args.weights, Some(data.num_classes()), Some(image))?;
    let normalization = normalization(args.mean, args.std, &metadata, Some(data.normalization))?
        .context("a data set has a normalisation")?;
    let options = compute.options(BATCH, false, Vec::new());
    let mut network = compute.network(graph, options, 0)?;
    let file = &args.weights.weights;
    network.load_state_dict(&tensors).with_context(|| format!("loading {}", file.display()))?;
    let chance = 100.0 / data.num_classes() as f64;
    let class_names = data.class_names;
    let config = LoaderConfig { batch_size: BATCH, shuffle: false, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(data.test), &normalization, config)
        .with_context(|| format!("images for {}", file.display()))?;
    let start = Instant::now();
    let result = assess(&mut *network, &loader)?;
    let rate = result.metrics.images as f64 / start.elapsed().as_secs_f64();
    if args.json {
        return output::json(&object(&model, &dataset, &class_names, &normalization, &result, rate));
    }
    let m = result.metrics;
    output::line(&format!(
        "{model} on {dataset}: top-1 {:.2} %, top-5 {:.2} %, loss {:.4}\n\
         calibration error {:.2} % ({CONFIDENCE_BINS} bins); {} images, {rate:.0} img/s\n",
        m.top1,
        m.top5,
        m.loss,
        result.calibration_error(),
        m.images
    ))?;
    output::text(&table(&result.classes(), &class_names, args.per_class))?;
    if m.top1 < 2.0 * chance {
        output::note(&format!(
            "this is close to chance ({chance:.1} %): check the normalisation (--mean, --std; used: {:?}, {:?}), the \
             data set and the order of its classes",
            normalization.mean, normalization.std
        ));
    }
    Ok(())
}

fn object(
    model: &str,
    dataset: &str,
    names: &[String],
    normalization: &Normalization,
    result: &Assessment,
    rate: f64,
) -> Value {
    let m = result.metrics;
    let class = |(class, s): (usize, &ClassSummary)| {
        json!({
            "class": names[class], "images": s.images, "recall": s.recall, "precision": s.precision,
            "taken_for": s.taken_for.map(|(other, n)| json!({"class": names[other], "images": n})),
        })
    };
    json!({
        "model": model, "dataset": dataset, "images": m.images, "top1": m.top1, "top5": m.top5, "loss": m.loss,
        "images_per_s": rate, "calibration_error": result.calibration_error(), "confidence_bins": result.bins,
        "normalization": {"mean": normalization.mean, "std": normalization.std},
        "classes": result.classes().iter().enumerate().map(class).collect::<Vec<_>>(),
    })
}

/// A line for each class: all of them, or the worst of many.
fn table(classes: &[ClassSummary], names: &[String], all: bool) -> String {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    let cut = !all && classes.len() > SHOWN;
    if cut {
        order.sort_by(|a, b| classes[*a].recall.total_cmp(&classes[*b].recall));
        order.truncate(SHOWN / 2);
    }
    let head = ["class", "most often taken for", "images", "recall", "precision"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for class in order {
        let s = &classes[class];
        let other = |(other, n): (usize, usize)| format!("{} ({n})", shorten(&names[other], 18));
        rows.push(vec![
            shorten(&names[class], 20),
            s.taken_for.map_or_else(String::new, other),
            s.images.to_string(),
            format!("{:.2}", s.recall),
            s.precision.map_or_else(|| "–".to_owned(), |p| format!("{p:.2}")),
        ]);
    }
    let mut text = columns(&rows, 2);
    if cut {
        text.push_str(&format!(
            "the {} worst of {} classes; --per-class shows all\n",
            SHOWN / 2,
            classes.len()
        ));
    }
    text
}
