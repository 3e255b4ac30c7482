//! Training on a device, which the CPU stands in for, against training on the CPU.
#![allow(clippy::unwrap_used)]

use dkd_datasets::{Dataset, synthetic};
use dkd_engine::gpu::Arithmetic;
use dkd_kernels::Cpu;
use dkd_kernels::gpu::{Emulated, GpuError};
use dkd_trainer::checkpoint::{Identity, Policy, Store};
use dkd_trainer::config::Config;
use dkd_trainer::record::RowResult;
use dkd_trainer::{CheckpointRecipe, Checkpoints, Compute, Context, Error, Event, Gpu, Recipe, Sink, run};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SEED: u64 = 5;

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 40, test: 16, seed: 1 })
}

/// A teacher of one epoch and students that need all that there is: taps, weights of the student, two momenta, two views.
fn recipe(rows: &str) -> Recipe {
    let text = format!(
        "data = {{ dataset = 'synthetic', augment = 'crop-flip' }}
        train = {{ epochs = 2, batch_size = 16 }}
        optimizer = {{ lr = 0.02, weight_decay = 1e-3 }}
        student.model = 'resnet8'
        teacher = {{ model = 'resnet8', epochs = 1 }}
        {rows}"
    );
    Config::parse(&text, "test").unwrap().check().unwrap()
}

const ALL: &str = "
    [[rows]]
    id = 'none'
    [[rows]]
    id = 'dkd'
    optimizer.clip_norm = 1.0
    loss = [{ method = 'ce' }, { method = 'dkd', own_momentum = 0.95 }, { method = 'fitnet', weight = 1.0 }]
    [[rows]]
    id = 'sdd'
    teacher_mode = 'train'
    loss = [{ method = 'ce' }, { method = 'sdd' }]";

/// The device, or nothing, said in one line, where there is no C++ compiler.
fn device() -> Option<Compute> {
    let cpu = Cpu::new(2).unwrap();
    match Emulated::new() {
        Ok(machine) => {
            let gpu = Gpu { machine: Arc::new(machine), arithmetic: Arithmetic::F32 };
            Some(Compute { cpu, gpu: Some(gpu) })
        }
        Err(GpuError::NoDevice(why)) => {
            eprintln!("skipped: kernels cannot be emulated: {why}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn cpu() -> Compute {
    Cpu::new(2).unwrap().into()
}

/// Keeps the losses of all steps, and stops after so many batches.
#[derive(Default)]
struct Losses {
    all: Vec<(String, u64, f64)>,
    stop_after: Option<usize>,
    stop: Arc<AtomicBool>,
}

impl Sink for Losses {
    fn event(&mut self, event: &Event) -> dkd_trainer::Result<()> {
        match event {
            Event::Step { row, step, loss, .. } => self.all.push((row.clone(), *step, *loss)),
            Event::Batch { .. } => {
                if let Some(left) = &mut self.stop_after {
                    *left -= 1;
                    self.stop.store(*left == 0, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Trains, from the newest checkpoint if there is one.
fn train(
    recipe: &Recipe,
    compute: Compute,
    folder: &Path,
    sink: &mut Losses,
) -> dkd_trainer::Result<Vec<RowResult>> {
    let identity = Identity { config: String::new(), data: data().fingerprint(), seed: SEED };
    let policy =
        Policy { every_epochs: 0, every_steps: 2, every_minutes: 0.0, keep_last: 1, keep_best: false };
    let settings = CheckpointRecipe { policy, stop_on_failure: true };
    let checkpoints = folder.join("checkpoints");
    let resume = Store::new(&checkpoints, SEED).newest(|_| Ok(()))?.snapshot.map(|(_, snapshot)| snapshot);
    let stop = Arc::clone(&sink.stop);
    let mut context = Context {
        compute,
        sink,
        weights: Some(folder.join("weights")),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: Some(Checkpoints { folder: checkpoints, settings, identity }),
        resume,
        probe: None,
    };
    run(recipe, &data(), SEED, &mut context)
}

/// Differences of rounding grow from step to step; these are the first few.
fn assert_near(got: &Losses, want: &Losses) {
    assert_eq!(got.all.len(), want.all.len());
    for ((row, step, got), (other, same, want)) in got.all.iter().zip(&want.all) {
        assert_eq!((row, step), (other, same));
        let tolerance = 1e-4 * 4.0_f64.powi(*step as i32);
        assert!(
            (got - want).abs() <= tolerance * want.abs().max(1.0),
            "{row}, step {step}: {got} instead of {want}"
        );
    }
}

#[test]
fn every_kind_of_row_trains_as_on_the_cpu() {
    let Some(device) = device() else { return };
    let recipe = recipe(ALL);
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut want, mut got) = (Losses::default(), Losses::default());
    let on_cpu = train(&recipe, cpu(), a.path(), &mut want).unwrap();
    let on_device = train(&recipe, device, b.path(), &mut got).unwrap();
    assert_near(&got, &want);
    for (a, b) in on_cpu.iter().zip(&on_device) {
        assert_eq!((&a.row, a.epochs.len()), (&b.row, b.epochs.len()));
        let (a, b) = (a.epochs[0].test.loss, b.epochs[0].test.loss);
        assert!((a - b).abs() < 0.05 * a, "{a} {b}");
    }
}

#[test]
fn a_run_goes_on_wherever_it_is_resumed() {
    let Some(device) = device() else { return };
    let recipe = recipe("[[rows]]\nid = 'kd'\nloss = [{ method = 'ce' }, { method = 'kd' }]");
    let reference = tempfile::tempdir().unwrap();
    let mut want = Losses::default();
    train(&recipe, cpu(), reference.path(), &mut want).unwrap();
    for [first, second] in [[cpu(), device.clone()], [device, cpu()]] {
        let folder = tempfile::tempdir().unwrap();
        let mut got = Losses { stop_after: Some(5), ..Losses::default() };
        let stopped = train(&recipe, first, folder.path(), &mut got);
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        let mut rest = Losses::default();
        train(&recipe, second, folder.path(), &mut rest).unwrap();
        got.all.extend(rest.all);
        assert_near(&got, &want);
    }
}
