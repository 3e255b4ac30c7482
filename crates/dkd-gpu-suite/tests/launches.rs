//! How many launches a recorded step has, and how many of them follow each other: the table in docs/cuda.md.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use dkd_engine::gpu::{Arithmetic, GpuSession};
use dkd_engine::{Mode, Precision, SessionOptions};
use dkd_kernels::gpu::Counting;
use dkd_models::{ModelOptions, build};
use std::sync::Arc;

const BATCH: usize = 64;

/// Of the forward and backward pass: those in a row, of these our kernels that come right after another of ours, and those that nothing waits
/// for.
fn launches(model: &str, arithmetic: Arithmetic) -> [u64; 3] {
    let machine = Counting::default();
    let graph = build(model, &ModelOptions::new(100)).unwrap();
    let options =
        SessionOptions { max_batch: BATCH, train: true, taps: Vec::new(), precision: Precision::F32 };
    let counting = Arc::new(machine.clone());
    let mut session = GpuSession::new(graph, counting, options, arithmetic, &Device::Cpu).unwrap();
    session.prepare(Mode::Train, BATCH).unwrap();
    let before = machine.calls();
    session.run(Mode::Train, BATCH).unwrap();
    session.run_backward().unwrap();
    let after = machine.calls();
    [after.in_row - before.in_row, after.after_kernels - before.after_kernels, after.aside - before.aside]
}

#[test]
fn the_table_of_launches_is_that_of_the_plans() {
    let docs = include_str!("../../../docs/cuda.md");
    let models = dkd_gpu_suite::engines::models();
    let row = |model: &String| {
        let cells = [Arithmetic::F32, Arithmetic::Bf16].map(|arithmetic| launches(model, arithmetic));
        let cells: Vec<_> = cells.iter().flatten().map(u64::to_string).collect();
        format!("| {model} | {} |", cells.join(" | "))
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    let lacks: Vec<_> = rows.iter().filter(|row| !docs.contains(*row)).collect();
    assert!(lacks.is_empty(), "docs/cuda.md lacks\n{lacks:#?}");
}
