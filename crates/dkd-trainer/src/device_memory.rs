//! The memory that a run will take on a device, known before it begins.

use crate::cohort::{Architecture, Shapes, Told};
use crate::memory::largest_batch;
use crate::network::{Compute, Gpu};
use crate::{Error, Recipe, Result, TeacherMode};
use dkd_datasets::Dataset;
use dkd_engine::gpu::{Arithmetic, GpuSession};
use dkd_engine::{Mode, Precision, SessionOptions};
use dkd_kernels::Cpu;
use dkd_kernels::gpu::{Counting, TensorMachine};
use dkd_losses::Objective;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What libraries take for themselves: code, and memory for convolutions.
const LIBRARIES: u64 = 512 << 20;

/// Bytes that a run takes with batches of `batch` images: networks, momenta, the images themselves, operands with which convolutions are tried,
/// and what candle takes for losses, as they estimate it.
///
/// Networks are made on a machine that only counts, so this is what will be asked for, and nothing of them is forgotten.
///
/// # Errors
/// A network cannot be built for these images.
pub fn estimate(recipe: &Recipe, data: &Dataset, arithmetic: Arithmetic, batch: usize) -> Result<u64> {
    let counting = Counting::default();
    let machine: Arc<dyn TensorMachine> = Arc::new(counting.clone());
    let compute: Compute = Cpu::new(1)?.into();
    let told = Told { recipe, data, compute: &compute, seed: 0, teacher: &Shapes::of_teacher(recipe, data)? };
    let mut kept = Vec::new();
    let mut session = |network: Architecture, train: bool, taps: Vec<String>| -> Result<()> {
        if let Architecture::Engine(graph) = network {
            let options = SessionOptions { max_batch: batch, train, taps, precision: Precision::F32 };
            let machine = Arc::clone(&machine);
            let device = &candle_core::Device::Cpu;
            let mut session = GpuSession::new(graph, Arc::clone(&machine), options, arithmetic, device)?;
            session.prepare(Mode::Eval, batch)?;
            // The momentum.
            let momentum = if train { session.values().bytes() } else { 0 };
            kept.push((session, machine.alloc(momentum)?));
        }
        Ok(())
    };
    let mut taps = BTreeSet::new();
    // One row's loss after the other is computed between two recorded parts.
    let mut losses = 0;
    for row in &recipe.rows {
        let student = recipe.architecture(&row.model, data)?;
        let objective = told.objective(row, &student)?;
        if objective.on_device() {
            losses = objective.device_bytes(batch).max(losses);
        }
        let read = objective.taps();
        taps.extend(read.teacher);
        session(student, true, read.student)?;
    }
    let pupils = || recipe.rows.iter().filter(|r| r.needs_teacher());
    if let Some(teacher) = recipe.teacher.as_ref().filter(|_| pupils().next().is_some()) {
        let modes: BTreeSet<TeacherMode> = pupils().map(|r| r.teacher_mode).collect();
        for mode in modes {
            let taps = taps.iter().cloned().collect();
            session(recipe.architecture(&teacher.model, data)?, mode == TeacherMode::Train, taps)?;
        }
    }
    let images = (data.train.images.len() + data.test.images.len()) as u64;
    Ok(counting.most() + counting.tried() + losses + images + LIBRARIES)
}

/// Refuses a run that cannot fit into a device's free memory, and says which batch size would; else the bytes that it takes, and
/// those that are free.
///
/// # Errors
/// [`Error::Memory`]; the device's.
pub fn check(recipe: &Recipe, data: &Dataset, gpu: &Gpu, batch: usize) -> Result<(u64, u64)> {
    let (available, _) = gpu.machine.free_memory()?;
    let needed = estimate(recipe, data, gpu.arithmetic, batch)?;
    if needed <= available {
        return Ok((needed, available));
    }
    let fits = largest_batch(batch, |batch| Ok(estimate(recipe, data, gpu.arithmetic, batch)? <= available))?;
    Err(Error::Memory { rows: recipe.rows.len(), batch, needed, available, fits })
}

/// Whether an error, or what is behind it, tells of too little memory on a device: from the machine, or from a library that has memory of its
/// own there.
fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string();
    [
        "out of device memory",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ]
    .iter()
    .any(|known| text.contains(known))
}

/// An error of a run that was [planned](check) to take some of the free memory: if that did not suffice, with what can be done.
pub(crate) fn explained(
    error: Error,
    recipe: &Recipe,
    data: &Dataset,
    (arithmetic, batch): (Arithmetic, usize),
    (planned, available): (u64, u64),
) -> Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    let most = LIBRARIES + planned.min(available).saturating_sub(LIBRARIES) / 4 * 3;
    let fits = largest_batch(batch, |batch| Ok(estimate(recipe, data, arithmetic, batch)? <= most));
    let why = error.to_string();
    let rows = recipe.rows.len();
    fits.map_or(error, |fits| Error::DeviceMemory { why, rows, batch, planned, available, fits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use dkd_datasets::synthetic;

    #[test]
    fn larger_batches_and_more_rows_take_more() {
        let recipe = |rows: &str| {
            let text = format!("student.model = 'resnet8'\nteacher.model = 'resnet8'\n{rows}");
            Config::parse(&text, "test").unwrap().check().unwrap()
        };
        let data = synthetic::generate(&synthetic::Options { train: 20, test: 10, seed: 0 });
        let one = recipe("loss = [{ method = 'ce' }]");
        let taught = recipe("loss = [{ method = 'ce' }, { method = 'kd' }]");
        let of = |r: &Recipe, a, batch| estimate(r, &data, a, batch).unwrap() - LIBRARIES;
        let small = of(&one, Arithmetic::F32, 16);
        assert!(of(&one, Arithmetic::F32, 64) > 3 * small);
        assert!(of(&one, Arithmetic::Bf16, 64) < of(&one, Arithmetic::F32, 64));
        assert!(of(&taught, Arithmetic::F32, 16) > small);
    }

    #[test]
    fn losses_that_take_much_are_in_the_plan() {
        let data = synthetic::generate(&synthetic::Options { train: 20, test: 10, seed: 0 });
        let of = |methods: &[&str], batch| {
            let rows = methods.iter().enumerate().map(|(i, method)| {
                format!("[[rows]]\nid = 'r{i}'\nloss = [{{ method = 'ce' }}, {{ method = '{method}' }}]\n")
            });
            let rows: String = rows.collect();
            let text = format!("student.model = 'resnet8'\nteacher.model = 'resnet8'\n{rows}");
            estimate(&Config::parse(&text, "test").unwrap().check().unwrap(), &data, Arithmetic::F32, batch)
                .unwrap()
        };
        let more = |method, batch: usize| of(&[method], batch) - of(&["dist"], batch);
        // Three maps of each network are kept for gradients, and candle takes several times as much.
        let maps = |batch: u64| 2 * 4 * (16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8) * batch;
        assert!(more("at", 64) > 5 * maps(64) && more("at", 64) < 7 * maps(64));
        assert!(more("nst", 64) > 10 * maps(64) && more("nst", 64) < 13 * maps(64));
        // Angles between any three images, as 32-bit numbers.
        let angles = |batch: u64| 4 * batch * batch * batch;
        assert!(more("rkd", 512) > 51 * angles(512) && more("rkd", 512) < 60 * angles(512));
        // One row's after the other's, beside what each network gives.
        let both = of(&["rkd", "rkd"], 64) - of(&["dist", "dist"], 64);
        assert!(both < more("rkd", 64) * 11 / 10);
    }

    #[test]
    fn too_little_memory_in_a_run_is_told_with_the_plan() {
        let text = "student.model = 'resnet8'\nloss = [{ method = 'ce' }]";
        let recipe = Config::parse(text, "test").unwrap().check().unwrap();
        let data = synthetic::generate(&synthetic::Options { train: 20, test: 10, seed: 0 });
        let planned = estimate(&recipe, &data, Arithmetic::F32, 64).unwrap();
        let explain = |e| explained(e, &recipe, &data, (Arithmetic::F32, 64), (planned, planned + 1));
        let machine = dkd_kernels::gpu::GpuError::OutOfMemory { asked: 1, free: 0, total: 2 };
        let candle =
            candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned());
        for error in [Error::Engine(machine.into()), Error::Candle(candle)] {
            let why = error.to_string();
            let told = explain(error);
            let message = told.to_string();
            let Error::DeviceMemory { fits, batch: 64, .. } = told else { panic!("{message}") };
            assert!((40..50).contains(&fits), "{message}");
            assert!(
                message.starts_with(&why) && message.contains(&format!("batch_size of {fits}")),
                "{message}"
            );
        }
        let other = explain(Error::Invalid("another".to_owned()));
        assert_eq!(other.to_string(), "another");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_batch_that_would() {
        let Ok(machine) = dkd_kernels::gpu::Emulated::new() else { return };
        let text = "student.model = 'resnet8'\nloss = [{ method = 'ce' }]";
        let recipe = Config::parse(text, "test").unwrap().check().unwrap();
        let data = synthetic::generate(&synthetic::Options { train: 20, test: 10, seed: 0 });
        let free = estimate(&recipe, &data, Arithmetic::F32, 20).unwrap();
        let machine = Arc::new(machine.with_memory(free));
        let gpu = Gpu { machine, arithmetic: Arithmetic::F32, recorded: true };
        assert_eq!(check(&recipe, &data, &gpu, 20).unwrap(), (free, free));
        match check(&recipe, &data, &gpu, 64) {
            Err(Error::Memory { fits, batch: 64, .. }) => assert_eq!(fits, 20),
            other => panic!("{other:?}"),
        }
    }
}
