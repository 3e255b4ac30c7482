//! `docs/events.md` and the code say the same.

use super::derived::COLUMNS;
use super::jsonl::{FORMAT, is_logged};
use super::read::KINDS;
use crate::{Event, Metrics, TermValue};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

const PAGE: &str = include_str!("../../../../docs/events.md");

/// An event of every kind, with all its fields.
fn samples() -> Vec<Event> {
    let (row, term, rows) = ("a".to_owned(), "ce".to_owned(), vec!["a".to_owned()]);
    let terms = vec![TermValue { name: term.clone(), value: 0.5 }];
    vec![
        Event::Started { rows: rows.clone(), epochs: 1, batches: 2, images: 20, seed: 3 },
        Event::Resumed { rows: rows.clone(), epochs: 1, batches: 2, seed: 3, epoch: 1, batch: 1 },
        Event::Step {
            row: row.clone(),
            epoch: 1,
            step: 0,
            images: 10,
            lr: 0.1,
            loss: 0.5,
            terms,
            gradient_norm: Some(2.5),
        },
        Event::Batch { epoch: 1, batch: 0, images: 10, wait_s: 0.25 },
        Event::Epoch { row: row.clone(), epoch: 1, loss: 0.5, top1: 30.0 },
        Event::Evaluation {
            row: row.clone(),
            epoch: 1,
            split: "test".to_owned(),
            metrics: Metrics::default(),
        },
        Event::Diverged { row: row.clone(), epoch: 1, step: 0, term: term.clone(), goes_on: true },
        Event::Skipped { row: row.clone(), epoch: 1, step: 0, term: term.clone() },
        Event::Rewound { row, epoch: 1, step: 0, term, lr_factor: 0.5 },
        Event::Checkpoint { path: Some(PathBuf::from("c")), error: Some("none".to_owned()) },
        Event::Finished { rows },
    ]
}

/// A new event does not compile here: it belongs into the samples, the reader's list and the page.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Started { .. } => "started",
        Event::Resumed { .. } => "resumed",
        Event::Step { .. } => "step",
        Event::Batch { .. } => "batch",
        Event::Epoch { .. } => "epoch",
        Event::Evaluation { .. } => "evaluation",
        Event::Diverged { .. } => "diverged",
        Event::Skipped { .. } => "skipped",
        Event::Rewound { .. } => "rewound",
        Event::Checkpoint { .. } => "checkpoint",
        Event::Finished { .. } => "finished",
    }
}

/// The text below a heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    rest.split("\n#").next().unwrap()
}

/// The first column of the tables in a section.
fn named(section: &str) -> Vec<String> {
    let first = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(first).collect()
}

/// `a`, `a.b` and, of lists of objects, `a[].b`.
fn fields(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                fields(value, &name, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| fields(item, &format!("{prefix}[]"), found));
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

#[test]
fn every_event_and_field_is_described() {
    let samples = samples();
    assert_eq!(samples.iter().map(kind).collect::<Vec<_>>(), KINDS);
    let headings: Vec<&str> =
        PAGE.lines().filter_map(|l| l.strip_prefix("### `")?.strip_suffix('`')).collect();
    let described: BTreeSet<&str> = headings.iter().copied().collect();
    assert_eq!(described, KINDS.into_iter().chain(["log"]).collect());
    assert_eq!(headings.len(), described.len());
    for sample in &samples {
        let section = section(&format!("### `{}`", kind(sample)));
        let mut expected = BTreeSet::new();
        fields(&serde_json::to_value(sample).unwrap(), "", &mut expected);
        expected.remove("event");
        let named: BTreeSet<String> = named(section).into_iter().collect();
        assert_eq!(named, expected, "{}", kind(sample));
        assert_eq!(section.contains("Not logged"), !is_logged(sample), "{}", kind(sample));
        let (_, example) = section.split_once("```json\n").unwrap();
        let example = example.split('\n').next().unwrap();
        let event: Event = serde_json::from_str(example).unwrap();
        assert_eq!(kind(&event), kind(sample));
        assert_eq!(serde_json::to_string(&event).unwrap(), example, "as it is written");
    }
    assert!(
        section("### `log`").contains(&format!("```json\n{{\"event\":\"log\",\"format\":{FORMAT}}}\n```"))
    );
}

#[test]
fn every_column_is_described() {
    assert_eq!(named(section("## `metrics.csv`")), COLUMNS);
}
