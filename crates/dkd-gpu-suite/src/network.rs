//! Networks that are ready for their steps.

use crate::bench::rates;
use anyhow::Result;
use candle_core::Device;
use dkd_engine::gpu::GpuSession;
use dkd_engine::{DropoutKey, Mode, Precision, SessionOptions};
use dkd_kernels::gpu::convolution::{Convolution, Epilogue, Pass};
use dkd_kernels::gpu::{Counting, TensorMachine};
use dkd_models::{ModelOptions, build};
use dkd_trainer::Arithmetic;
use std::sync::Arc;

/// Weights, a batch and a gradient of the logits that depend on `seed`, so that a forward and a backward pass can be recorded.
pub fn ready(
    machine: &Arc<dyn TensorMachine>,
    (model, classes): (&str, usize),
    batch: usize,
    arithmetic: Arithmetic,
    seed: u64,
) -> Result<GpuSession> {
    let mut session = session(machine, (model, classes), batch, arithmetic)?;
    session.init(seed)?;
    session.prepare(Mode::Train, batch)?;
    session.set_key(DropoutKey { seed, epoch: 1, step: 0 })?;
    for (to, key) in [(session.input(Mode::Train, batch)?, 0), (session.logits_gradient(batch)?, 1)] {
        machine.write(&to, &rates::numbers(to.len(), to.element(), 2 * seed + key))?;
    }
    Ok(session)
}

/// The convolutions of a training step, each pass as often as the step has it.
pub fn convolutions(
    model: (&str, usize),
    batch: usize,
    arithmetic: Arithmetic,
) -> Result<Vec<(Pass, Convolution)>> {
    Ok(counted(model, batch, arithmetic)?.convolutions(batch)?)
}

/// The convolutions that an evaluation may compute with what follows them.
pub fn fusible(
    model: (&str, usize),
    batch: usize,
    arithmetic: Arithmetic,
) -> Result<Vec<(Convolution, Epilogue)>> {
    let mut session = counted(model, batch, arithmetic)?;
    session.prepare(Mode::Eval, batch)?;
    Ok(session.fusible(batch)?)
}

/// On a machine that only counts.
fn counted(model: (&str, usize), batch: usize, arithmetic: Arithmetic) -> Result<GpuSession> {
    let counting: Arc<dyn TensorMachine> = Arc::new(Counting::default());
    session(&counting, model, batch, arithmetic)
}

fn session(
    machine: &Arc<dyn TensorMachine>,
    (model, classes): (&str, usize),
    batch: usize,
    arithmetic: Arithmetic,
) -> Result<GpuSession> {
    let graph = build(model, &ModelOptions::new(classes))?;
    let options =
        SessionOptions { max_batch: batch, train: true, taps: Vec::new(), precision: Precision::F32 };
    Ok(GpuSession::new(graph, Arc::clone(machine), options, arithmetic, &Device::Cpu)?)
}
