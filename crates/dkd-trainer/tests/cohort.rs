//! Rows of a cohort: independent of each other, of threads and of the machine's mood.
#![allow(clippy::unwrap_used)]

use dkd_datasets::{Dataset, synthetic};
use dkd_kernels::Cpu;
use dkd_losses::Method;
use dkd_trainer::config::Config;
use dkd_trainer::record::RowResult;
use dkd_trainer::{Context, Error, Event, Recipe, Result, Sink, run};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const TABLE: &str = "
[data]
dataset = 'synthetic'
augment = 'crop-flip'
validation = 40

[train]
epochs = 2
batch_size = 16
nonfinite = 'mark'

[optimizer]
lr = 0.05

[student]
model = 'resnet8'

[teacher]
model = 'resnet8'
epochs = 1

[[rows]]
id = 'none'

[[rows]]
id = 'kd'
loss = [{ method = 'ce', weight = 0.5 }, { method = 'kd', weight = 0.5 }]

[[rows]]
id = 'dkd-train-mode'
teacher_mode = 'train'
seed_offset = 1
loss = [{ method = 'dkd', warmup_epochs = 2 }]

[[rows]]
id = 'wild'
optimizer.lr = 1e30
";

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 200, test: 50, seed: 1 })
}

fn recipe(rows: &[&str]) -> Recipe {
    let mut recipe = Config::parse(TABLE, "test").unwrap().check().unwrap();
    recipe.rows.retain(|r| rows.contains(&r.id.as_str()));
    recipe
}

#[derive(Default)]
struct Log(Vec<Event>);

impl Sink for Log {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.0.push(event.clone());
        Ok(())
    }
}

fn train(recipe: &Recipe, threads: usize, weights: Option<&Path>) -> (Result<Vec<RowResult>>, Vec<Event>) {
    let mut log = Log::default();
    let stop = AtomicBool::new(false);
    let mut context = Context {
        compute: Cpu::new(threads).unwrap().into(),
        sink: &mut log,
        weights: weights.map(Path::to_owned),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: None,
        resume: None,
        probe: None,
    };
    (run(recipe, &data(), 5, &mut context), log.0)
}

/// Results without times.
fn timeless(results: Vec<RowResult>) -> Vec<RowResult> {
    results.into_iter().map(|r| RowResult { seconds: 0.0, waited_seconds: 0.0, ..r }).collect()
}

#[test]
fn a_row_does_not_see_its_neighbours_nor_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (together, alone) = (folder.path().join("together"), folder.path().join("alone"));
    let all =
        timeless(train(&recipe(&["none", "kd", "dkd-train-mode", "wild"]), 2, Some(&together)).0.unwrap());
    assert_eq!(
        all.iter().map(|r| r.row.as_str()).collect::<Vec<_>>(),
        ["teacher", "none", "kd", "dkd-train-mode", "wild"]
    );
    for (threads, row) in [(1, "none"), (3, "kd"), (1, "dkd-train-mode")] {
        let own = timeless(train(&recipe(&[row]), threads, Some(&alone)).0.unwrap());
        assert_eq!(own.last(), all.iter().find(|r| r.row == row), "{row}");
        let bytes = |folder: &Path| std::fs::read(folder.join(format!("{row}-5.safetensors"))).unwrap();
        assert!(bytes(&together) == bytes(&alone), "{row}: weights");
    }
}

#[test]
fn a_wild_row_is_marked_and_the_others_go_on() {
    let (results, events) = train(&recipe(&["none", "wild"]), 2, None);
    let results = results.unwrap();
    let wild = results.last().unwrap();
    assert!(wild.diverged.is_some() && wild.value().is_none() && wild.epochs.is_empty(), "{wild:?}");
    assert_eq!(results[0].epochs.len(), 2);
    let diverged =
        events.iter().filter(|e| matches!(e, Event::Diverged { row, goes_on: false, .. } if row == "wild"));
    assert_eq!(diverged.count(), 1);
    // Under `stop` the same row ends the run before the update, by name.
    let mut strict = recipe(&["wild"]);
    strict.rows[0].nonfinite = dkd_trainer::NonFinite::Stop;
    match train(&strict, 2, None).0 {
        Err(Error::NonFinite { row, term, origin, .. }) => {
            assert_eq!(
                (row.as_str(), term.as_str()),
                ("wild", wild.diverged.as_ref().unwrap().term.as_str())
            );
            assert!((1..=16).contains(&origin.samples.len()), "{origin:?}");
        }
        other => panic!("{other:?}"),
    }
    // Under `continue` it goes on to the end, predicting class 0.
    let mut lax = recipe(&["wild"]);
    lax.rows[0].nonfinite = dkd_trainer::NonFinite::Continue;
    let result = train(&lax, 2, None).0.unwrap().remove(0);
    let class_0 = data().test.labels.iter().filter(|l| **l == 0).count() as f64 / 50.0 * 100.0;
    assert_eq!((result.epochs.len(), result.last), (2, Some(class_0)));
    assert!(result.diverged.is_some());
    // So does its training: no loss, and the share of class 0.
    let after = &result.epochs[1];
    assert!(after.train_loss.is_nan() && (5.0..20.0).contains(&after.train_top1), "{after:?}");
}

#[test]
fn events_tell_the_whole_story() {
    let (results, events) = train(&recipe(&["none", "kd"]), 1, None);
    let results = results.unwrap();
    let count = |f: &dyn Fn(&Event) -> bool| events.iter().filter(|e| f(e)).count();
    // The teacher's cohort, then the students'; 160 images are 10 batches.
    assert_eq!(count(&|e| matches!(e, Event::Started { batches: 10, images: 160, .. })), 2);
    assert_eq!(count(&|e| matches!(e, Event::Batch { .. })), 10 + 20);
    assert_eq!(count(&|e| matches!(e, Event::Step { row, .. } if row == "kd")), 20);
    assert_eq!(count(&|e| matches!(e, Event::Evaluation { split, .. } if split == "validation")), 1 + 2 + 2);
    assert_eq!(count(&|e| matches!(e, Event::Finished { .. })), 2);
    let chosen = results[1].validation_chosen_epoch.unwrap();
    assert_eq!(results[1].validation_chosen, Some(results[1].epochs[chosen - 1].test.top1));
    let step = events.iter().find_map(|e| match e {
        Event::Step { row, terms, loss, .. } if row == "kd" => Some((terms.clone(), *loss)),
        _ => None,
    });
    let (terms, loss) = step.unwrap();
    assert_eq!(terms.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["ce", "kd"]);
    assert!((0.5 * (terms[0].value + terms[1].value) - loss).abs() < 1e-9);
}

#[test]
fn every_method_trains() {
    let row = |(i, name): (usize, &&str)| {
        let method = Method::named(name).unwrap();
        let part = match *name {
            "ce" => "weight = 2.0",
            "crd" => "negatives = 40, dimension = 16",
            _ if method.reads_features() => "own_momentum = 0.95",
            _ => ["standardize = false", "standardize = true"][i % 2],
        };
        format!(
            "[[rows]]\nid = '{name}'\nloss = [{{ method = 'ce', name = 'own' }}, {{ method = '{name}', {part} }}]\n"
        )
    };
    let rows: String = Method::NAMES.iter().enumerate().map(row).collect();
    let text = format!(
        "student.model = 'resnet8'\nteacher = {{ model = 'resnet8', epochs = 1 }}\noptimizer.lr = 0.001\n\
         [data]\ndataset = 'synthetic'\ntrain_limit = 32\n[train]\nepochs = 1\nbatch_size = 16\nnonfinite = 'stop'\n{rows}"
    );
    let recipe = Config::parse(&text, "test").unwrap().check().unwrap();
    let (results, events) = train(&recipe, 1, None);
    let results = results.unwrap();
    assert!(Method::NAMES.iter().all(|name| results.iter().any(|r| r.row == *name && r.diverged.is_none())));
    for name in Method::NAMES {
        let own = |e: &Event| matches!(e, Event::Step { row, terms, .. } if row == name && terms.len() >= 2);
        assert_eq!(events.iter().filter(|e| own(e)).count(), 2, "{name}");
    }
}

#[test]
fn a_teacher_is_trained_once_per_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let started = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Started { .. })).count();
    let (first, events) = train(&recipe(&["kd"]), 2, Some(folder.path()));
    assert_eq!(started(&events), 2);
    let (second, events) = train(&recipe(&["kd"]), 2, Some(folder.path()));
    assert_eq!(started(&events), 1);
    assert_eq!(timeless(first.unwrap()), timeless(second.unwrap()));
    let mut other = recipe(&["kd"]);
    other.teacher.as_mut().unwrap().optimizer.lr = 0.01;
    assert_eq!(started(&train(&other, 2, Some(folder.path())).1), 2);
}

#[test]
fn a_stop_is_obeyed_and_results_round_trip() {
    let stop = AtomicBool::new(true);
    let mut log = Log::default();
    let cpu = Cpu::new(1).unwrap();
    let mut context = Context {
        compute: Arc::clone(&cpu).into(),
        sink: &mut log,
        weights: None,
        host: None,
        last: None,
        stop: &stop,
        checkpoints: None,
        resume: None,
        probe: None,
    };
    let stopped = run(&recipe(&["none"]), &data(), 5, &mut context);
    assert!(matches!(stopped, Err(Error::Interrupted { epoch: 1, step: 0, saved: None })));

    let folder = tempfile::tempdir().unwrap();
    let mut results = train(&recipe(&["none", "wild"]), 1, None).0.unwrap();
    for result in &mut results {
        result.profile = "p".to_owned();
        result.write(folder.path()).unwrap();
    }
    assert_eq!(dkd_trainer::record::read_results(folder.path()).unwrap(), results);
    let path = folder.path().join("p/none-5.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"format_version\": 1", "\"format_version\": 9")).unwrap();
    let message = dkd_trainer::record::read_results(folder.path()).unwrap_err().to_string();
    assert!(message.contains("none-5.json") && message.contains("version 9"), "{message}");
}

#[test]
fn a_described_network_trains_as_the_listed_one() {
    let listed = recipe(&["none", "kd"]);
    let folder = tempfile::tempdir().unwrap();
    let graph = listed.graph("resnet8", &data()).unwrap();
    let file = folder.path().join("mine.json");
    std::fs::write(&file, dkd_models::Description::of(&graph).to_json()).unwrap();
    let mut config = Config::parse(TABLE, "test").unwrap();
    for key in ["student.model", "teacher.model"] {
        config.set_value(key, file.display().to_string()).unwrap();
    }
    let mut described = config.check().unwrap();
    described.rows.retain(|r| ["none", "kd"].contains(&r.id.as_str()));
    let (named, own) = (folder.path().join("named"), folder.path().join("own"));
    let expected = train(&listed, 2, Some(&named)).0.unwrap();
    let got = train(&described, 2, Some(&own)).0.unwrap();
    assert_eq!(got.iter().map(|r| r.model.as_str()).collect::<Vec<_>>(), ["mine"; 3]);
    for (e, g) in expected.iter().zip(&got) {
        assert_eq!(e.epochs, g.epochs, "{}", e.row);
        let weights = |folder: &Path| {
            let file = folder.join(format!("{}-5.safetensors", e.row));
            let (tensors, _) = dkd_models::checkpoint::load(&file).unwrap();
            let mut all: Vec<_> = tensors
                .into_iter()
                .map(|(n, t)| (n, t.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert!(weights(&named) == weights(&own), "{}", e.row);
    }
    // A second run takes the teacher of the first, which knows its network's name.
    let again = train(&described, 1, Some(&own)).0.unwrap();
    assert_eq!(timeless(again), timeless(got));
}

#[test]
fn mixed_images_are_for_students_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut plain = recipe(&["kd"]);
    plain.rows[0].parts.remove(0);
    let mut mixed = plain.clone();
    mixed.data.mixup = true;
    let first = train(&plain, 2, Some(folder.path())).0.unwrap();
    let second = train(&mixed, 1, Some(folder.path())).0.unwrap();
    assert_eq!(timeless(vec![first[0].clone()]), timeless(vec![second[0].clone()]), "the same teacher");
    assert_ne!(first[1].epochs, second[1].epochs);
    assert_ne!(first[1].settings_sha256, second[1].settings_sha256);
    let again = train(&mixed, 3, None).0.unwrap();
    assert_eq!(timeless(again), timeless(second));
}

#[test]
fn a_second_view_changes_only_the_rows_that_have_it() {
    let mut table = recipe(&["none", "kd", "dkd-train-mode"]);
    let plain = train(&table, 2, None).0.unwrap();
    let of = |results: &[RowResult], id: &str| results.iter().find(|r| r.row == id).unwrap().clone();
    for row in table.rows.iter_mut().filter(|r| r.id != "none") {
        row.views = 2;
    }
    let both = train(&table, 2, None).0.unwrap();
    for id in ["teacher", "none"] {
        assert_eq!(timeless(vec![of(&plain, id)]), timeless(vec![of(&both, id)]), "{id}");
    }
    assert_eq!(timeless(both.clone()), timeless(train(&table, 3, None).0.unwrap()), "threads");
    for id in ["kd", "dkd-train-mode"] {
        let (one, two) = (of(&plain, id), of(&both, id));
        assert_ne!(one.epochs, two.epochs);
        assert_ne!(one.settings_sha256, two.settings_sha256);
        assert!(two.diverged.is_none() && two.epochs.iter().all(|e| e.train_loss.is_finite()));
        assert!(two.setting.ends_with(", two views"), "{}", two.setting);
        let mut alone = table.clone();
        alone.rows.retain(|r| r.id == id);
        let alone = train(&alone, 1, None).0.unwrap();
        assert_eq!(timeless(vec![of(&alone, id)]), timeless(vec![two]), "{id} alone");
    }
}

#[test]
fn two_views_and_kept_answers_are_refused_before_training() {
    let mut table = recipe(&["kd"]);
    table.rows[0].views = 2;
    let (precision, folder) = (dkd_trainer::teacher_cache::Precision::F32, "unused".into());
    table.cache = Some(dkd_trainer::teacher_cache::CacheRecipe { precision, folder, max_bytes: 1 << 30 });
    let message = train(&table, 1, None).0.unwrap_err().to_string();
    assert!(message.contains("row `kd`") && message.contains("cache.teacher"), "{message}");
}
