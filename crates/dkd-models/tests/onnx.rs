//! Exported files, run by tract, against the engine's logits.
//!
//! tract is another reader of ONNX: it decodes the files with the whole schema and computes with kernels of its own.
//! `cargo xtask onnx-check` does the same with onnxruntime.
#![allow(clippy::unwrap_used)]

#[path = "../examples/export_samples/sample.rs"]
mod sample;

use candle_core::Tensor;
use dkd_models::onnx::OnnxInput;
use sample::Sample;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, tvec};

/// Largest difference, relative to the largest logit or 1.
const TOLERANCE: f32 = 1e-4;

/// Multiply-accumulates that one network may take with one file. It decides on the number of images.
const BUDGET: usize = 300_000_000;

/// tract's logits for batches of 1, 3 and the remaining images, all with one plan.
fn tract(file: &[u8], images: &Tensor) -> Vec<f32> {
    let model = tract_onnx::onnx().model_for_read(&mut &*file).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let (mut start, mut logits) = (0, Vec::new());
    for n in [1, 3, images.dims()[0] - 4] {
        let batch = images.narrow(0, start, n).unwrap();
        let values = batch.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let input = tract_onnx::prelude::Tensor::from_shape(batch.dims(), &values).unwrap();
        let output = model.run(tvec!(input.into_tvalue())).unwrap();
        logits.extend(output[0].to_plain_array_view::<f32>().unwrap().iter());
        start += n;
    }
    logits
}

/// Largest difference to the engine's logits.
fn distance(sample: &Sample, got: &[f32]) -> f32 {
    let want = sample.logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    assert!((0.05..1e3).contains(&largest), "logits of no ordinary size: {largest}");
    // NaN is no difference that a maximum would keep.
    let differences = got.iter().zip(&want).map(|(g, w)| (g - w).abs());
    differences.fold(0.0, |m: f32, d| if d <= m { m } else { d }) / largest.max(1.0)
}

/// Files with batch norms and without: every listed model.
#[test]
fn every_model_computes_the_same() {
    let models: Vec<&str> = sample::all().collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let check = |name: &str| {
        let count = (BUDGET / sample::graph(name).unwrap().macs()).clamp(8, 64);
        let sample = Sample::new(name, count).unwrap();
        let distances = [false, true].map(|fold| {
            let file = sample.onnx(OnnxInput::Normalized, fold).unwrap();
            distance(&sample, &tract(&file, &sample.images))
        });
        let line = format!("{name}: {count} images, {:.1e} and folded {:.1e}", distances[0], distances[1]);
        println!("{line}");
        if distances.iter().any(|d| d.is_nan() || *d >= TOLERANCE) {
            failures.lock().unwrap().push(line);
        }
    };
    // tract computes on one thread.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(name);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "differences of {TOLERANCE} and more:\n{}", failures.join("\n"));
}

#[test]
fn pixels_are_normalised_by_the_graph() {
    for fold in [false, true] {
        let sample = Sample::new("resnet8", 16).unwrap();
        let file = sample.onnx(OnnxInput::Pixels, fold).unwrap();
        assert!(distance(&sample, &tract(&file, &sample.pixels)) < TOLERANCE);
        assert!(distance(&sample, &tract(&file, &sample.images)) > 0.01, "the input matters");
    }
}

/// The complete schema, not this crate's part of it, finds everything in its place.
#[test]
fn the_whole_schema_reads_the_file() {
    let sample = Sample::new("resnet8", 8).unwrap();
    let file = sample.onnx(OnnxInput::Pixels, false).unwrap();
    let model = tract_onnx::onnx().proto_model_for_read(&mut &*file).unwrap();
    assert_eq!((model.ir_version, model.producer_name.as_str()), (8, "dkd"));
    assert_eq!((model.opset_import[0].domain.as_str(), model.opset_import[0].version), ("", 17));
    let graph = model.graph.unwrap();
    assert_eq!((graph.name.as_str(), graph.input.len(), graph.output.len()), ("resnet8", 1, 1));
    let weights = graph.initializer.iter().filter(|t| !t.name.starts_with("images/"));
    let got: Vec<_> = weights.map(|t| (t.name.as_str(), t.dims.clone())).collect();
    let dims = |shape: &[usize]| shape.iter().map(|d| *d as i64).collect::<Vec<_>>();
    let mut want: Vec<_> = sample.graph.params().iter().map(|p| (p.name.as_str(), dims(&p.shape))).collect();
    let mut sorted = got.clone();
    sorted.sort();
    want.sort();
    assert_eq!(sorted, want);
    let labels = model.metadata_props.iter().find(|p| p.key == "labels").unwrap();
    assert!(labels.value.starts_with(r#"["class 0","class 1""#), "{}", labels.value);
}
