//! `dkd export`.

use crate::args::{ExportArgs, ExportFormat};
use crate::output;
use crate::weights::{Trained, normalization, trained};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use dkd_models::checkpoint::{self, Metadata, save, save_pth};
use dkd_models::onnx::{OnnxInput, OnnxOptions, save_onnx};
use std::path::Path;

/// Largest file of labels that is read.
const LABELS_LIMIT: u64 = 4 << 20;

/// Writes a trained network in a format of others.
pub fn export(args: &ExportArgs) -> Result<()> {
    let format = format(args)?;
    if format != ExportFormat::Onnx && (args.fold_batch_norm || args.normalize) {
        bail!("--fold-batch-norm and --normalize change an ONNX graph; the other formats hold weights alone");
    }
    let Trained { model, graph, tensors, metadata } = trained(&args.weights, args.classes, args.image)?;
    let normalization = normalization(args.mean, args.std, &metadata, None)?
        .map(|n| checkpoint::Normalization { mean: n.mean.to_vec(), std: n.std.to_vec() });
    let labels = match &args.labels {
        Some(path) => labels(path)?,
        None => metadata.class_names().unwrap_or_default(),
    };
    if !labels.is_empty() && labels.len() != graph.num_classes() {
        bail!("{} labels for {} classes", labels.len(), graph.num_classes());
    }
    let image = graph.input_shape();
    let (height, width) = image.size();
    let mut about = Metadata::new(&model, graph.num_classes()).with_image((image.channels(), height, width));
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "dkd_format") {
        if about.get(key).is_none() {
            about = about.with(key, value);
        }
    }
    if let Some(n) = &normalization {
        about = about.with_normalization(n);
    }
    if !labels.is_empty() {
        about = about.with_class_names(&labels);
    }
    match format {
        ExportFormat::Onnx => {
            if args.normalize && normalization.is_none() {
                bail!("--normalize needs a normalisation: the file has none; give --mean and --std");
            }
            let input = if args.normalize { OnnxInput::Pixels } else { OnnxInput::Normalized };
            let fold_batch_norm = args.fold_batch_norm;
            let options =
                OnnxOptions { fold_batch_norm, normalization, input, labels, ..OnnxOptions::new(&model) };
            save_onnx(&args.out, &graph, &tensors, &options)?;
        }
        ExportFormat::Safetensors | ExportFormat::Pth => {
            // In the network's order, as PyTorch lists a state dictionary.
            let ordered =
                graph.params().iter().filter_map(|p| Some((p.name.clone(), tensors.get(&p.name)?.clone())));
            let ordered: Vec<(String, Tensor)> = ordered.collect();
            match format {
                ExportFormat::Pth => save_pth(&args.out, &ordered, &about)?,
                _ => save(&args.out, &ordered, &about)?,
            }
        }
    }
    let bytes = std::fs::metadata(&args.out).map_or(0, |m| m.len());
    output::line(&format!("{}: {model}, {} classes, {bytes} bytes", args.out.display(), graph.num_classes()))
}

/// The format that was asked for, or that the file's name means.
fn format(args: &ExportArgs) -> Result<ExportFormat> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    let extension = args.out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    Ok(match extension {
        "safetensors" => ExportFormat::Safetensors,
        "pth" | "pt" => ExportFormat::Pth,
        "onnx" => ExportFormat::Onnx,
        _ => bail!("`{}` does not end in .safetensors, .pth or .onnx; use --format", args.out.display()),
    })
}

/// One label to a line.
pub fn labels(path: &Path) -> Result<Vec<String>> {
    let text = dkd_files::read_text_limited(path, LABELS_LIMIT).context("the labels")?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
}
