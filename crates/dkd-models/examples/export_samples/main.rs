//! Files for a check with other programs: `cargo run --release -p dkd-models --example export_samples -- DIR [MODEL...]`.
//!
//! For each model (all, if none is named) `DIR` gets `MODEL.onnx`, which takes normalised images, `MODEL.folded.onnx`, which takes
//! pixel values and has its batch norms folded, the weights as `MODEL.pth` and `MODEL.weights.safetensors`, the layers as
//! `MODEL.json`, and `MODEL.safetensors` with 64 `images`, their `pixels`, and the engine's `logits`.

mod sample;

use dkd_files::atomic_write_bytes;
use dkd_models::Description;
use dkd_models::checkpoint::{Metadata, save, save_pth};
use dkd_models::onnx::OnnxInput;
use sample::{Result, Sample};
use std::path::PathBuf;

const IMAGES: usize = 64;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the first argument is the folder for the files")?);
    std::fs::create_dir_all(&folder)?;
    let mut names: Vec<String> = arguments.collect();
    if names.is_empty() {
        names = sample::all().map(str::to_owned).collect();
    }
    for name in names {
        let sample = Sample::new(&name, IMAGES)?;
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        atomic_write_bytes(&path("onnx"), &sample.onnx(OnnxInput::Normalized, false)?)?;
        atomic_write_bytes(&path("folded.onnx"), &sample.onnx(OnnxInput::Pixels, true)?)?;
        let mut weights: Vec<_> = sample.weights.clone().into_iter().collect();
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        save_pth(&path("pth"), &weights, &Metadata::default())?;
        save(&path("weights.safetensors"), &weights, &Metadata::default())?;
        atomic_write_bytes(&path("json"), Description::of(&sample.graph).to_json().as_bytes())?;
        let tensors = [("images", sample.images), ("pixels", sample.pixels), ("logits", sample.logits)];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
        let classes = sample.graph.num_classes();
        save(&path("safetensors"), &tensors, &Metadata::new(&name, classes))?;
    }
    Ok(())
}
