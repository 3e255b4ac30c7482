//! What several integration tests share: tensors from plain numbers, gradients as numbers.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // each test binary uses its own part of it
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use dkd_kernels::Cpu;
use dkd_losses::{Objective, Result, Setup, StepDraw};

pub fn matrix(values: &[f64], rows: usize) -> Tensor {
    Tensor::from_vec(values.to_vec(), (rows, values.len() / rows), &Device::Cpu).unwrap()
}

pub fn labels(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

pub fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(candle_core::DType::F64).unwrap().to_scalar().unwrap()
}

pub fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Value and gradient of `loss` at `x`, in the dtype of `x`.
pub fn value_and_gradient(x: &Tensor, loss: impl Fn(&Tensor) -> Result<Tensor>) -> (f64, Vec<f64>) {
    let x = Var::from_tensor(x).unwrap();
    let value = loss(x.as_tensor()).unwrap();
    let store = value.backward().unwrap();
    (scalar(&value), numbers(store.get(&x).unwrap()))
}

/// Central differences of `loss` at `x` (f64).
pub fn central_differences(x: &Tensor, loss: impl Fn(&Tensor) -> Result<Tensor>) -> Vec<f64> {
    let (dims, base, h) = (x.dims2().unwrap(), numbers(x), 1e-5);
    let at = |i: usize, delta: f64| {
        let mut moved = base.clone();
        moved[i] += delta;
        scalar(&loss(&matrix(&moved, dims.0)).unwrap())
    };
    (0..base.len()).map(|i| (at(i, h) - at(i, -h)) / (2.0 * h)).collect()
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Two networks as a loss gets to know them before the first step.
pub struct Networks {
    pub student: BTreeMap<String, Vec<usize>>,
    pub teacher: BTreeMap<String, Vec<usize>>,
    pub norms: BTreeMap<String, String>,
    pub labels: Vec<u32>,
    pub cpu: Arc<Cpu>,
}

impl Networks {
    /// With these taps, whose maps before a ReLU come from the batch norm `bn` in the teacher; 40 training samples of 10 classes.
    pub fn new(student: &[(&str, &[usize])], teacher: &[(&str, &[usize])]) -> Self {
        let of = |taps: &[(&str, &[usize])]| -> BTreeMap<String, Vec<usize>> {
            taps.iter().map(|(name, dims)| ((*name).to_owned(), dims.to_vec())).collect()
        };
        let teacher = of(teacher);
        let norms =
            teacher.keys().filter(|n| n.starts_with("preact_feats")).map(|n| (n.clone(), format!("bn.{n}")));
        Self {
            norms: norms.collect(),
            student: of(student),
            teacher,
            labels: (0..40).map(|i| i % 10).collect(),
            cpu: Cpu::new(2).unwrap(),
        }
    }

    pub fn prepare(&self, objective: &mut dyn Objective) -> Result<()> {
        objective.prepare(&Setup {
            device: &Device::Cpu,
            cpu: &self.cpu,
            num_classes: 10,
            train_labels: &self.labels,
            student_taps: &self.student,
            teacher_taps: &self.teacher,
            teacher_norms: &self.norms,
            student_head: None,
            teacher_head: None,
            draw: &StepDraw { seed: 1, step: u64::MAX },
        })
    }
}
