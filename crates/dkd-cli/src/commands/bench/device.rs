//! A step on a GPU: recorded once, then replayed.

use super::batch;
use crate::args::{BenchArgs, BenchMode};
use anyhow::Result;
use candle_core::Device;
use dkd_engine::gpu::GpuSession;
use dkd_engine::{DropoutKey, Graph, Mode, Precision, SessionOptions};
use dkd_kernels::gpu::losses::{Losses, Totals, Weights};
use dkd_kernels::gpu::sgd::{self, Settings, Update};
use dkd_kernels::gpu::{Element, View, record};
use dkd_trainer::{Gpu, SgdRecipe};
use std::sync::Arc;
use std::time::Instant;

/// Steps between two looks at the clock: waiting for the device is not part of training.
const TOGETHER: usize = 10;

/// What was measured.
pub struct Measured {
    /// Seconds of a step, each the mean of a few.
    pub seconds: Vec<f64>,
    /// Of the device's memory, where it tells.
    pub bytes: u64,
}

/// What the loss and the update read and write beside the network.
struct Training {
    settings: View,
    momentum: View,
    labels: View,
    weights: View,
    rows: View,
    totals: View,
    bad: View,
}

impl Training {
    fn new(session: &GpuSession, labels: &[u32], recipe: SgdRecipe) -> Result<Self> {
        let machine = &**session.machine();
        let zeros = |element: Element, n: usize| machine.zeros(element, n);
        let all = Self {
            settings: zeros(Element::U64, Settings::LEN)?,
            momentum: zeros(Element::F32, session.values().len())?,
            labels: zeros(Element::U32, labels.len())?,
            weights: zeros(Element::F32, Weights::LEN)?,
            rows: zeros(Element::F32, labels.len() * Losses::COLUMNS)?,
            totals: zeros(Element::F64, Totals::LEN)?,
            bad: zeros(Element::U32, 1)?,
        };
        let sgd = recipe.update(recipe.lr, 1.0, true);
        Settings { sgd, limit: 0.0 }.write(machine, &all.settings)?;
        let weights =
            Weights { ce: 1.0, kd: 0.0, alpha: 0.0, beta: 0.0, kd_temperature: 1.0, dkd_temperature: 1.0 };
        weights.write(machine, &all.weights)?;
        let bytes: Vec<u8> = labels.iter().flat_map(|y| y.to_le_bytes()).collect();
        machine.write(&all.labels, &bytes)?;
        Ok(all)
    }

    /// Cross-entropy, backward, SGD.
    fn step(&self, session: &mut GpuSession, n: usize) -> Result<()> {
        let machine = Arc::clone(session.machine());
        Losses {
            student: &session.logits_view(Mode::Train, n)?,
            labels: &self.labels,
            weights: &self.weights,
            distillation: None,
            gradient: &session.logits_gradient(n)?,
            rows: &self.rows,
            totals: &self.totals,
            bad: &self.bad,
        }
        .run(&*machine)?;
        session.run_backward()?;
        let update = Update {
            settings: &self.settings,
            weights: session.values(),
            gradients: session.gradients(),
            momentum: &self.momentum,
            squared_norm: None,
            rounded: session.halves(),
        };
        Ok(sgd::sgd(&*machine, &update)?)
    }
}

/// Replays a step for as long as was asked.
pub fn measure(args: &BenchArgs, gpu: &Gpu, graph: Graph, recipe: SgdRecipe) -> Result<Measured> {
    let train = args.mode == BenchMode::Train;
    let mode = if train { Mode::Train } else { Mode::Eval };
    let machine = Arc::clone(&gpu.machine);
    let (free, _) = machine.free_memory()?;
    let options =
        SessionOptions { max_batch: args.batch, train, taps: Vec::new(), precision: Precision::F32 };
    let mut session = GpuSession::new(graph, Arc::clone(&machine), options, gpu.arithmetic, &Device::Cpu)?;
    session.init(0)?;
    let (images, labels) = batch(args)?;
    let labels = labels.to_vec1::<u32>()?;
    let training = if train { Some(Training::new(&session, &labels, recipe)?) } else { None };
    // The images stay where this puts them.
    session.forward(&images, mode, DropoutKey::default())?;
    let step = record(&*machine, &mut || -> Result<()> {
        session.run(mode, args.batch)?;
        training.as_ref().map_or(Ok(()), |t| t.step(&mut session, args.batch))
    })?;
    step.replay()?;
    machine.wait()?;
    let (left, _) = machine.free_memory()?;
    let mut seconds = Vec::new();
    let start = Instant::now();
    while seconds.len() < 3 || start.elapsed().as_secs_f64() < args.seconds {
        let begin = Instant::now();
        for _ in 0..TOGETHER {
            step.replay()?;
        }
        machine.wait()?;
        seconds.push(begin.elapsed().as_secs_f64() / TOGETHER as f64);
    }
    Ok(Measured { seconds, bytes: free.saturating_sub(left) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr)]

    use super::*;
    use dkd_kernels::gpu::{Emulated, GpuError};
    use dkd_models::ModelOptions;
    use dkd_trainer::Arithmetic;

    #[test]
    fn steps_are_replayed_in_both_modes_and_precisions() {
        let machine = match Emulated::new() {
            Ok(machine) => Arc::new(machine),
            Err(GpuError::NoDevice(why)) => return eprintln!("skipped: kernels cannot be emulated: {why}"),
            Err(e) => panic!("{e}"),
        };
        for (mode, arithmetic) in [(BenchMode::Train, Arithmetic::F32), (BenchMode::Infer, Arithmetic::Bf16)]
        {
            let args = BenchArgs {
                model: "resnet8".to_owned(),
                mode,
                batch: 2,
                classes: 10,
                image: (3, 32, 32),
                seconds: 0.0,
                profile: false,
                json: false,
            };
            let options = ModelOptions { image: args.image, ..ModelOptions::new(10) };
            let graph = dkd_models::build(&args.model, &options).unwrap();
            let gpu = Gpu { machine: machine.clone(), arithmetic, recorded: true };
            let recipe =
                SgdRecipe { lr: 0.1, momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
            let measured = measure(&args, &gpu, graph, recipe).unwrap();
            assert!(measured.seconds.len() >= 3 && measured.seconds.iter().all(|s| *s > 0.0));
        }
    }
}
