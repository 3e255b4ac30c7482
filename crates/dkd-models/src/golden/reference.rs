//! What a reference file holds, and how far from it a result may be.

use super::{Result, Tolerances, fill};
use candle_core::{DType, Device, Tensor};
use dkd_engine::{Graph, Precision, SessionOptions};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One network's file.
#[derive(Deserialize)]
pub struct Golden {
    /// Its name in the registry.
    #[serde(rename = "model")]
    pub name: String,
    /// Of its weights.
    pub gain: f64,
    /// Images.
    pub batch: usize,
    /// Classes.
    pub num_classes: usize,
    pub(super) modes: Modes,
    pub(super) grad_first_name: String,
    pub(super) grad_last_name: String,
    /// Weights and statistics.
    pub state_dict: Vec<Entry>,
    /// Trainable numbers.
    pub parameters: usize,
    f32_vs_f64: Exactness,
    /// The tensors beside the JSON.
    #[serde(skip)]
    tensors: HashMap<String, Tensor>,
}

/// Results by precision; those in f64 are what we compare with.
#[derive(Deserialize)]
pub(super) struct Modes {
    pub f64: Mode,
}

#[derive(Deserialize)]
pub(super) struct Mode {
    pub eval: Eval,
    pub train: Train,
}

#[derive(Deserialize)]
pub(super) struct Eval {
    pub ce: f64,
    pub feats: BTreeMap<String, Statistics>,
}

#[derive(Deserialize)]
pub(super) struct Train {
    pub ce: f64,
    pub feats: BTreeMap<String, Statistics>,
    pub grad_l2: BTreeMap<String, f64>,
    pub grad_total_l2: f64,
    pub bn: BatchNorms,
}

#[derive(Deserialize)]
pub(super) struct BatchNorms {
    pub first: Named,
    pub last: Named,
}

#[derive(Deserialize)]
pub(super) struct Named {
    pub name: String,
}

/// A tensor of the state dictionary.
#[derive(Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its norm.
    pub l2: f64,
}

/// Summary of a feature map.
#[derive(Deserialize)]
pub(super) struct Statistics {
    pub shape: Vec<usize>,
    mean: f64,
    std: f64,
    l2: f64,
    first: Vec<f64>,
    last: Vec<f64>,
}

/// Relative distance of PyTorch's f32 result from its f64 result.
#[derive(Deserialize)]
struct Exactness {
    eval_logits_rel_to_max: f64,
    train_logits_rel_to_max: f64,
    #[serde(rename = "train_grad_l2_worst_rel_floor_1e-3_of_total")]
    train_grad_l2: f64,
}

impl Golden {
    /// Reads one.
    ///
    /// # Errors
    /// One of its two files cannot be read, or is of another network.
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.json"));
        let file = path.display();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{file}: {e}"))?;
        let mut golden: Self = serde_json::from_str(&text).map_err(|e| format!("{file}: {e}"))?;
        if golden.name != name {
            return Err(format!("{file}: `model` is `{}`, expected `{name}`", golden.name).into());
        }
        golden.tensors = crate::checkpoint::load(&path.with_extension("safetensors"))?.0;
        Ok(golden)
    }

    /// The network, without dropout.
    ///
    /// # Errors
    /// The registry's.
    pub fn graph(&self) -> crate::Result<Graph> {
        crate::build(&self.name, &crate::ModelOptions::new(self.num_classes).dropout(0.0))
    }

    /// What a session for [`compare`](super::compare) is made with.
    pub fn options(&self, graph: &Graph) -> SessionOptions {
        let taps = graph.taps().iter().map(|t| t.name.clone()).collect();
        SessionOptions { max_batch: self.batch, train: true, taps, precision: Precision::F32 }
    }

    /// The weights that the reference was computed with.
    ///
    /// # Errors
    /// A name for which there is no rule.
    pub fn weights(&self) -> Result<HashMap<String, Tensor>> {
        let tensor = |entry: &Entry| {
            let values = fill::tensor(&entry.name, &entry.shape, self.gain)?;
            Ok((entry.name.clone(), Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu)?))
        };
        self.state_dict.iter().map(tensor).collect()
    }

    /// A tensor beside the JSON, flattened.
    pub(super) fn tensor(&self, name: &str) -> Result<Vec<f64>> {
        let found = self.tensors.get(name).ok_or_else(|| format!("{}: no tensor `{name}`", self.name))?;
        Ok(found.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }

    /// For f32: five times the distance of PyTorch's own f32 from its f64 on this network, or 1e-5, whichever is larger.
    pub fn tolerances(&self) -> Tolerances {
        let p = &self.f32_vs_f64;
        let rule = |distance: f64| (5.0 * distance).max(1e-5);
        Tolerances {
            eval: rule(p.eval_logits_rel_to_max),
            train: rule(p.train_logits_rel_to_max),
            gradient: rule(p.train_grad_l2),
        }
    }
}

/// The Euclidean norm.
pub fn l2(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// Largest difference, relative to the largest reference value; infinite if there are not as many.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let largest = want.iter().fold(f64::MIN_POSITIVE, |m, v| v.abs().max(m));
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, maximum) / largest
}

/// `f64::max` drops NaN; a difference must not get lost that way.
pub(super) fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

impl Statistics {
    /// Largest difference of the summary of `values`: norm relative to itself, mean and standard deviation to the root
    /// mean square, single elements to the map's largest (as the precision beside the reference was measured).
    pub fn distance(&self, values: &[f32]) -> f64 {
        if values.len() < self.first.len().max(self.last.len()) {
            return f64::INFINITY;
        }
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let rms = self.l2 / n.sqrt();
        let whole =
            [(mean - self.mean) / rms, (variance.sqrt() - self.std) / rms, (l2(values) - self.l2) / self.l2];
        let (first, last) = (&values[..self.first.len()], &values[values.len() - self.last.len()..]);
        let single = first.iter().zip(&self.first).chain(last.iter().zip(&self.last));
        let largest = values.iter().fold(0.0, |m: f64, v| f64::from(v.abs()).max(m));
        let single = single.map(|(got, want)| (f64::from(*got) - want) / largest);
        whole.into_iter().chain(single).map(f64::abs).fold(0.0, maximum)
    }
}
