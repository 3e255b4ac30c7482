//! `dkd classify`.

use super::cpu;
use super::export::labels;
use crate::args::{ClassifyArgs, Common};
use crate::compute::precision;
use crate::output::{self, columns, shorten};
use crate::weights::{Trained, normalization, trained};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use dkd_datasets::picture;
use dkd_engine::{DropoutKey, Mode, SessionOptions};
use dkd_trainer::{EngineNetwork, Network};
use serde_json::json;

/// Says what is on images.
pub fn classify(args: &ClassifyArgs, common: &Common) -> Result<()> {
    let cpu = cpu(common)?;
    let Trained { graph, tensors, metadata, .. } = trained(&args.weights, args.classes, None)?;
    let n = normalization(args.mean, args.std, &metadata, None)?.context(
        "the weights' file has no normalisation; give the one of its training with --mean and --std",
    )?;
    let names = match &args.labels {
        Some(path) => labels(path)?,
        None => match metadata.class_names() {
            Some(names) => names,
            None => (0..graph.num_classes()).map(|class| class.to_string()).collect(),
        },
    };
    if names.len() != graph.num_classes() {
        bail!("{} labels for {} classes", names.len(), graph.num_classes());
    }
    let (channels, (height, width)) = (graph.input_shape().channels(), graph.input_shape().size());
    if channels != 3 {
        bail!("the network takes images of {channels} channels; images in files have 3");
    }
    let options =
        SessionOptions { max_batch: 1, train: false, taps: Vec::new(), precision: precision(common)? };
    let mut network = EngineNetwork::new(graph, &cpu, options, 0)?;
    network.load_state_dict(&tensors)?;
    let mut all = Vec::new();
    for (i, path) in args.images.iter().enumerate() {
        let image = picture::read(path, width, height)?;
        let mut values = vec![0.0_f32; 3 * height * width];
        for (x, y, pixel) in image.enumerate_pixels() {
            for c in 0..3 {
                let value = (f32::from(pixel.0[c]) / 255.0 - n.mean[c]) / n.std[c];
                values[(c * height + y as usize) * width + x as usize] = value;
            }
        }
        let batch = Tensor::from_vec(values, (1, 3, height, width), &Device::Cpu)?;
        network.forward(&batch, Mode::Eval, DropoutKey::default())?;
        let best = best(&network.logits()?.flatten_all()?.to_vec1()?, args.top);
        if args.json {
            let answer = |(class, p): &(usize, f64)| json!({"class": names[*class], "probability": p});
            all.push(json!({"image": path, "top": best.iter().map(answer).collect::<Vec<_>>()}));
            continue;
        }
        let row = |(class, p): &(usize, f64)| {
            vec![format!("  {}", shorten(&names[*class], 60)), format!("{:.2} %", 100.0 * p)]
        };
        let blank = if i > 0 { "\n" } else { "" };
        let table = columns(&best.iter().map(row).collect::<Vec<_>>(), 1);
        output::text(&format!("{blank}{}\n{table}", path.display()))?;
    }
    if args.json { output::json(&json!(all)) } else { Ok(()) }
}

/// The most likely classes with their probabilities.
fn best(logits: &[f32], count: usize) -> Vec<(usize, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(v - max).exp()).sum();
    let mut all: Vec<(usize, f64)> =
        logits.iter().map(|v| f64::from(v - max).exp() / sum).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_come_first() {
        let found = best(&[0.0, 2.0_f32.ln(), f32::NEG_INFINITY, 0.0], 3);
        assert_eq!(found.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [1, 0, 3]);
        assert!((found[0].1 - 0.5).abs() < 1e-6 && (found[1].1 - 0.25).abs() < 1e-6);
        assert_eq!(best(&[1.0], 5), [(0, 1.0)]);
    }
}
