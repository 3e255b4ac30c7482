//! Results from records alone, also of runs that have not ended.

use super::{epoch, names, started};
use dkd_trainer::config::Config;
use dkd_trainer::record::{
    DataInfo, Host, JsonLines, RowResult, RunFolder, describe, read_records, read_results,
};
use dkd_trainer::{Event, Recipe, Sink};
use std::path::Path;

fn recipe() -> Recipe {
    let text = "
        name = 't'
        title = 'A table'
        train = { epochs = 3, batch_size = 10 }
        student.model = 'resnet8'
        teacher = { model = 'resnet20', epochs = 1 }
        [[rows]]
        id = 'none'
        [[rows]]
        id = 'kd'
        label = 'KD'
        baseline = 'none'
        loss = [{ method = 'ce' }, { method = 'kd', temperature = 4.0 }]";
    Config::parse(text, "t").unwrap().check().unwrap()
}

fn host() -> Host {
    Host {
        cpu: "a processor".to_owned(),
        threads: 2,
        isa: "avx2".to_owned(),
        device: None,
        version: "0.1.0".to_owned(),
        revision: None,
        time: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn data() -> DataInfo {
    DataInfo {
        name: "cifar10".to_owned(),
        synthetic: false,
        train_images: 20,
        test_images: 5,
        sha256: "ab".repeat(32),
    }
}

/// A table's teacher, one whole epoch of its students and a step of the next.
fn stopped() -> Vec<Event> {
    let students = ["none", "kd"];
    let mut events = vec![started(&["teacher"], 1, 2)];
    events.extend(epoch(&["teacher"], 1));
    events.extend([Event::Finished { rows: names(&["teacher"]) }, started(&students, 3, 2)]);
    events.extend(epoch(&students, 1));
    events.push(epoch(&students, 2).remove(0));
    events
}

fn log(path: &Path, events: &[Event]) {
    let mut log = JsonLines::append(path).unwrap();
    events.iter().for_each(|e| log.event(e).unwrap());
}

fn rows(results: &[RowResult]) -> Vec<(&str, u64, usize, bool)> {
    results.iter().map(|r| (r.row.as_str(), r.seed, r.epochs.len(), r.incomplete)).collect()
}

#[test]
fn a_table_that_stopped_has_results_as_far_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    assert_eq!(read_records(folder.path()).unwrap(), []);
    describe(folder.path(), &recipe, &host(), &data()).unwrap();
    assert_eq!(read_records(folder.path()).unwrap(), [], "a description is no result");
    let path = folder.path().join("events-3.jsonl");
    log(&path, &stopped());
    // As a crash leaves it.
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 5]).unwrap();
    let results = read_records(folder.path()).unwrap();
    assert_eq!(rows(&results), [("kd", 3, 1, true), ("none", 3, 1, true), ("teacher", 3, 1, false)]);
    let [kd, _, teacher] = &results[..] else { panic!("{results:?}") };
    assert_eq!((&*kd.profile, &*kd.title, &*kd.label, &*kd.model), ("t", "A table", "KD", "resnet8"));
    assert_eq!(
        (kd.setting.as_str(), kd.baseline.as_deref(), kd.position),
        ("CE + KD (T=4)", Some("none"), 2)
    );
    assert_eq!(kd.settings_sha256, recipe.rows[1].settings_sha256(&recipe));
    assert_eq!((kd.planned_epochs, kd.last, kd.value()), (3, Some(51.0), None), "never compared");
    assert_eq!((kd.validation_chosen, kd.epochs[0].validation.unwrap().top1), (Some(51.0), 41.0));
    assert_eq!((&kd.host, &kd.data), (&Some(host()), &data()));
    assert_eq!((teacher.value(), teacher.model.as_str(), teacher.position), (Some(51.0), "resnet20", 0));
    // The trained teacher's own file knows more, if it is of this training.
    let stored = RowResult { seconds: 7.0, profile: String::new(), ..teacher.clone() };
    let file = folder.path().join("weights/teacher-3.json");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, serde_json::to_vec(&stored).unwrap()).unwrap();
    let teacher = &read_records(folder.path()).unwrap()[2];
    assert_eq!((teacher.seconds, teacher.profile.as_str()), (7.0, "t"));
    let mut older = stored;
    older.epochs[0].train_loss = 9.0;
    std::fs::write(&file, serde_json::to_vec(&older).unwrap()).unwrap();
    assert_eq!(read_records(folder.path()).unwrap()[2].epochs[0].train_loss, 0.5);
}

#[test]
fn stored_results_count_and_others_are_added() {
    let folder = tempfile::tempdir().unwrap();
    describe(folder.path(), &recipe(), &host(), &data()).unwrap();
    log(&folder.path().join("events-3.jsonl"), &stopped());
    let mut whole = read_records(folder.path()).unwrap();
    for result in &mut whole {
        (result.incomplete, result.seconds) = (false, 60.0);
        result.write(&folder.path().join("results")).unwrap();
    }
    assert_eq!(read_records(folder.path()).unwrap(), whole);
    assert_eq!(read_results(&folder.path().join("results")).unwrap(), whole);
    // The next seed has only begun.
    let begins = |e: Event| match e {
        Event::Started { rows, epochs, batches, images, .. } => {
            Event::Started { rows, epochs, batches, images, seed: 4 }
        }
        other => other,
    };
    let next: Vec<Event> = stopped().into_iter().take(4).map(begins).collect();
    log(&folder.path().join("events-4.jsonl"), &next);
    let results = read_records(folder.path()).unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(rows(&results)[3], ("teacher", 4, 0, true));
    assert_eq!((results[3].last, results[3].value()), (None, None));
}

#[test]
fn a_finished_run_has_its_times_and_machine_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let run = RunFolder::create(&path, &host()).unwrap();
    describe(&path, &recipe(), &host(), &data()).unwrap();
    log(&path.join("events.jsonl"), &stopped());
    let [kd, ..] = &read_records(&path).unwrap()[..] else { panic!("no result") };
    let result = RowResult { seconds: 12.5, waited_seconds: 0.5, incomplete: false, ..kd.clone() };
    run.finish(&result).unwrap();
    let results = read_records(&path).unwrap();
    assert_eq!(results[0], result);
    assert_eq!(rows(&results)[1..], [("none", 3, 1, true), ("teacher", 3, 1, false)]);
    for file in ["times.json", "host.json"] {
        std::fs::remove_file(path.join(file)).unwrap();
    }
    let bare = read_records(&path).unwrap().remove(0);
    assert_eq!((bare.seconds, bare.host), (0.0, None));
}

#[test]
fn a_row_that_was_taken_out_is_not_incomplete() {
    for goes_on in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut events = stopped();
        let (row, term) = ("kd".to_owned(), "kd".to_owned());
        events.push(Event::Skipped { row: row.clone(), epoch: 2, step: 2, term: term.clone() });
        events.push(Event::Rewound {
            row: row.clone(),
            epoch: 2,
            step: 3,
            term: term.clone(),
            lr_factor: 0.5,
        });
        events.push(Event::Diverged { row, epoch: 2, step: 3, term, goes_on });
        log(&folder.path().join("events.jsonl"), &events);
        let results = read_records(folder.path()).unwrap();
        let kd = &results[0];
        assert_eq!((kd.incomplete, kd.diverged.as_ref().map(|d| d.step)), (goes_on, Some(3)));
        assert_eq!((kd.skipped, kd.rewinds.len(), kd.value()), (1, 1, None));
        // Without a configuration there are only names.
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        assert_eq!((&*kd.profile, &*kd.label, &*kd.data.name, &*kd.data.sha256), (name, "kd", "unknown", ""));
    }
}

#[test]
fn a_run_that_goes_on_has_the_log_that_it_is_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let text = recipe().to_toml().replace(
        "id = \"kd\"",
        "id = \"kd\"\nlog = { source = 'l', epochs = 9, steady_epochs = 1, points = [{ epoch = 1, top1 = 52.5 }, { epoch = 2, top1 = 60.0 }] }",
    );
    let recipe = Config::parse(&text, "t").unwrap().check().unwrap();
    describe(folder.path(), &recipe, &host(), &data()).unwrap();
    log(&folder.path().join("events-3.jsonl"), &stopped());
    let results = read_records(folder.path()).unwrap();
    let [kd, none, _] = &results[..] else { panic!("{results:?}") };
    assert!(kd.incomplete && none.log.is_none());
    assert_eq!([1, 2].map(|e| kd.logged(e)), [Some(52.5), None], "the log's rate fell after epoch 1");
    // A log decides nothing.
    assert_eq!(kd.settings_sha256, self::recipe().rows[1].settings_sha256(&self::recipe()));
}

#[test]
fn damaged_descriptions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    log(&folder.path().join("events.jsonl"), &stopped());
    for (file, text) in [
        ("config.toml", "[train]\nepoch = 1"),
        ("host.json", "{}"),
        ("data.json", "[1]"),
        ("summary.json", "{"),
    ] {
        describe(folder.path(), &recipe(), &host(), &data()).unwrap();
        std::fs::write(folder.path().join(file), text).unwrap();
        let message = read_records(folder.path()).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
    }
}
