//! Runs one network in both modes and compares everything that its reference holds.

use super::reference::{Golden, Statistics, distance, l2, maximum};
use super::{Result, Runs, fill};
use candle_core::{Device, Tensor};
use dkd_engine::{DropoutKey, Mode};
use dkd_kernels::rng::{Purpose, Stream};
use std::collections::{BTreeMap, HashMap};

/// How far from the reference results may be, relative to its values.
#[derive(Clone, Copy, Debug)]
pub struct Tolerances {
    /// Values in evaluation mode.
    pub eval: f64,
    /// Values in training mode, and running statistics.
    pub train: f64,
    /// Gradients.
    pub gradient: f64,
}

/// What came out of one network.
#[derive(Debug)]
pub struct Outcome {
    /// Differences beyond the tolerances, in words.
    pub differences: Vec<String>,
    /// Which neighbouring input has the reference's gradient, if the input itself has another.
    pub neighbour: Option<u64>,
    /// The largest differences that were found: gradients those of the neighbour, if there is one.
    pub worst: Tolerances,
}

/// Compares one network with its reference. The session has the reference's weights; they are loaded again if need be.
///
/// The forward pass must hold for the input itself. The gradient is not a continuous function of it: among millions of
/// values before a ReLU some are zero to within rounding, and each sign that falls differently than in f64 moves the
/// gradient of the early layers by up to a percent. So a gradient counts as right if it is right for the input, or for
/// one of `neighbours` whose pixels differ from it by less than a unit in the last place. A wrong formula is wrong for
/// all of them.
///
/// # Errors
/// The session's; the reference lacks something.
pub fn compare(
    golden: &Golden,
    session: &mut dyn Runs,
    tolerances: &Tolerances,
    neighbours: u64,
) -> Result<Outcome> {
    let images = fill::images("input", golden.batch * 3 * 32 * 32);
    session.load_state_dict(&golden.weights()?)?;
    let mut network = Network { golden, session, tolerances };
    let eval = network.forward(&images, Mode::Eval)?;
    let mut train = network.forward(&images, Mode::Train)?;
    train.take(network.statistics()?);
    let mut gradient = network.gradient()?;
    let mut neighbour = None;
    for i in 1..=neighbours {
        if gradient.messages.is_empty() {
            break;
        }
        network.run(&moved(&images, i), Mode::Train)?;
        let other = network.gradient()?;
        if other.messages.is_empty() {
            (gradient, neighbour) = (other, Some(i));
        }
    }
    let worst = Tolerances { eval: eval.worst, train: train.worst, gradient: gradient.worst };
    let differences = [eval, train, gradient].into_iter().flat_map(|found| found.messages).collect();
    Ok(Outcome { differences, neighbour, worst })
}

/// Every pixel times a random factor within 1 +- 2^-23.
fn moved(images: &[f32], salt: u64) -> Vec<f32> {
    let s = Stream::new(salt, Purpose::Other, 0, 0);
    let factor = |i: usize| 1.0 + f32::EPSILON * (2.0 * s.uniform(i as u64) - 1.0);
    images.iter().enumerate().map(|(i, v)| v * factor(i)).collect()
}

struct Network<'a> {
    golden: &'a Golden,
    session: &'a mut dyn Runs,
    tolerances: &'a Tolerances,
}

impl Network<'_> {
    fn run(&mut self, images: &[f32], mode: Mode) -> Result<()> {
        let shape = (self.golden.batch, 3, 32, 32);
        let images = Tensor::from_slice(images, shape, &Device::Cpu)?;
        Ok(self.session.forward(&images, mode, DropoutKey::default())?)
    }

    /// Runs the batch; differences of logits, cross-entropy and feature maps.
    fn forward(&mut self, images: &[f32], mode: Mode) -> Result<Found> {
        self.run(images, mode)?;
        let (golden, want) = (self.golden, &self.golden.modes.f64);
        let (name, ce, feats, tolerance) = match mode {
            Mode::Eval => ("eval", want.eval.ce, &want.eval.feats, self.tolerances.eval),
            Mode::Train => ("train", want.train.ce, &want.train.feats, self.tolerances.train),
        };
        let mut found = Found::new(format!("{} {name}", golden.name), tolerance);
        let logits = self.session.logits()?;
        found.check("logits", distance(&flat(&logits)?, &golden.tensor(&format!("{name}.logits.f64"))?));
        let got = f64::from(cross_entropy(&logits)?.to_scalar::<f32>()?);
        found.check("cross-entropy", (got - ce).abs() / ce);
        for (tap, want) in feats {
            found.check(tap, self.feature_map(tap, want)?);
        }
        Ok(found)
    }

    fn feature_map(&self, tap: &str, want: &Statistics) -> Result<f64> {
        let got = self.session.tap(tap)?;
        if got.dims() != want.shape {
            let (got, want) = (got.dims(), &want.shape);
            return Err(format!("{}, tap `{tap}`: shape {got:?}, expected {want:?}", self.golden.name).into());
        }
        Ok(want.distance(&flat(&got)?))
    }

    /// Differences of the running statistics after one batch in training mode.
    fn statistics(&self) -> Result<Found> {
        let (golden, bn) = (self.golden, &self.golden.modes.f64.train.bn);
        let mut found = Found::new(golden.name.clone(), self.tolerances.train);
        let tensors: HashMap<_, _> = self.session.state_dict()?.into_iter().collect();
        for (which, layer) in [("first", &bn.first.name), ("last", &bn.last.name)] {
            for field in ["running_mean", "running_var"] {
                let name = format!("{layer}.{field}");
                let want = golden.tensor(&format!("train.bn_{which}.{field}.f64"))?;
                let got = tensors.get(&name).ok_or_else(|| format!("{}: no `{name}`", golden.name))?;
                found.check(&name, distance(&flat(got)?, &want));
            }
        }
        Ok(found)
    }

    /// Differences of the gradient of the cross-entropy of the last batch.
    ///
    /// Norms count relative to their own size, or to a thousandth of the whole gradient if they are smaller, which is
    /// how the precision beside the reference was measured.
    fn gradient(&mut self) -> Result<Found> {
        let loss = cross_entropy(&self.session.logits()?)?;
        self.session.backward(&loss.backward()?)?;
        let (golden, want) = (self.golden, &self.golden.modes.f64.train);
        let mut found = Found::new(format!("{} gradient of", golden.name), self.tolerances.gradient);
        let mut got = BTreeMap::new();
        for (name, gradient) in self.session.gradient_dict()? {
            got.insert(name, flat(&gradient)?);
        }
        if !got.keys().eq(want.grad_l2.keys()) {
            return Err(format!("{}: expected one gradient per parameter", golden.name).into());
        }
        for ((name, gradient), expected) in got.iter().zip(want.grad_l2.values()) {
            let difference = (l2(gradient) - expected).abs();
            found.check(name, difference / expected.max(1e-3 * want.grad_total_l2));
        }
        let total = got.values().map(|g| l2(g).powi(2)).sum::<f64>().sqrt();
        found.check("everything", (total - want.grad_total_l2).abs() / want.grad_total_l2);
        for (which, name) in [("first", &golden.grad_first_name), ("last", &golden.grad_last_name)] {
            let want = golden.tensor(&format!("train.grad_{which}.f64"))?;
            let got = got.get(name).ok_or_else(|| format!("{}: no gradient of `{name}`", golden.name))?;
            found.check(&format!("elements of {name}"), distance(got, &want));
        }
        Ok(found)
    }
}

struct Found {
    context: String,
    tolerance: f64,
    messages: Vec<String>,
    worst: f64,
}

impl Found {
    fn new(context: String, tolerance: f64) -> Self {
        Self { context, tolerance, messages: Vec::new(), worst: 0.0 }
    }

    /// Keeps a message unless `distance` is within the tolerance; NaN never is.
    fn check(&mut self, what: &str, distance: f64) {
        self.worst = maximum(distance, self.worst);
        if !distance.le(&self.tolerance) {
            let message =
                format!("{} {what}: {distance:.2e}, tolerance {:.2e}", self.context, self.tolerance);
            self.messages.push(message);
        }
    }

    fn take(&mut self, other: Self) {
        self.worst = maximum(other.worst, self.worst);
        self.messages.extend(other.messages);
    }
}

/// Elements in row-major order of the tensor's own shape.
fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Mean over the batch; the target of row i is class i.
fn cross_entropy(logits: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    let one_hot = Tensor::eye(classes, logits.dtype(), logits.device())?.narrow(0, 0, batch)?;
    let normaliser = logits.exp()?.sum(1)?.log()?;
    (normaliser - logits.mul(&one_hot)?.sum(1)?)?.mean_all()
}
