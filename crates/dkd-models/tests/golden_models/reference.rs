//! What a reference file holds, and how far from it a result may be.

use candle_core::{DType, Tensor};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One network's file.
#[derive(Deserialize)]
pub struct Golden {
    #[serde(rename = "model")]
    pub name: String,
    pub gain: f64,
    pub batch: usize,
    pub num_classes: usize,
    pub modes: Modes,
    pub grad_first_name: String,
    pub grad_last_name: String,
    pub state_dict: Vec<Entry>,
    pub parameters: usize,
    f32_vs_f64: Precision,
    /// The tensors beside the JSON.
    #[serde(skip)]
    pub tensors: HashMap<String, Tensor>,
}

/// Results by precision; those in f64 are what we compare with.
#[derive(Deserialize)]
pub struct Modes {
    pub f64: Mode,
}

#[derive(Deserialize)]
pub struct Mode {
    pub eval: Eval,
    pub train: Train,
}

#[derive(Deserialize)]
pub struct Eval {
    pub ce: f64,
    pub feats: BTreeMap<String, Statistics>,
}

#[derive(Deserialize)]
pub struct Train {
    pub ce: f64,
    pub feats: BTreeMap<String, Statistics>,
    pub grad_l2: BTreeMap<String, f64>,
    pub grad_total_l2: f64,
    pub bn: BatchNorms,
}

#[derive(Deserialize)]
pub struct BatchNorms {
    pub first: Named,
    pub last: Named,
}

#[derive(Deserialize)]
pub struct Named {
    pub name: String,
}

#[derive(Deserialize)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub l2: f64,
}

/// Summary of a feature map.
#[derive(Deserialize)]
pub struct Statistics {
    pub shape: Vec<usize>,
    mean: f64,
    std: f64,
    l2: f64,
    first: Vec<f64>,
    last: Vec<f64>,
}

/// Relative distance of PyTorch's f32 result from its f64 result.
#[derive(Deserialize)]
struct Precision {
    eval_logits_rel_to_max: f64,
    train_logits_rel_to_max: f64,
    #[serde(rename = "train_grad_l2_worst_rel_floor_1e-3_of_total")]
    train_grad_l2: f64,
}

impl Golden {
    pub fn read(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut golden: Self =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(golden.name, name);
        golden.tensors = dkd_models::checkpoint::load(&path.with_extension("safetensors")).unwrap().0;
        golden
    }

    /// A tensor beside the JSON, flattened.
    pub fn tensor(&self, name: &str) -> Vec<f64> {
        let found = self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name));
        found.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Five times the distance of PyTorch's own f32 from its f64 on this network, or 1e-5, whichever is larger:
    /// forward values in evaluation mode, the same in training mode, and gradients.
    pub fn tolerances(&self) -> (f64, f64, f64) {
        let p = &self.f32_vs_f64;
        let rule = |distance: f64| (5.0 * distance).max(1e-5);
        (rule(p.eval_logits_rel_to_max), rule(p.train_logits_rel_to_max), rule(p.train_grad_l2))
    }
}

pub fn l2(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// Largest difference, relative to the largest reference value.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(f64::MIN_POSITIVE, |m, v| v.abs().max(m));
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, maximum) / largest
}

/// `f64::max` drops NaN; a difference must not get lost that way.
fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

impl Statistics {
    /// Largest difference of the summary of `values`: norm relative to itself, mean and standard deviation to the root
    /// mean square, single elements to the map's largest (as the precision beside the reference was measured).
    pub fn distance(&self, values: &[f32]) -> f64 {
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
