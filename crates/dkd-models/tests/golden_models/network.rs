//! Runs one network in both modes and compares everything that its reference holds.

use crate::fill;
use crate::reference::{Golden, Statistics, distance, l2};
use candle_core::{Device, Result, Tensor};
use dkd_engine::{DropoutKey, Graph, Mode, Precision, Session, SessionOptions};
use dkd_kernels::rng::{Purpose, Stream};
use std::collections::{BTreeMap, HashMap};

/// How many inputs are tried that differ from the reference's by rounding only. In a network of 56 layers one in some
/// tens has every sign as f64 has it.
const NEIGHBOURS: u64 = 300;

/// What came out of one network.
pub struct Outcome {
    /// Differences beyond the tolerances, in words.
    pub differences: Vec<String>,
    /// Which neighbouring input has the reference's gradient, if the input itself has another.
    pub neighbour: Option<u64>,
}

/// Compares one network with its reference.
///
/// The forward pass must hold for the input itself. The gradient is not a continuous function of it: among millions of
/// values before a ReLU some are zero to within rounding, and each sign that falls differently than in f64 moves the
/// gradient of the early layers by up to a percent. So a gradient counts as right if it is right for the input, or for
/// one whose pixels differ from it by less than a unit in the last place. A wrong formula is wrong for all of them.
pub fn compare(golden: &Golden, graph: Graph) -> Outcome {
    let images = fill::images("input", golden.batch * 3 * 32 * 32);
    let mut network = Network::new(golden, graph);
    let mut differences = network.forward(&images, Mode::Eval);
    differences.extend(network.forward(&images, Mode::Train));
    differences.extend(network.statistics());
    let gradient = network.gradient();
    let neighbour = (1..=NEIGHBOURS).filter(|_| !gradient.is_empty()).find(|i| {
        network.run(&moved(&images, *i), Mode::Train);
        network.gradient().is_empty()
    });
    if neighbour.is_none() {
        differences.extend(gradient);
    }
    Outcome { differences, neighbour }
}

/// Every pixel times a random factor within 1 +- 2^-23.
fn moved(images: &[f32], salt: u64) -> Vec<f32> {
    let s = Stream::new(salt, Purpose::Other, 0, 0);
    let factor = |i: usize| 1.0 + f32::EPSILON * (2.0 * s.uniform(i as u64) - 1.0);
    images.iter().enumerate().map(|(i, v)| v * factor(i)).collect()
}

struct Network<'a> {
    golden: &'a Golden,
    session: Session,
}

impl<'a> Network<'a> {
    fn new(golden: &'a Golden, graph: Graph) -> Self {
        let taps: Vec<String> = graph.taps().iter().map(|t| t.name.clone()).collect();
        let options =
            SessionOptions { max_batch: golden.batch, train: true, taps, precision: Precision::F32 };
        let mut session = Session::new(graph, dkd_kernels::Cpu::new(2).unwrap(), options).unwrap();
        let tensor = |name: &str, shape: &[usize]| {
            Tensor::from_vec(fill::tensor(name, shape, golden.gain), shape, &Device::Cpu).unwrap()
        };
        let entries = golden.state_dict.iter();
        let weights: HashMap<_, _> = entries.map(|e| (e.name.clone(), tensor(&e.name, &e.shape))).collect();
        session.load_state_dict(&weights).unwrap();
        Self { golden, session }
    }

    fn run(&mut self, images: &[f32], mode: Mode) {
        let shape = (self.golden.batch, 3, 32, 32);
        let images = Tensor::from_slice(images, shape, &Device::Cpu).unwrap();
        self.session.forward(&images, mode, DropoutKey::default()).unwrap();
    }

    /// Runs the batch; differences of logits, cross-entropy and feature maps.
    fn forward(&mut self, images: &[f32], mode: Mode) -> Vec<String> {
        self.run(images, mode);
        let (golden, want) = (self.golden, &self.golden.modes.f64);
        let (name, ce, feats, tolerance) = match mode {
            Mode::Eval => ("eval", want.eval.ce, &want.eval.feats, golden.tolerances().0),
            Mode::Train => ("train", want.train.ce, &want.train.feats, golden.tolerances().1),
        };
        let mut found = Found { context: format!("{} {name}", golden.name), tolerance, messages: Vec::new() };
        let logits = self.session.logits().unwrap();
        found.check("logits", distance(&flat(&logits), &golden.tensor(&format!("{name}.logits.f64"))));
        let got = f64::from(cross_entropy(&logits).unwrap().to_scalar::<f32>().unwrap());
        found.check("cross-entropy", (got - ce).abs() / ce);
        for (tap, want) in feats {
            found.check(tap, self.feature_map(tap, want));
        }
        found.messages
    }

    fn feature_map(&self, tap: &str, want: &Statistics) -> f64 {
        let got = self.session.tap(tap).unwrap();
        assert_eq!(got.dims(), want.shape, "{} {tap}", self.golden.name);
        want.distance(&flat(&got))
    }

    /// Differences of the running statistics after one batch in training mode.
    fn statistics(&self) -> Vec<String> {
        let (golden, bn) = (self.golden, &self.golden.modes.f64.train.bn);
        let mut found =
            Found { context: golden.name.clone(), tolerance: golden.tolerances().1, messages: Vec::new() };
        let tensors: HashMap<_, _> = self.session.state_dict().unwrap().into_iter().collect();
        for (which, layer) in [("first", &bn.first.name), ("last", &bn.last.name)] {
            for field in ["running_mean", "running_var"] {
                let name = format!("{layer}.{field}");
                let want = golden.tensor(&format!("train.bn_{which}.{field}.f64"));
                found.check(&name, distance(&flat(&tensors[&name]), &want));
            }
        }
        found.messages
    }

    /// Differences of the gradient of the cross-entropy of the last batch.
    ///
    /// Norms count relative to their own size, or to a thousandth of the whole gradient if they are smaller, which is
    /// how the precision beside the reference was measured.
    fn gradient(&mut self) -> Vec<String> {
        let loss = cross_entropy(&self.session.logits().unwrap()).unwrap();
        self.session.backward(&loss.backward().unwrap()).unwrap();
        let (golden, want) = (self.golden, &self.golden.modes.f64.train);
        let context = format!("{} gradient of", golden.name);
        let mut found = Found { context, tolerance: golden.tolerances().2, messages: Vec::new() };
        let got: BTreeMap<String, Vec<f32>> =
            self.session.gradient_dict().unwrap().into_iter().map(|(name, g)| (name, flat(&g))).collect();
        assert!(got.keys().eq(want.grad_l2.keys()), "{}: one gradient per parameter", golden.name);
        for (name, gradient) in &got {
            let expected = want.grad_l2[name];
            let difference = (l2(gradient) - expected).abs();
            found.check(name, difference / expected.max(1e-3 * want.grad_total_l2));
        }
        let total = got.values().map(|g| l2(g).powi(2)).sum::<f64>().sqrt();
        found.check("everything", (total - want.grad_total_l2).abs() / want.grad_total_l2);
        for (which, name) in [("first", &golden.grad_first_name), ("last", &golden.grad_last_name)] {
            let want = golden.tensor(&format!("train.grad_{which}.f64"));
            found.check(&format!("elements of {name}"), distance(&got[name], &want));
        }
        found.messages
    }
}

struct Found {
    context: String,
    tolerance: f64,
    messages: Vec<String>,
}

impl Found {
    /// Keeps a message unless `distance` is within the tolerance; NaN never is.
    fn check(&mut self, what: &str, distance: f64) {
        if !distance.le(&self.tolerance) {
            let message =
                format!("{} {what}: {distance:.2e}, tolerance {:.2e}", self.context, self.tolerance);
            self.messages.push(message);
        }
    }
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
