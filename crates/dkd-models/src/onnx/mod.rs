//! Networks as ONNX files, for other programs to run.
//!
//! The file holds one graph of opset 17 with the input `images`, float32 `[N, channels, height, width]`, and the output `logits`,
//! float32 `[N, classes]`. The number of images is free, their size is the network's. Weights are constants of the graph under
//! PyTorch's names; dropout and what only losses look at are left out. The same network, weights and options always give the same
//! bytes.
//!
//! What the input must be is the caller's choice ([`OnnxInput`]): normalised images, as training sees them, or pixel values from
//! 0 to 255, which the graph then normalises itself. Pixel values leave the least to do wrong. The file's metadata says which it
//! is: `input` is `normalized` or `pixels`; further keys are `model`, `num_classes`, `labels` (a JSON list of names), and
//! `normalization` (JSON with the lists `mean` and `std`, for values in 0 to 1).
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use dkd_models::checkpoint::Normalization;
//! use dkd_models::onnx::{OnnxInput, OnnxOptions, save_onnx};
//! use dkd_models::{ModelOptions, build};
//! use std::collections::HashMap;
//! let graph = build("resnet8", &ModelOptions::new(2))?;
//! let weights = graph.params().iter().map(|p| {
//!     Ok((p.name.clone(), Tensor::from_vec(p.initial_values(0), p.shape.as_slice(), &Device::Cpu)?))
//! });
//! let weights = weights.collect::<candle_core::Result<HashMap<_, _>>>()?;
//! let folder = tempfile::tempdir()?;
//! let options = OnnxOptions {
//!     labels: vec!["cat".to_owned(), "dog".to_owned()],
//!     normalization: Some(Normalization { mean: vec![0.5; 3], std: vec![0.25; 3] }),
//!     input: OnnxInput::Pixels,
//!     fold_batch_norm: true,
//!     ..OnnxOptions::new("resnet8")
//! };
//! save_onnx(&folder.path().join("resnet8.onnx"), &graph, &weights, &options)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod fold;
mod nodes;
mod proto;
mod routes;
mod weights;

#[cfg(test)]
mod tests;

use crate::checkpoint::{Metadata, Normalization};
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_engine::Graph;
use nodes::Writer;
use prost::Message;
use proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use std::collections::HashMap;
use std::path::Path;

/// Version of the operators.
const OPSET: i64 = 17;

/// Version of the file format that came with these operators.
const IR_VERSION: i64 = 8;

/// Name of the input.
const INPUT: &str = "images";

/// Name of the output.
const OUTPUT: &str = "logits";

/// Most bytes that programs read as one protobuf message.
const MAX_BYTES: usize = i32::MAX as usize;

/// What the exported network takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxInput {
    /// Images as in training: `(pixel / 255 - mean) / std`.
    #[default]
    Normalized,
    /// Pixel values from 0 to 255, as float32. [`OnnxOptions::normalization`] becomes part of the graph.
    Pixels,
}

/// How a network is exported, and what is written beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxOptions {
    /// Name of the model.
    pub model: String,
    /// Names of the classes in the order of the logits, or none at all.
    pub labels: Vec<String>,
    /// What images were normalised with in training: metadata, and with [`OnnxInput::Pixels`] part of the graph.
    pub normalization: Option<Normalization>,
    /// What the exported network takes.
    pub input: OnnxInput,
    /// Whether a batch norm becomes part of the convolution or linear layer before it, in f64. One that follows something else, or
    /// a layer with more than one reader, stays.
    pub fold_batch_norm: bool,
}

impl OnnxOptions {
    /// Normalised images, batch norms as they are, no labels.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            labels: Vec::new(),
            normalization: None,
            input: OnnxInput::Normalized,
            fold_batch_norm: false,
        }
    }

    fn check(&self, graph: &Graph) -> Result<()> {
        let fail = |option, value: String, expected| Err(Error::Option { option, value, expected });
        if self.model.is_empty() {
            return fail("model", "\"\"".to_owned(), "a name; ONNX has no graphs without one");
        }
        let (labels, classes) = (self.labels.len(), graph.num_classes());
        if labels != 0 && labels != classes {
            return fail(
                "labels",
                format!("{labels} names for {classes} classes"),
                "one for each class, or none",
            );
        }
        let Some(n) = &self.normalization else {
            return match self.input {
                OnnxInput::Normalized => Ok(()),
                OnnxInput::Pixels => {
                    fail("normalization", "none".to_owned(), "must be known if pixels are the input")
                }
            };
        };
        let channels = graph.input_shape().channels();
        let finite = n.mean.iter().chain(&n.std).all(|v| v.is_finite());
        if [n.mean.len(), n.std.len()] != [channels; 2] || !finite || n.std.iter().any(|s| *s <= 0.0) {
            let value = format!("mean {:?}, std {:?} for {channels} channels", n.mean, n.std);
            return fail("normalization", value, "a mean and a standard deviation above 0 for each channel");
        }
        Ok(())
    }

    fn metadata(&self, graph: &Graph) -> Metadata {
        let input = match self.input {
            OnnxInput::Normalized => "normalized",
            OnnxInput::Pixels => "pixels",
        };
        let mut metadata = Metadata::new(&self.model, graph.num_classes()).with("input", input);
        if !self.labels.is_empty() {
            let json = serde_json::to_string(&self.labels).expect("a list of text is JSON");
            metadata = metadata.with("labels", &json);
        }
        match &self.normalization {
            Some(n) => metadata.with_normalization(n),
            None => metadata,
        }
    }

    fn doc(&self, graph: &Graph) -> String {
        let input = match self.input {
            OnnxInput::Normalized => "normalised as in training",
            OnnxInput::Pixels => "of pixel values from 0 to 255",
        };
        let (shape, classes) = (graph.input_shape(), graph.num_classes());
        format!(
            "{}: `{INPUT}` are N float32 images of {shape} (channels x height x width), {input}; `{OUTPUT}` are {classes} logits \
             for each",
            self.model
        )
    }
}

/// Writes `graph` with `weights` to `path`, all or nothing.
///
/// # Errors
/// As [`to_onnx`], and a file that cannot be written.
pub fn save_onnx(
    path: &Path,
    graph: &Graph,
    weights: &HashMap<String, Tensor>,
    options: &OnnxOptions,
) -> Result<()> {
    Ok(dkd_files::atomic_write_bytes(path, &to_onnx(graph, weights, options)?)?)
}

/// The bytes of an ONNX file of `graph` in evaluation mode. `weights` are f32 tensors in PyTorch's names and layouts, as
/// [`dkd_engine::Session::state_dict`] and [`crate::checkpoint::fit`] give them; others among them are not looked at.
///
/// # Errors
/// * [`Error::Tensor`]: a weight that is missing, has another shape or type, or is not finite, or a negative variance; with
///   folding also a product that is not finite.
/// * [`Error::Option`]: as many labels as classes are needed, or none; a normalisation that does not fit the images.
/// * [`Error::Onnx`]: an operation without a counterpart, or 2 GiB and more.
pub fn to_onnx(graph: &Graph, weights: &HashMap<String, Tensor>, options: &OnnxOptions) -> Result<Vec<u8>> {
    options.check(graph)?;
    let mut writer = Writer::new(graph, weights, options.fold_batch_norm);
    if let (OnnxInput::Pixels, Some(n)) = (options.input, &options.normalization) {
        writer.normalize(n);
    }
    let entry = |(key, value): (&str, &str)| StringStringEntryProto {
        key: key.to_owned(),
        value: Some(value.to_owned()),
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "dkd".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: options.doc(graph),
        graph: Some(writer.write(&options.model)?),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: OPSET }],
        metadata_props: options.metadata(graph).iter().map(entry).collect(),
    };
    check_size(model.encoded_len())?;
    Ok(model.encode_to_vec())
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes > MAX_BYTES {
        let problem = format!(
            "the file would have {bytes} bytes, and protobuf allows {MAX_BYTES}; export a smaller network"
        );
        return Err(Error::Onnx(problem));
    }
    Ok(())
}
