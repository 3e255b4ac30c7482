//! A run that was stopped and resumed gives the same bits as one that was not: weights, results and the event log.
#![allow(clippy::unwrap_used)]

use dkd_datasets::{Dataset, synthetic};
use dkd_kernels::Cpu;
use dkd_trainer::checkpoint::{Identity, Policy, Snapshot, Store, decode};
use dkd_trainer::config::Config;
use dkd_trainer::record::{JsonLines, RowResult};
use dkd_trainer::teacher_cache::{CacheRecipe, Precision};
use dkd_trainer::{CheckpointRecipe, Checkpoints, Context, Error, Event, Recipe, Result, Sink, run};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const SEED: u64 = 5;

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 88, test: 32, seed: 1 })
}

/// Teacher of one epoch, four students of two; 80 images are five batches.
fn recipe(augment: &str, optimizer: &str) -> Recipe {
    let text = format!(
        "data = {{ dataset = 'synthetic', augment = '{augment}', validation = 8 }}
        train = {{ epochs = 2, batch_size = 16 }}
        {optimizer}
        student.model = 'resnet8'
        teacher = {{ model = 'resnet8', epochs = 1 }}
        [[rows]]
        id = 'none'
        [[rows]]
        id = 'dkd'
        teacher_mode = 'train'
        loss = [{{ method = 'ce' }}, {{ method = 'dkd', warmup_epochs = 3, own_momentum = 0.95 }},
            {{ method = 'crd', negatives = 20, dimension = 16 }}, {{ method = 'fitnet', weight = 1.0 }}]
        [[rows]]
        id = 'kd'
        loss = [{{ method = 'ce' }}, {{ method = 'kd' }}, {{ method = 'rkd' }}]
        [[rows]]
        id = 'wild'
        optimizer.lr = 1e30
        nonfinite = 'continue'"
    );
    Config::parse(&text, "test").unwrap().check().unwrap()
}

/// Writes the log and sets `stop` after so many batches.
struct StopAfter<'a> {
    log: JsonLines,
    left: Option<usize>,
    stop: &'a AtomicBool,
}

impl Sink for StopAfter<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let (Event::Batch { .. }, Some(left)) = (event, &mut self.left) {
            *left -= 1;
            if *left == 0 {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        self.log.event(event)
    }

    fn mark(&mut self) -> Result<Option<dkd_trainer::checkpoint::LogMark>> {
        self.log.mark()
    }
}

fn identity() -> Identity {
    Identity { config: String::new(), data: data().fingerprint(), seed: SEED }
}

/// Runs in `folder`, from the start or from `resume`, until `left` batches are done.
fn train(
    recipe: &Recipe,
    folder: &Path,
    threads: usize,
    resume: Option<Snapshot>,
    left: Option<usize>,
) -> Result<Vec<RowResult>> {
    let stop = AtomicBool::new(false);
    let path = folder.join("events.jsonl");
    let log = match &resume {
        Some(snapshot) => JsonLines::resume(&path, snapshot.header.log_bytes.unwrap())?,
        None => JsonLines::append(&path)?,
    };
    let mut sink = StopAfter { log, left, stop: &stop };
    let policy =
        Policy { every_epochs: 1, every_steps: 3, every_minutes: 0.0, keep_last: 2, keep_best: false };
    let settings = CheckpointRecipe { policy, stop_on_failure: true };
    let checkpoints = Checkpoints { folder: folder.join("checkpoints"), settings, identity: identity() };
    let mut context = Context {
        compute: Cpu::new(threads).unwrap().into(),
        sink: &mut sink,
        weights: Some(folder.join("weights")),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: Some(checkpoints),
        resume,
        probe: None,
    };
    run(recipe, &data(), SEED, &mut context)
}

/// Everything that must be equal: weights, results without times, and the log.
fn outcome(folder: &Path, results: Vec<RowResult>) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(folder.join("weights")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            all.insert(
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            );
        }
    }
    let results: Vec<RowResult> =
        results.into_iter().map(|r| RowResult { seconds: 0.0, waited_seconds: 0.0, ..r }).collect();
    all.insert("results".to_owned(), serde_json::to_vec(&results).unwrap());
    all.insert("log".to_owned(), std::fs::read(folder.join("events.jsonl")).unwrap());
    all
}

fn newest(folder: &Path) -> Snapshot {
    let found = Store::new(&folder.join("checkpoints"), SEED).newest(|_| Ok(())).unwrap();
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    found.snapshot.expect("a checkpoint").1
}

#[test]
fn stopped_anywhere_and_resumed_is_as_if_nothing_had_happened() {
    let optimizers = [
        "optimizer = { lr = 0.02, weight_decay = 1e-3 }
        schedule = { kind = 'milestones', milestones = [1] }",
        "optimizer = { lr = 0.02, nesterov = true }
        schedule = { kind = 'cosine', warmup_epochs = 1 }",
    ];
    for (augment, optimizer) in [("none", optimizers[0]), ("crop-flip", optimizers[1])] {
        let recipe = recipe(augment, optimizer);
        let whole = tempfile::tempdir().unwrap();
        let results = train(&recipe, whole.path(), 2, None, None).unwrap();
        let expected = outcome(whole.path(), results);
        // Five batches of the teacher, then two epochs of five: inside each, and at every end.
        for (k, threads) in [(1, 1), (3, 2), (5, 1), (6, 2), (9, 1), (10, 2), (12, 1), (15, 2)] {
            let parts = tempfile::tempdir().unwrap();
            // In the whole run the teacher was asked every time; here its answers are kept.
            let mut recipe = recipe.clone();
            let (precision, folder) = (Precision::F32, parts.path().join("cache"));
            recipe.cache = Some(CacheRecipe { precision, folder, max_bytes: 1 << 30 });
            match train(&recipe, parts.path(), threads, None, Some(k)) {
                Err(Error::Interrupted { saved: Some(path), .. }) => assert!(path.is_file()),
                other => panic!("after {k} batches: {other:?}"),
            }
            // Half a step more that the log must forget again.
            let log = parts.path().join("events.jsonl");
            let mut text = std::fs::read(&log).unwrap();
            text.extend_from_slice(b"{\"event\":\"step\",\"lost\"");
            std::fs::write(&log, text).unwrap();
            let results =
                train(&recipe, parts.path(), 3 - threads, Some(newest(parts.path())), None).unwrap();
            let got = outcome(parts.path(), results);
            for (name, bytes) in &expected {
                assert!(got.get(name) == Some(bytes), "{augment}, after {k} batches: {name} differs");
            }
            assert_eq!(got.len(), expected.len());
        }
    }
}

#[test]
fn two_views_are_resumed_in_the_middle_of_an_epoch() {
    let text = "data = { dataset = 'synthetic', augment = 'crop-flip', validation = 8 }
        train = { epochs = 2, batch_size = 16 }
        optimizer.lr = 0.02
        student.model = 'resnet8'
        teacher = { model = 'resnet8', epochs = 1 }
        [[rows]]
        id = 'mlkd'
        views = 2
        nonfinite = 'skip'
        loss = [{ method = 'ce' }, { method = 'mlkd', own_momentum = 0.95 }, { method = 'fitnet', weight = 1.0 }]";
    let recipe = Config::parse(text, "test").unwrap().check().unwrap();
    let whole = tempfile::tempdir().unwrap();
    let results = train(&recipe, whole.path(), 2, None, None).unwrap();
    let expected = outcome(whole.path(), results);
    for (k, threads) in [(7, 1), (13, 2)] {
        let parts = tempfile::tempdir().unwrap();
        let stopped = train(&recipe, parts.path(), threads, None, Some(k));
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        let results = train(&recipe, parts.path(), 3 - threads, Some(newest(parts.path())), None).unwrap();
        assert!(outcome(parts.path(), results) == expected, "after {k} batches");
    }
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_an_older_one_taken() {
    let recipe = recipe("none", "optimizer.lr = 0.02");
    let folder = tempfile::tempdir().unwrap();
    assert!(train(&recipe, folder.path(), 2, None, Some(13)).is_err());
    let store = Store::new(&folder.path().join("checkpoints"), SEED);
    let files = store.list().unwrap();
    assert_eq!(files.len(), 2, "the policy keeps two");
    let good = std::fs::read(&files[0]).unwrap();
    let place = decode(&files[0]).unwrap().header.place;
    assert_eq!((place.teacher, place.done), (false, 8));
    for i in 0..300 {
        let mut bad = good.clone();
        if i % 3 == 0 {
            bad.truncate(good.len() * i / 300);
        } else {
            bad[(i * 7919 * 31) % good.len()] ^= 1 << (i % 8);
        }
        std::fs::write(&files[0], &bad).unwrap();
        let found = store.newest(|_| Ok(())).unwrap();
        let (path, snapshot) = found.snapshot.unwrap();
        if path == files[0] {
            // Harmless: white space of the header.
            assert_eq!(snapshot.header.place, place);
            assert!(snapshot.tensors.iter().all(|(n, _)| n.contains('/')));
        } else {
            assert_eq!((path, found.skipped.len()), (files[1].clone(), 1));
            let message = found.skipped[0].to_string();
            assert!(message.contains(files[0].file_name().unwrap().to_str().unwrap()), "{message}");
        }
    }
    std::fs::write(&files[0], &good).unwrap();
    // A log that is shorter than the checkpoint says has lost lines.
    let log = folder.path().join("events.jsonl");
    std::fs::write(&log, "").unwrap();
    let message = JsonLines::resume(&log, 10).unwrap_err().to_string();
    assert!(message.contains("events.jsonl") && message.contains("lines are missing"), "{message}");
}
