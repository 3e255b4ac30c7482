//! Training on a device, which the CPU stands in for, against training on the CPU.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod teacher;

use dkd_datasets::{Dataset, synthetic};
use dkd_engine::gpu::Arithmetic;
use dkd_kernels::Cpu;
use dkd_kernels::gpu::{Emulated, GpuError};
use dkd_trainer::checkpoint::{Identity, Policy, Store};
use dkd_trainer::config::Config;
use dkd_trainer::record::RowResult;
use dkd_trainer::{CheckpointRecipe, Checkpoints, Compute, Context, Error, Event, Gpu, Recipe, Sink, run};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SEED: u64 = 5;

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 24, test: 8, seed: 1 })
}

/// A teacher of one epoch and students that need all that there is: taps, weights of the student, two momenta, two views.
fn recipe(rows: &str) -> Recipe {
    recipe_with("", rows)
}

fn recipe_with(data: &str, rows: &str) -> Recipe {
    let text = format!(
        "data = {{ dataset = 'synthetic', augment = 'crop-flip'{data} }}
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
fn device(recorded: bool) -> Option<Compute> {
    on(Emulated::new(), recorded)
}

fn on(machine: Result<Emulated, GpuError>, recorded: bool) -> Option<Compute> {
    let cpu = Cpu::new(2).unwrap();
    match machine {
        Ok(machine) => {
            let gpu = Gpu { machine: Arc::new(machine), arithmetic: Arithmetic::F32, recorded };
            Some(Compute { gpu: Some(gpu), ..cpu.into() })
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
    // One of the rows cannot be recorded, and so none is: the device tells of every step, but for the teacher's own.
    let Some(device) = device(true) else { return };
    let recipe = recipe(ALL);
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut want, mut got) = (Losses::default(), Losses::default());
    let on_cpu = train(&recipe, cpu(), a.path(), &mut want).unwrap();
    let on_device = train(&recipe, device, b.path(), &mut got).unwrap();
    for losses in [&mut want, &mut got] {
        losses.all.retain(|(row, ..)| row != "teacher");
    }
    assert_near(&got, &want);
    for (a, b) in on_cpu.iter().zip(&on_device) {
        assert_eq!((&a.row, a.epochs.len()), (&b.row, b.epochs.len()));
        let (a, b) = (a.epochs[0].test.loss, b.epochs[0].test.loss);
        assert!((a - b).abs() < 0.05 * a, "{a} {b}");
    }
}

#[test]
fn a_run_goes_on_wherever_it_is_resumed() {
    let Some(device) = device(false) else { return };
    let recipe = recipe("[[rows]]\nid = 'kd'\nloss = [{ method = 'ce' }, { method = 'kd' }]");
    let reference = tempfile::tempdir().unwrap();
    let mut want = Losses::default();
    train(&recipe, cpu(), reference.path(), &mut want).unwrap();
    for [first, second] in [[cpu(), device.clone()], [device, cpu()]] {
        let folder = tempfile::tempdir().unwrap();
        let mut got = Losses { stop_after: Some(3), ..Losses::default() };
        let stopped = train(&recipe, first, folder.path(), &mut got);
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        let mut rest = Losses::default();
        train(&recipe, second, folder.path(), &mut rest).unwrap();
        got.all.extend(rest.all);
        assert_near(&got, &want);
    }
}

/// Rows whose losses have kernels.
const RECORDED: &str = "
    [[rows]]
    id = 'none'
    [[rows]]
    id = 'dkd'
    optimizer.clip_norm = 1.0
    loss = [{ method = 'ce' }, { method = 'dkd', warmup_epochs = 3 }]
    [[rows]]
    id = 'lskd'
    optimizer.nesterov = true
    loss = [{ method = 'ce', weight = 0.5 }, { method = 'kd', standardize = true, temperature = 2.0 }]
    [[rows]]
    id = 'seed'
    teacher_mode = 'train'
    loss = [{ method = 'seed_kd', temperature = 2.0 }]
    [[rows]]
    id = 'reference'
    loss = [{ method = 'dkd_reference', temperature = 1.0, alpha = 0.7, beta = 0.25 }]
    [[rows]]
    id = 'wild'
    optimizer.lr = 1e30
    nonfinite = 'continue'";

/// Results without times, and with the losses of a row that diverges left out.
fn numbers(results: &[RowResult]) -> Vec<(String, Vec<f64>)> {
    let of = |r: &RowResult| {
        let epochs = r.epochs.iter();
        (r.row.clone(), epochs.flat_map(|e| [e.train_loss, e.train_top1, e.test.loss, e.test.top1]).collect())
    };
    results.iter().filter(|r| r.row != "wild").map(of).collect()
}

#[test]
fn recorded_steps_are_the_same_steps() {
    let (Some(recorded), Some(plain)) = (device(true), device(false)) else { return };
    let recipe = recipe(RECORDED);
    let train = |compute| {
        let mut sink = Losses::default();
        let folder = tempfile::tempdir().unwrap();
        let results = train(&recipe, compute, folder.path(), &mut sink).unwrap();
        (results, sink.all.len())
    };
    let ((want, all), (got, some)) = (train(plain), train(recorded));
    // The plain run tells of every step, the recorded one where it looks.
    assert!(some < all);
    for ((row, want), (other, got)) in numbers(&want).iter().zip(numbers(&got)) {
        assert_eq!((row, want.len()), (&other, got.len()));
        for (want, got) in want.iter().zip(got) {
            assert!((want - got).abs() <= 0.02 * want.abs().max(1.0), "{row}: {got} instead of {want}");
        }
    }
    let wild = |results: &[RowResult]| results.iter().find(|r| r.row == "wild").unwrap().diverged.is_some();
    assert!(wild(&want) && wild(&got));
}

#[test]
fn a_recorded_run_that_is_resumed_has_the_same_bits() {
    let Some(device) = device(true) else { return };
    let recipe = recipe("[[rows]]\nid = 'kd'\nloss = [{ method = 'ce' }, { method = 'kd' }]");
    let weights = |folder: &Path| std::fs::read(folder.join("weights/kd-5.safetensors")).unwrap();
    let whole = tempfile::tempdir().unwrap();
    let want = train(&recipe, device.clone(), whole.path(), &mut Losses::default()).unwrap();
    for stop in [1, 3, 5] {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Losses { stop_after: Some(stop), ..Losses::default() };
        let stopped = train(&recipe, device.clone(), folder.path(), &mut first);
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        let got = train(&recipe, device.clone(), folder.path(), &mut Losses::default()).unwrap();
        assert_eq!(weights(folder.path()), weights(whole.path()), "after {stop} batches");
        assert_eq!(got.last().unwrap().last, want.last().unwrap().last);
    }
}

/// Rows whose losses have no kernel: on the device's own tensors; with taps; with parameters of their own and memories; with weights of the
/// student, and a teacher in training mode.
const BETWEEN: &str = "
    [[rows]]
    id = 'dist'
    optimizer.clip_norm = 1.0
    loss = [{ method = 'ce' }, { method = 'dist', warmup_epochs = 3 }]
    [[rows]]
    id = 'rkd'
    optimizer.nesterov = true
    loss = [{ method = 'ce' }, { method = 'rkd' }, { method = 'at' }]
    [[rows]]
    id = 'fitnet'
    loss = [{ method = 'ce' }, { method = 'fitnet', weight = 1.0 }, { method = 'crd', dimension = 8, negatives = 4 }]
    [[rows]]
    id = 'sdd'
    teacher_mode = 'train'
    loss = [{ method = 'ce' }, { method = 'sdd' }]";

/// The second row's loss is the first's, written so that no kernel computes it.
const SAME: &str = "
    [[rows]]
    id = 'kd'
    loss = [{ method = 'ce' }, { method = 'kd' }]
    [[rows]]
    id = 'parted'
    loss = [{ method = 'ce' }, { method = 'kd', weight = 0.5 }, { method = 'kd', weight = 0.5, name = 'again' }]";

/// A run to the end, in a folder of its own.
struct Trained {
    folder: tempfile::TempDir,
    results: Vec<RowResult>,
    losses: Losses,
}

impl Trained {
    fn new(recipe: &Recipe, compute: Compute) -> Self {
        let (folder, mut losses) = (tempfile::tempdir().unwrap(), Losses::default());
        let results = train(recipe, compute, folder.path(), &mut losses).unwrap();
        Self { folder, results, losses }
    }

    fn file(&self, row: &str) -> PathBuf {
        self.folder.path().join(format!("weights/{row}-{SEED}.safetensors"))
    }

    fn bytes(&self, row: &str) -> Vec<u8> {
        std::fs::read(self.file(row)).unwrap()
    }

    /// Weights and statistics.
    fn values(&self, row: &str) -> Vec<f64> {
        let mut all: Vec<_> = dkd_models::checkpoint::load(&self.file(row)).unwrap().0.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let values = all.iter().flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        values.map(f64::from).collect()
    }

    /// Losses as they were told, then those of epochs and evaluations.
    fn numbers(&self, row: &str) -> Vec<f64> {
        let told = self.losses.all.iter().filter(|(r, ..)| r == row).map(|(.., loss)| *loss);
        let result = self.results.iter().find(|r| r.row == row).unwrap();
        told.chain(result.epochs.iter().flat_map(|e| [e.train_loss, e.train_top1, e.test.loss])).collect()
    }
}

/// The largest difference, over the largest value.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn a_loss_between_two_parts_is_the_same_loss() {
    let Some(device) = device(true) else { return };
    let run = Trained::new(&recipe(SAME), device);
    assert_eq!(run.losses.all.iter().filter(|(row, ..)| row == "parted").count(), 2);
    let numbers = difference(&run.numbers("parted"), &run.numbers("kd"));
    let weights = difference(&run.values("parted"), &run.values("kd"));
    eprintln!("apart: {numbers:.1e}, weights {weights:.1e}");
    // Weights are 1e-7 apart, or 4e-5 if a sign before a rectifier falls differently, which takes only another order of sums somewhere.
    assert!(numbers < 1e-6 && weights < 1e-4, "{numbers} {weights}");
}

#[test]
fn losses_between_two_parts_train_as_on_the_cpu() {
    let Some(device) = device(true) else { return };
    let recipe = recipe(BETWEEN);
    let (want, got) = (Trained::new(&recipe, cpu()), Trained::new(&recipe, device));
    for row in ["dist", "rkd", "fitnet", "sdd"] {
        let of = |run: &Trained| -> Vec<(u64, f64)> {
            let own = run.losses.all.iter().filter(|(r, ..)| r == row);
            own.map(|(_, step, loss)| (*step, *loss)).collect()
        };
        // One line for the 16 and 8 images of an epoch.
        let steps: Vec<f64> = of(&want).iter().map(|(_, loss)| *loss).collect();
        let means: Vec<f64> =
            steps.as_chunks::<2>().0.iter().map(|[a, b]| (16.0 * a + 8.0 * b) / 24.0).collect();
        let told = of(&got);
        assert_eq!(told.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 3], "{row}");
        for ((step, got), want) in told.iter().zip(means) {
            let apart = (got - want).abs() / want.abs().max(1.0);
            eprintln!("{row}, step {step}: {apart:.1e}");
            assert!(apart < 1e-4 * 4.0_f64.powi(*step as i32), "{row}, step {step}: {got} instead of {want}");
        }
        let evaluated =
            |run: &Trained| run.results.iter().find(|r| r.row == row).unwrap().epochs[0].test.loss;
        let (a, b) = (evaluated(&want), evaluated(&got));
        assert!((a - b).abs() < 0.05 * a, "{row}: {a} {b}");
    }
}

#[test]
fn a_row_between_others_has_the_bits_that_it_has_alone_on_both_machines() {
    let (Some(device), Some(backwards)) = (device(true), on(Emulated::backwards(), true)) else { return };
    let all = recipe(&format!("{BETWEEN}{SAME}"));
    let (one, other) = (Trained::new(&all, device.clone()), Trained::new(&all, backwards));
    for row in ["dist", "rkd", "fitnet", "sdd", "kd", "parted"] {
        assert!(one.bytes(row) == other.bytes(row), "{row}");
    }
    let alone = Trained::new(&recipe(SAME), device);
    for row in ["kd", "parted"] {
        assert!(one.bytes(row) == alone.bytes(row), "{row}");
    }
}

/// Rows whose losses have kernels, the first without a teacher.
const COHORT: [(&str, &str); 3] = [
    ("none", "[[rows]]\nid = 'none'\n"),
    (
        "dkd",
        "[[rows]]\nid = 'dkd'\noptimizer.clip_norm = 1.0\nloss = [{ method = 'ce' }, { method = 'dkd' }]\n",
    ),
    ("seed", "[[rows]]\nid = 'seed'\nteacher_mode = 'train'\nloss = [{ method = 'seed_kd' }]\n"),
];

/// Students are branches of a recorded step: in which order they are done, and who else there is, must not matter.
#[test]
fn a_row_on_a_branch_has_the_bits_that_it_has_alone() {
    let (Some(device), Some(backwards)) = (device(true), on(Emulated::backwards(), true)) else { return };
    let all = recipe(&COHORT.map(|(_, row)| row).concat());
    let (one, other) = (Trained::new(&all, device.clone()), Trained::new(&all, backwards));
    for (id, row) in COHORT {
        let alone = Trained::new(&recipe(row), device.clone());
        for (run, what) in [(&one, "other rows change it"), (&other, "the order changes it")] {
            assert!(run.bytes(id) == alone.bytes(id) && run.numbers(id) == alone.numbers(id), "{id}: {what}");
        }
    }
}

/// On the CPU steps of such a row are left out.
#[test]
fn a_row_of_nan_goes_on_where_it_is_resumed() {
    let Some(device) = device(true) else { return };
    let recipe = recipe("[[rows]]\nid = 'wild'\noptimizer.lr = 1e30\nnonfinite = 'continue'\n");
    let last = |results: &[RowResult]| {
        let epoch = &results.last().unwrap().epochs[1];
        (epoch.train_loss.is_nan(), epoch.train_top1, epoch.test.loss.is_nan(), epoch.test.top1)
    };
    let whole = Trained::new(&recipe, cpu());
    let folder = tempfile::tempdir().unwrap();
    let mut first = Losses { stop_after: Some(2), ..Losses::default() };
    let stopped = train(&recipe, cpu(), folder.path(), &mut first);
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let resumed = train(&recipe, device, folder.path(), &mut Losses::default()).unwrap();
    assert_eq!(last(&resumed), last(&whole.results));
    assert!(last(&resumed).0);
}

/// Evaluations are recorded for the rows that there are.
#[test]
fn a_row_that_ends_between_two_evaluations_changes_no_other() {
    let Some(device) = device(true) else { return };
    let tame = "[[rows]]\nid = 'tame'\n";
    let wild = "[[rows]]\nid = 'wild'\nnonfinite = 'mark'\n
        schedule = { kind = 'milestones', milestones = [1], gamma = 1e32 }\n";
    let recipe = |rows: &str| recipe_with(", validation = 6", rows);
    let run = Trained::new(&recipe(&format!("{wild}{tame}")), device.clone());
    let alone = Trained::new(&recipe(tame), device);
    let of = |run: &Trained, row: &str| -> Vec<(f64, Option<f64>)> {
        let result = run.results.iter().find(|r| r.row == row).unwrap();
        result.epochs.iter().map(|e| (e.test.loss, e.validation.map(|v| v.loss))).collect()
    };
    assert_eq!(of(&run, "wild").len(), 1);
    let evaluated = of(&run, "tame");
    assert!(evaluated.len() == 2 && evaluated.iter().all(|(_, held)| held.is_some()));
    assert_eq!(evaluated, of(&alone, "tame"));
    assert!(run.bytes("tame") == alone.bytes("tame"));
}

#[test]
fn a_run_with_losses_between_parts_that_is_resumed_has_the_same_bits() {
    let Some(device) = device(true) else { return };
    let recipe = recipe(BETWEEN);
    let whole = Trained::new(&recipe, device.clone());
    for stop in [3, 5] {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Losses { stop_after: Some(stop), ..Losses::default() };
        let stopped = train(&recipe, device.clone(), folder.path(), &mut first);
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        train(&recipe, device.clone(), folder.path(), &mut Losses::default()).unwrap();
        for row in ["dist", "rkd", "fitnet", "sdd"] {
            let file = folder.path().join(format!("weights/{row}-{SEED}.safetensors"));
            assert!(std::fs::read(file).unwrap() == whole.bytes(row), "{row}, after {stop} batches");
        }
    }
}

#[test]
fn losses_between_parts_that_are_not_finite_are_noticed() {
    let Some(device) = device(true) else { return };
    let row = |loss: &str, policy: &str| {
        let rows = format!(
            "[[rows]]\nid = 'tame'\nloss = [{{ method = 'ce' }}, {{ method = 'dist' }}]
            [[rows]]\nid = 'wild'\noptimizer.lr = 1e30\nnonfinite = '{policy}'
            loss = [{{ method = 'ce' }}, {{ method = '{loss}' }}]"
        );
        recipe(&rows)
    };
    for loss in ["dist", "rld"] {
        for policy in ["mark", "continue"] {
            let run = Trained::new(&row(loss, policy), device.clone());
            let of = |row: &str| run.results.iter().find(|r| r.row == row).unwrap();
            assert!(of("wild").diverged.is_some() && of("tame").diverged.is_none(), "{loss} {policy}");
            assert_eq!(
                (of("tame").epochs.len(), of("wild").epochs.len()),
                (2, if policy == "mark" { 0 } else { 2 })
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let stopped = train(&row(loss, "stop"), device.clone(), folder.path(), &mut Losses::default());
        assert!(matches!(&stopped, Err(Error::NonFinite { row, .. }) if row == "wild"), "{stopped:?}");
    }
}
