//! Losses and gradients that are not finite: what each policy makes of them, and looking into a step.
#![allow(clippy::unwrap_used)]

use dkd_datasets::{Dataset, synthetic};
use dkd_kernels::Cpu;
use dkd_trainer::checkpoint::{Identity, LogMark, Policy, Store};
use dkd_trainer::config::Config;
use dkd_trainer::debug::Probe;
use dkd_trainer::record::{JsonLines, RowResult};
use dkd_trainer::{CheckpointRecipe, Checkpoints, Context, Error, Event, Result, Sink, run};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 64, test: 16, seed: 1 })
}

/// Two epochs of four batches; a row that is well and one whose first steps are far too large.
fn config(train: &str, wild: &str) -> String {
    format!(
        "data.dataset = 'synthetic'
        train = {{ epochs = 2, batch_size = 16, {train} }}
        student.model = 'resnet8'
        optimizer.lr = 0.02
        [[rows]]
        id = 'well'
        [[rows]]
        id = 'wild'
        {wild}"
    )
}

/// A log, everything that was told, and a stop after so many batches.
struct Watch<'a> {
    log: JsonLines,
    events: Vec<Event>,
    left: Option<usize>,
    stop: &'a AtomicBool,
}

impl Sink for Watch<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let (Event::Batch { .. }, Some(left)) = (event, &mut self.left) {
            *left -= 1;
            self.stop.store(*left == 0, Ordering::Relaxed);
        }
        self.events.push(event.clone());
        self.log.event(event)
    }

    fn mark(&mut self) -> Result<Option<LogMark>> {
        self.log.mark()
    }

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        self.log.rewind(bytes)
    }
}

/// What a run may differ in.
#[derive(Default)]
struct Options {
    without_checkpoints: bool,
    resume: bool,
    left: Option<usize>,
    probe: Option<Probe>,
}

type Outcome = (Result<Vec<RowResult>>, Vec<Event>, Option<Probe>);

fn train(text: &str, folder: &Path, options: Options) -> Outcome {
    train_on(&data(), text, folder, options)
}

fn train_on(data: &Dataset, text: &str, folder: &Path, options: Options) -> Outcome {
    let recipe = Config::parse(text, "test").unwrap().check().unwrap();
    let stop = AtomicBool::new(false);
    let store = Store::new(&folder.join("checkpoints"), 0);
    let resume = if options.resume { store.newest(|_| Ok(())).unwrap().snapshot.map(|s| s.1) } else { None };
    let path = folder.join("events.jsonl");
    let log = match &resume {
        Some(snapshot) => JsonLines::resume(&path, snapshot.header.log_bytes.unwrap()).unwrap(),
        None => JsonLines::append(&path).unwrap(),
    };
    let mut watch = Watch { log, events: Vec::new(), left: options.left, stop: &stop };
    let policy =
        Policy { every_epochs: 1, every_steps: 1, every_minutes: 0.0, keep_last: 1, keep_best: false };
    let identity = Identity { config: String::new(), data: data.fingerprint(), seed: 0 };
    let settings = CheckpointRecipe { policy, stop_on_failure: true };
    let checkpoints = Checkpoints { folder: store.folder().to_owned(), settings, identity };
    let mut context = Context {
        compute: Cpu::new(2).unwrap().into(),
        sink: &mut watch,
        weights: Some(folder.join("weights")),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: (!options.without_checkpoints).then_some(checkpoints),
        resume,
        probe: options.probe,
    };
    let results = run(&recipe, data, 0, &mut context);
    let probe = context.probe.take();
    (results, watch.events, probe)
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("events.jsonl")).unwrap()
}

fn steps_of(log: &str, row: &str) -> Vec<u64> {
    let values = log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let steps = values.filter(|v| v["event"] == "step" && v["row"] == row);
    steps.map(|v| v["step"].as_u64().unwrap()).collect()
}

const REWIND: &str = "nonfinite = 'rewind', rewind_factor = 1e-32";
const WILD: &str = "optimizer.lr = 1e30";

#[test]
fn a_row_that_is_taken_back_recovers_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (results, events, _) = train(&config(REWIND, WILD), folder.path(), Options::default());
    let results = results.unwrap();
    assert!(!results[1].rewinds.is_empty() && results[0].rewinds.is_empty(), "{:?}", results[1].rewinds);
    assert!(results[1].diverged.is_none() && results[1].epochs.len() == 2);
    assert!(results[1].epochs.iter().all(|e| e.train_loss.is_finite()));
    let told = events.iter().filter(|e| matches!(e, Event::Rewound { row, .. } if row == "wild")).count();
    assert_eq!(told, results[1].rewinds.len());
    // The log has every step once, in order, and ends as one without a detour would.
    for row in ["well", "wild"] {
        assert_eq!(steps_of(&log(folder.path()), row), (0..8).collect::<Vec<_>>());
    }
    let alone = tempfile::tempdir().unwrap();
    let (calm, _, _) = train(&config("nonfinite = 'mark'", WILD), alone.path(), Options::default());
    assert_eq!(calm.unwrap()[0].epochs, results[0].epochs);
    let read = |folder: &Path| std::fs::read(folder.join("weights/well-0.safetensors")).unwrap();
    assert!(read(folder.path()) == read(alone.path()));
    // Stopped after any batch, made or taken back, and resumed: the same.
    let whole =
        (log(folder.path()), std::fs::read(folder.path().join("weights/wild-0.safetensors")).unwrap());
    for left in [1, 2, 3, 5, 7] {
        let parts = tempfile::tempdir().unwrap();
        let stopped =
            train(&config(REWIND, WILD), parts.path(), Options { left: Some(left), ..Options::default() });
        assert!(matches!(stopped.0, Err(Error::Interrupted { .. })), "{left}: {:?}", stopped.0);
        let resumed =
            train(&config(REWIND, WILD), parts.path(), Options { resume: true, ..Options::default() });
        assert_eq!(resumed.0.unwrap()[1].rewinds, results[1].rewinds);
        let found =
            (log(parts.path()), std::fs::read(parts.path().join("weights/wild-0.safetensors")).unwrap());
        assert!(found == whole, "stopped after {left} batches");
    }
}

#[test]
fn a_row_that_does_not_recover_ends_the_run_and_says_what_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let hopeless = config("nonfinite = 'rewind', rewind_factor = 1.0", "optimizer.lr = 1e30");
    let message = train(&hopeless, folder.path(), Options::default()).0.unwrap_err().to_string();
    assert!(message.contains("taken back too many times") && message.contains("`wild`"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let options = Options { without_checkpoints: true, ..Options::default() };
    let message = train(&hopeless, folder.path(), options).0.unwrap_err().to_string();
    assert!(message.contains("needs checkpoints"), "{message}");
    // 150 batches, nearly all of them bad.
    let text = config("nonfinite = 'skip'", "optimizer.lr = 1e30")
        .replace("epochs = 2, batch_size = 16", "epochs = 10, batch_size = 4");
    let folder = tempfile::tempdir().unwrap();
    let (results, events, _) = train(&text, folder.path(), Options::default());
    let message = results.unwrap_err().to_string();
    assert!(message.contains("100 batches before were left out"), "{message}");
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Skipped { .. })).count(), 100);
}

#[test]
fn stopping_names_the_place_and_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let (results, _, _) =
        train(&config("nonfinite = 'stop'", "optimizer.lr = 1e30"), folder.path(), Options::default());
    let Err(Error::NonFinite { row, origin, epoch, .. }) = results else { panic!("no such error") };
    assert_eq!((row.as_str(), epoch), ("wild", 1));
    assert!(origin.place.starts_with("the output of ") && !origin.samples.is_empty(), "{origin:?}");
    // Pixels that overflow when they are normalised.
    let mut broken = data();
    broken.normalization.std = [1e-38; 3];
    let text = config("nonfinite = 'mark'", "")
        .replace("data.dataset", "data.normalization = 'dataset'\ndata.dataset");
    let folder = tempfile::tempdir().unwrap();
    let (results, _, _) = train_on(&broken, &text, folder.path(), Options::default());
    let diverged = results.unwrap()[0].diverged.clone().unwrap();
    assert_eq!((diverged.epoch, diverged.step), (1, 0));
    assert!(diverged.origin.starts_with("the output of "), "{}", diverged.origin);
}

#[test]
fn gradients_are_clipped_and_their_norm_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let wild = "optimizer = { lr = 10.0, clip_norm = 1e-3, momentum = 0.0 }";
    let (results, events, _) = train(&config("nonfinite = 'stop'", wild), folder.path(), Options::default());
    assert!(results.unwrap().iter().all(|r| r.diverged.is_none()));
    for event in events {
        if let Event::Step { row, gradient_norm, .. } = event {
            assert_eq!(gradient_norm.is_some(), row == "wild");
            assert!(gradient_norm.is_none_or(|n| n > 1e-3 && n.is_finite()));
        }
    }
}

#[test]
fn a_probe_sees_the_step_that_the_run_made() {
    let text = config("nonfinite = 'mark'", "");
    let folder = tempfile::tempdir().unwrap();
    let (_, events, _) = train(&text, folder.path(), Options::default());
    let terms = |wanted: u64| {
        events.iter().find_map(|e| match e {
            Event::Step { row, step, terms, loss, lr, .. } if row == "wild" && *step == wanted => {
                Some((terms.clone(), *loss, *lr))
            }
            _ => None,
        })
    };
    for step in [0, 5] {
        let probed = tempfile::tempdir().unwrap();
        let probe = Some(Probe { step, ..Probe::default() });
        let (stopped, _, probe) = train(&text, probed.path(), Options { probe, ..Options::default() });
        assert!(matches!(stopped, Err(Error::Interrupted { saved: None, .. })));
        let reports = probe.unwrap().reports;
        assert_eq!(reports.iter().map(|r| r.row.as_str()).collect::<Vec<_>>(), ["well", "wild"]);
        let report = &reports[1];
        assert_eq!(Some((report.terms.clone(), report.loss, report.lr)), terms(step));
        assert_eq!(report.samples.len(), 16);
        assert!(report.origin.is_none() && report.gradient_norm > 0.0);
        let layers: Vec<&str> = report.layers.iter().map(|l| l.name.as_str()).collect();
        assert_eq!((layers[0], layers[1], *layers.last().unwrap()), ("input_0", "conv1", "fc"));
        assert!(report.layers.iter().all(|l| l.values.nonfinite == 0 && l.values.rms > 0.0));
        let fc = report.parameters.iter().find(|p| p.name == "fc.weight").unwrap();
        assert!(fc.gradient.unwrap().rms > 0.0 && fc.values.count == 640, "{fc:?}");
        let running = report.parameters.iter().find(|p| p.name == "bn1.running_mean").unwrap();
        assert!(running.gradient.is_none());
    }
}
