//! Tables and curves beside a log: complete, and without a point lost or doubled, whatever happened to the run.

use super::{epoch, names, started, table, tfevents};
use dkd_trainer::record::{Derive, JsonLines, Records, ScalarFile, read_events};
use dkd_trainer::{Event, Result, Sink};
use std::collections::BTreeMap;
use std::path::Path;

const ALL: Derive = Derive { csv: true, tensorboard: true };
const SEED: u64 = 3;

fn open(folder: &Path, bytes: Option<u64>) -> Result<Records> {
    let path = folder.join("events.jsonl");
    let log = match bytes {
        Some(bytes) => JsonLines::resume(&path, bytes)?,
        None => JsonLines::append(&path)?,
    };
    Records::new(log, ALL, SEED)
}

fn tell(records: &mut Records, events: &[Event]) {
    events.iter().for_each(|e| records.event(e).unwrap());
}

/// Log, table and curves of every row, as text.
fn outcome(folder: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in ["events.jsonl", "metrics.csv"] {
        all.insert(file.to_owned(), std::fs::read_to_string(folder.join(file)).unwrap());
    }
    for row in std::fs::read_dir(folder.join("tensorboard")).unwrap() {
        let row = row.unwrap();
        let file = row.path().join("events.out.tfevents.dkd");
        if file.exists() {
            all.insert(row.file_name().into_string().unwrap(), format!("{:?}", tfevents::read(&file)));
        }
    }
    all
}

fn whole(events: &[Event]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    tell(&mut open(folder.path(), None).unwrap(), events);
    outcome(folder.path())
}

#[test]
fn the_table_has_a_line_for_each_row_and_epoch() {
    let lines = whole(&table(2))["metrics.csv"].clone();
    let expected = "\
seed,row,epoch,step,train_loss,train_top1,validation_loss,validation_top1,validation_top5,test_loss,test_top1,test_top5
3,teacher,1,1,0.5,30,1.25,41,90,1.25,51,90
3,a,1,1,0.5,30,1.25,41,90,1.25,51,90
3,\"b,\"\"c\"\"\",1,1,0.5,30,1.25,41,90,1.25,51,90
3,a,2,3,NaN,30,1.25,42,90,1.25,52,90
3,\"b,\"\"c\"\"\",2,3,NaN,30,1.25,42,90,1.25,52,90
";
    assert_eq!(lines, expected);
    let without: Vec<Event> = table(1)
        .into_iter()
        .filter(|e| !matches!(e, Event::Evaluation { split, .. } if split == "validation"))
        .collect();
    assert!(whole(&without)["metrics.csv"].contains("\n3,a,1,1,0.5,30,,,,1.25,51,90\n"));
}

#[test]
fn the_curves_have_every_scalar() {
    let folder = tempfile::tempdir().unwrap();
    tell(&mut open(folder.path(), None).unwrap(), &table(2));
    let curves = tfevents::read(&folder.path().join("tensorboard/a-3/events.out.tfevents.dkd"));
    let steps = [(0, 1.0), (1, 0.5), (2, 1.0 / 3.0), (3, 0.25)];
    assert_eq!(curves["train/loss"], steps);
    assert_eq!(curves["train/ce"], steps);
    assert_eq!(curves["train/lr"], [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1)]);
    assert_eq!(curves["train/term lr"].len(), 4);
    assert_eq!(curves["train/gradient_norm"][3], (3, 2.5));
    assert!(matches!(curves["epoch/loss"][..], [(1, 0.5), (3, x)] if x.is_nan()));
    assert_eq!(curves["epoch/top1"], [(1, 30.0), (3, 30.0)]);
    assert_eq!(curves["test/top1"], [(1, 51.0), (3, 52.0)]);
    assert_eq!(curves["validation/top1"], [(1, 41.0), (3, 42.0)]);
    assert_eq!(curves["test/loss"].len(), 2);
    // The page names all of them.
    let page = include_str!("../../../../docs/events.md");
    for tag in curves
        .keys()
        .map(|t| t.replace("/ce", "/<term>").replace("test/", "<split>/").replace("validation/", "<split>/"))
    {
        assert!(page.contains(&format!("| `{tag}` |")), "{tag}");
    }
    assert!(folder.path().join("tensorboard/b__c_-3/events.out.tfevents.dkd").is_file());
}

#[test]
fn resumed_or_rewound_anywhere_nothing_is_lost_or_doubled() {
    let events = table(2);
    let expected = whole(&events);
    for k in 0..events.len() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = open(folder.path(), None).unwrap();
        tell(&mut records, &events[..k]);
        let bytes = records.mark().unwrap().unwrap().bytes;
        // More than the checkpoint knows, then a crash.
        tell(&mut records, &events[k..(k + 9).min(events.len())]);
        drop(records);
        let mut records = open(folder.path(), Some(bytes)).unwrap();
        let cut = outcome(folder.path());
        assert_eq!(cut.len(), 2 + usize::from(k >= 1) + 2 * usize::from(k >= 8));
        // And once more, without an end of the process.
        tell(&mut records, &events[k..(k + 5).min(events.len())]);
        records.mark().unwrap();
        records.rewind(bytes).unwrap();
        tell(&mut records, &events[k..]);
        drop(records);
        for (name, text) in outcome(folder.path()) {
            assert_eq!(text, expected[&name], "{name}, at event {k}");
        }
    }
}

#[test]
fn rows_that_begin_anew_replace_what_there_was() {
    let folder = tempfile::tempdir().unwrap();
    let events = table(2);
    // Killed before there was a checkpoint, then the same command again.
    for k in [4, 12, events.len()] {
        tell(&mut open(folder.path(), None).unwrap(), &events[..k]);
    }
    let (got, expected) = (outcome(folder.path()), whole(&events));
    assert_eq!(got["metrics.csv"], expected["metrics.csv"]);
    assert_eq!(got["a-3"], expected["a-3"]);
    // Another row of the table, later, adds to both.
    let mut more = vec![started(&["d"], 1, 2)];
    more.extend(epoch(&["d"], 1));
    more.push(Event::Finished { rows: names(&["d"]) });
    tell(&mut open(folder.path(), None).unwrap(), &more);
    let longer = outcome(folder.path());
    assert!(longer["metrics.csv"].starts_with(&expected["metrics.csv"]));
    assert!(longer["metrics.csv"].ends_with("3,d,1,1,0.5,30,1.25,41,90,1.25,51,90\n"));
    assert_eq!(longer["a-3"], expected["a-3"]);
}

#[test]
fn only_what_was_asked_for_is_written() {
    let folder = tempfile::tempdir().unwrap();
    // Of another seed, and of something else: not ours to remove.
    for other in ["x-13", "notes"] {
        ScalarFile::create(&folder.path().join("tensorboard").join(other).join("events.out.tfevents.dkd"))
            .unwrap();
    }
    for (derive, name) in [
        (Derive::default(), "events.jsonl"),
        (Derive { csv: true, tensorboard: false }, "events-3.jsonl"),
        (Derive { csv: false, tensorboard: true }, "log.jsonl"),
    ] {
        let log = JsonLines::append(&folder.path().join(name)).unwrap();
        tell(&mut Records::new(log, derive, SEED).unwrap(), &table(1));
    }
    let list = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort();
        names
    };
    let expected = ["events-3.jsonl", "events.jsonl", "log.jsonl", "metrics-3.csv", "tensorboard"];
    assert_eq!(list(folder.path()), expected);
    assert_eq!(list(&folder.path().join("tensorboard")), ["a-3", "b__c_-3", "notes", "teacher-3", "x-13"]);
    assert_eq!(read_events(&folder.path().join("log.jsonl")).unwrap().count(), table(1).len());
}

#[test]
fn a_damaged_log_is_named() {
    let folder = tempfile::tempdir().unwrap();
    tell(&mut open(folder.path(), None).unwrap(), &table(1));
    let path = folder.path().join("events.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"split\":\"test\"", "\"split\":test", "line 7: is damaged"),
        ("\"event\":\"epoch\"", "\"event\":\"later\"", "epoch 1 of `teacher` has no training loss"),
        ("\"event\":\"started\"", "\"event\":\"later\"", "row `teacher` has not started"),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let message = open(folder.path(), None).unwrap_err().to_string();
        assert!(message.contains("events.jsonl") && message.contains(expected), "{message}");
    }
}
