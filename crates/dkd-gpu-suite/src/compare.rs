//! Every network of the registry: the device against the CPU, with the same weights and images.

use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use anyhow::Result;
use candle_core::{Device, Tensor};
use dkd_engine::gpu::GpuSession;
use dkd_engine::{DropoutKey, Graph, Mode, Precision, Session, SessionOptions};
use dkd_kernels::rng::{Purpose, Stream};
use dkd_models::golden::Runs;
use dkd_models::{Model, ModelOptions, models};
use dkd_trainer::Arithmetic;
use std::sync::Arc;

const PART: &str = "compare";
const BATCH: usize = 4;
const SEED: u64 = 3;
const KEY: DropoutKey = DropoutKey { seed: 1, epoch: 2, step: 3 };

/// Compares all networks that are wanted.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    for model in models().iter().filter(|model| suite.wants(model.name)) {
        report.attempt(PART, model.name, |report| one(suite, model, report));
    }
    Ok(())
}

fn one(suite: &Suite, model: &Model, report: &mut Report) -> Result<()> {
    let side = if model.name.starts_with("tinyimagenet") { 64 } else { 32 };
    let graph = model.build(&ModelOptions::new(10).image(3, side, side))?;
    let options =
        SessionOptions { max_batch: BATCH, train: true, taps: Vec::new(), precision: Precision::F32 };
    let mut session = Session::new(graph.clone(), Arc::clone(&suite.cpu), options.clone())?;
    session.init(SEED);
    let images = images(&graph)?;
    let want = Seen::of(&mut session, &images)?;
    for arithmetic in &suite.precisions {
        let case = format!("{}, {}", model.name, name_of(*arithmetic));
        report.attempt(PART, &case, |report| {
            let (graph, machine) = (graph.clone(), Arc::clone(&suite.machine));
            let mut session = GpuSession::new(graph, machine, options.clone(), *arithmetic, &Device::Cpu)?;
            session.init(SEED)?;
            let got = Seen::of(&mut session, &images)?;
            let [values, gradients] = bounds(*arithmetic);
            for (what, value, bound) in [
                ("logits", largest(&got.logits, &want.logits), values),
                ("gradients", whole(&got.gradients, &want.gradients), gradients),
                ("statistics", each(&got.state, &want.state), values),
            ] {
                let group = format!("{} {what}", name_of(*arithmetic));
                report.add(Line::difference(PART, &group, model.name, value, bound));
            }
            Ok(())
        });
    }
    Ok(())
}

/// For values, relative to the largest, and for the whole gradient, relative to its norm.
///
/// In f32 every sum is right to some 1e-6, and the deepest networks make up to 4e-5 of that on the emulated machine; of the signs
/// before ReLUs a few fall differently, which moves the gradient of the deepest by 0.024 of its norm. With 7 bits instead of 23 so
/// many do that the gradients of deep networks with 4 images have little in common (1.2 at most there, and 1.4 if nothing): what
/// is asked of them is the size. tf32 has 10 bits.
pub(crate) fn bounds(arithmetic: Arithmetic) -> [f64; 2] {
    match arithmetic {
        Arithmetic::F32 => [1e-3, 0.1],
        Arithmetic::Tf32 => [0.1, 1.0],
        Arithmetic::Bf16 => [0.5, 2.0],
    }
}

fn images(graph: &Graph) -> Result<Tensor> {
    let shape = graph.input_shape();
    let (height, width) = shape.size();
    let stream = Stream::new(5, Purpose::Other, 0, 0);
    let values: Vec<f32> = (0..(BATCH * shape.elements()) as u64).map(|i| stream.normal(i)).collect();
    Ok(Tensor::from_vec(values, (BATCH, shape.channels(), height, width), &Device::Cpu)?)
}

/// What one session makes of the images.
struct Seen {
    /// In training, then in evaluation with the statistics of that.
    logits: Vec<f32>,
    gradients: Vec<f32>,
    /// Weights and statistics, tensor by tensor.
    state: Vec<Vec<f32>>,
}

impl Seen {
    fn of(session: &mut dyn Runs, images: &Tensor) -> Result<Self> {
        session.forward(images, Mode::Train, KEY)?;
        let output = session.logits()?;
        let mut logits = flat(&output)?;
        // A loss that weighs all logits differently.
        let stream = Stream::new(9, Purpose::Other, 1, 0);
        let weights: Vec<f32> = (0..logits.len() as u64).map(|i| stream.normal(i)).collect();
        let loss = (&output * Tensor::from_vec(weights, output.dims(), &Device::Cpu)?)?.sum_all()?;
        session.backward(&loss.backward()?)?;
        let mut gradients = Vec::new();
        for (_, gradient) in session.gradient_dict()? {
            gradients.extend(flat(&gradient)?);
        }
        let state = session.state_dict()?.iter().map(|(_, tensor)| flat(tensor)).collect::<Result<_>>()?;
        session.forward(images, Mode::Eval, KEY)?;
        logits.extend(flat(&session.logits()?)?);
        Ok(Self { logits, gradients, state })
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// NaN counts as the largest.
fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |m, v| if v.is_nan() || v > m { v } else { m })
}

/// The largest difference, relative to the largest value.
pub(crate) fn largest(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let scale = max(want.iter().map(|v| f64::from(v.abs()))).max(1e-3);
    max(got.iter().zip(want).map(|(g, w)| f64::from((g - w).abs()))) / scale
}

/// The same for each of several.
fn each(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    max(got.iter().zip(want).map(|(g, w)| largest(g, w)))
}

/// The norm of the difference, relative to the norm.
fn whole(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = squares(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
    difference / squares(&mut want.iter().map(|v| f64::from(*v))).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_differs_gets_lost() {
        assert_eq!(largest(&[1.0, -2.0], &[1.0, -4.0]), 0.5);
        assert!(largest(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(largest(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(each(&[vec![1.0], vec![2.0]], &[vec![1.0], vec![4.0]]), 0.5);
        assert!((whole(&[3.0, 4.0], &[3.0, 5.0]) - 1.0 / 34_f64.sqrt()).abs() < 1e-12);
        assert!(whole(&[f32::NAN], &[1.0]).is_nan());
    }
}
