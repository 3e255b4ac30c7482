//! Runs one network in both modes and compares everything that its reference holds.

use crate::fill;
use crate::reference::{Golden, Statistics, distance, l2};
use candle_core::{Device, Result, Tensor};
use dkd_engine::{DropoutKey, Graph, Mode, Op, Session, SessionOptions};
use std::collections::{BTreeMap, HashMap};

/// Differences beyond the tolerances, in words.
pub fn differences(golden: &Golden, graph: Graph) -> Vec<String> {
    let (eval, train, gradient) = golden.tolerances(rectified(&graph));
    let mut found = Found { model: &golden.name, messages: Vec::new() };
    let key = DropoutKey { seed: 0, epoch: 0, step: 0 };
    let taps: Vec<String> = graph.taps().iter().map(|t| t.name.clone()).collect();
    let options = SessionOptions { max_batch: golden.batch, train: true, taps };
    let cpu = dkd_kernels::Cpu::new(2).unwrap();
    let mut session = Session::new(graph, cpu, options).unwrap();
    session.load_state_dict(&weights(golden)).unwrap();
    let images = Tensor::from_vec(
        fill::images("input", golden.batch * 3 * 32 * 32),
        (golden.batch, 3, 32, 32),
        &Device::Cpu,
    )
    .unwrap();

    let want = &golden.modes.f64;
    session.forward(&images, Mode::Eval, key).unwrap();
    forward(golden, &session, "eval", want.eval.ce, &want.eval.feats, eval, &mut found);

    session.forward(&images, Mode::Train, key).unwrap();
    forward(golden, &session, "train", want.train.ce, &want.train.feats, train, &mut found);
    let buffers: HashMap<_, _> = session.state_dict().unwrap().into_iter().collect();
    for (which, layer) in [("first", &want.train.bn.first.name), ("last", &want.train.bn.last.name)] {
        for field in ["running_mean", "running_var"] {
            let expected = golden.tensor(&format!("train.bn_{which}.{field}.f64"));
            let d = distance(&flat(&buffers[&format!("{layer}.{field}")]), &expected);
            found.check(&format!("{layer}.{field}"), d, train);
        }
    }

    let loss = cross_entropy(&session.logits().unwrap()).unwrap();
    session.backward(&loss.backward().unwrap()).unwrap();
    gradients(golden, &session, gradient, &mut found);
    found.messages
}

/// Inputs of ReLUs in one image.
fn rectified(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|n| n.op == Op::Relu).map(|n| n.shape.elements()).sum()
}

struct Found<'a> {
    model: &'a str,
    messages: Vec<String>,
}

impl Found<'_> {
    /// Keeps a message unless `distance` is within `tolerance`; NaN never is.
    fn check(&mut self, what: &str, distance: f64, tolerance: f64) {
        if !distance.le(&tolerance) {
            self.messages.push(format!("{} {what}: {distance:.2e}, tolerance {tolerance:.2e}", self.model));
        }
    }
}

fn weights(golden: &Golden) -> HashMap<String, Tensor> {
    let tensor = |name: &str, shape: &[usize]| {
        Tensor::from_vec(fill::tensor(name, shape, golden.gain), shape, &Device::Cpu).unwrap()
    };
    golden.state_dict.iter().map(|e| (e.name.clone(), tensor(&e.name, &e.shape))).collect()
}

/// Elements in row-major order of the tensor's own shape.
fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Mean over the batch; the target of row i is class i.
fn cross_entropy(logits: &Tensor) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    let one_hot = Tensor::eye(classes, logits.dtype(), logits.device())?.narrow(0, 0, batch)?;
    let normaliser = logits.exp()?.sum(1)?.log()?;
    (normaliser - logits.mul(&one_hot)?.sum(1)?)?.mean_all()
}

fn forward(
    golden: &Golden,
    session: &Session,
    mode: &str,
    ce: f64,
    feats: &BTreeMap<String, Statistics>,
    tolerance: f64,
    found: &mut Found<'_>,
) {
    let logits = session.logits().unwrap();
    let d = distance(&flat(&logits), &golden.tensor(&format!("{mode}.logits.f64")));
    found.check(&format!("{mode} logits"), d, tolerance);
    let got = f64::from(cross_entropy(&logits).unwrap().to_scalar::<f32>().unwrap());
    found.check(&format!("{mode} cross-entropy"), (got - ce).abs() / ce, tolerance);
    for (name, want) in feats {
        let tap = session.tap(name).unwrap();
        assert_eq!(tap.dims(), want.shape, "{} {name}", golden.name);
        found.check(&format!("{mode} {name}"), want.distance(&flat(&tap)), tolerance);
    }
}

/// Norms count relative to their own size, or to a thousandth of the whole gradient if they are smaller, which is how
/// the precision beside the reference was measured.
fn gradients(golden: &Golden, session: &Session, tolerance: f64, found: &mut Found<'_>) {
    let want = &golden.modes.f64.train;
    let got: BTreeMap<String, Vec<f32>> =
        session.gradient_dict().unwrap().into_iter().map(|(name, g)| (name, flat(&g))).collect();
    assert!(got.keys().eq(want.grad_l2.keys()), "{}: one gradient per parameter", golden.name);
    let mut square = 0.0;
    for (name, gradient) in &got {
        let (norm, expected) = (l2(gradient), want.grad_l2[name]);
        square += norm * norm;
        let d = (norm - expected).abs() / expected.max(1e-3 * want.grad_total_l2);
        found.check(&format!("gradient of {name}"), d, tolerance);
    }
    let total = (square.sqrt() - want.grad_total_l2).abs() / want.grad_total_l2;
    found.check("whole gradient", total, tolerance);
    for (which, name) in [("first", &golden.grad_first_name), ("last", &golden.grad_last_name)] {
        let d = distance(&got[name], &golden.tensor(&format!("train.grad_{which}.f64")));
        found.check(&format!("elements of the gradient of {name}"), d, tolerance);
    }
}
