//! Event logs: what is written is read again, and damage is named.

use super::{started, step, table};
use dkd_trainer::record::{EventReader, JsonLines, MAX_LINE, read_events};
use dkd_trainer::{Event, Metrics, Result, Sink, TermValue};
use proptest::prelude::*;
use std::path::Path;

const VERSION: &str = "{\"event\":\"log\",\"format\":1}\n";

fn read(bytes: &[u8]) -> (Vec<Event>, Result<Option<u64>>) {
    let mut reader = EventReader::new(bytes, Path::new("some/events.jsonl"));
    let mut events = Vec::new();
    while let Some(event) = reader.next() {
        match event {
            Ok(event) => events.push(event),
            Err(e) => {
                assert!(reader.next().is_none(), "after an error there is nothing");
                return (events, Err(e));
            }
        }
    }
    let torn = reader.torn();
    (events, Ok(torn))
}

/// The bytes of a log of these events.
fn written(events: &[Event]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut log = JsonLines::append(&path).unwrap();
    events.iter().for_each(|e| log.event(e).unwrap());
    drop(log);
    std::fs::read(path).unwrap()
}

fn text(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| serde_json::to_string(e).unwrap()).collect()
}

#[test]
fn numbers_that_are_not_finite_come_back_as_nan() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let bytes = written(&[step("a", 1, 0, value)]);
        assert!(String::from_utf8_lossy(&bytes).contains("\"loss\":null"));
        let (events, _) = read(&bytes);
        let [Event::Step { loss, terms, lr, gradient_norm, .. }] = &events[..] else { panic!("{events:?}") };
        assert!(loss.is_nan() && terms[0].value.is_nan());
        assert_eq!((*lr, *gradient_norm), (0.1, Some(2.5)));
    }
    let norm = |text: &str| {
        let line = format!(
            "{VERSION}{{\"event\":\"step\",\"row\":\"a\",\"epoch\":1,\"step\":0,\"images\":1,\"lr\":1,\"loss\":1,\"terms\":[]{text}}}\n"
        );
        match &read(line.as_bytes()).0[..] {
            [Event::Step { gradient_norm, .. }] => *gradient_norm,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(norm(""), None);
    assert!(norm(",\"gradient_norm\":null").is_some_and(f64::is_nan));
}

#[test]
fn later_rows_and_crashes_share_one_version_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let open = || JsonLines::append(&path).unwrap();
    open().event(&started(&["a"], 1, 1)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.starts_with(VERSION.as_bytes()));
    // A crash: half a line, longer than the search's blocks, or after a power cut zeros.
    for torn in ["{\"event\":".to_owned(), "x".repeat(20_000), "\0".repeat(9_000)] {
        std::fs::write(&path, [&whole[..], torn.as_bytes()].concat()).unwrap();
        open();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
    open().event(&started(&["b"], 1, 1)).unwrap();
    let mut reader = read_events(&path).unwrap();
    let events: Vec<Event> = reader.by_ref().map(Result::unwrap).collect();
    assert_eq!(events, [started(&["a"], 1, 1), started(&["b"], 1, 1)]);
    // Cut to nothing, and killed before or within the first line.
    JsonLines::resume(&path, 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), VERSION.as_bytes());
    for start in ["", "{\"eve"] {
        std::fs::write(&path, start).unwrap();
        open();
        assert_eq!(std::fs::read(&path).unwrap(), VERSION.as_bytes());
    }
    // Logs of other formats are not added to.
    for (other, expected) in [
        ("{\"event\":\"log\",\"format\":2}\n", "has format 2; this program reads 1: a newer program"),
        ("{\"event\":\"started\",\"rows\":[]}\n", "is not the version line"),
        ("hello\n", "line 1: is damaged"),
    ] {
        std::fs::write(&path, other).unwrap();
        let message = JsonLines::append(&path).unwrap_err().to_string();
        assert!(message.contains("events.jsonl") && message.contains(expected), "{message}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
    }
}

#[test]
fn damage_is_named_with_file_and_line() {
    let good = "{\"event\":\"finished\",\"rows\":[]}\n";
    let long = format!("{VERSION}{}\n", "a".repeat(MAX_LINE + 1));
    let deep = format!(
        "{VERSION}{{\"event\":\"finished\",\"rows\":{}{}}}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for (log, line, expected) in [
        (format!("{VERSION}{good}{{\"event\":\"fini{good}"), 3, "damaged"),
        (format!("{VERSION}{good}\n{good}"), 3, "damaged"),
        (format!("{VERSION}{{\"event\":\"finished\"}}\n"), 2, "missing field `rows`"),
        (format!("{VERSION}{{\"event\":\"finished\",\"rows\":[1]}}\n"), 2, "expected a string"),
        (format!("{VERSION}{{\"rows\":[]}}\n"), 2, "missing field `event`"),
        (format!("{VERSION}{good}{{\"event\":\"log\",\"format\":7}}\n"), 3, "format 7"),
        ("{\"event\":\"log\"}\n".to_owned(), 1, "missing field `format`"),
        (good.to_owned(), 1, "version line"),
        (long, 2, "longer than"),
        (deep, 2, "recursion limit"),
    ] {
        let (_, end) = read(log.as_bytes());
        let message = end.unwrap_err().to_string();
        let place = format!("`some/events.jsonl`: line {line}: ");
        assert!(message.starts_with(&place) && message.contains(expected), "{message}");
        assert!(!message.contains("column") && message.len() < 400, "{message}");
    }
}

#[test]
fn a_later_program_of_the_same_format_may_say_more() {
    let log = format!(
        "{VERSION}{{\"event\":\"weather\",\"format\":\"hail\"}}\n{{\"event\":\"finished\",\"rows\":[],\"why\":1}}\n{VERSION}"
    );
    let (events, end) = read(log.as_bytes());
    assert_eq!((events, end.unwrap()), (vec![Event::Finished { rows: Vec::new() }], None));
    assert_eq!(read(b"").1.unwrap(), None);
}

#[test]
fn a_log_cut_anywhere_is_read_up_to_there() {
    let events = table(2);
    let bytes = written(&events);
    let all = text(&read(&bytes).0);
    assert_eq!(all.len(), events.len());
    for cut in (0..bytes.len()).step_by(7).chain([VERSION.len(), bytes.len()]) {
        let (got, torn) = read(&bytes[..cut]);
        assert_eq!(text(&got), all[..got.len()]);
        let whole = cut == 0 || bytes[cut - 1] == b'\n';
        let lines = bytes[..cut].split(|b| *b == b'\n').count() as u64;
        assert_eq!(torn.unwrap(), (!whole).then_some(lines), "cut at {cut}");
    }
}

fn numbers() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(1.0)]
}

fn metrics() -> impl Strategy<Value = Metrics> {
    (numbers(), numbers(), numbers(), any::<usize>()).prop_map(|(top1, top5, loss, images)| Metrics {
        top1,
        top5,
        loss,
        images,
    })
}

fn terms() -> impl Strategy<Value = Vec<TermValue>> {
    prop::collection::vec((any::<String>(), numbers()), 0..4)
        .prop_map(|terms| terms.into_iter().map(|(name, value)| TermValue { name, value }).collect())
}

fn events() -> impl Strategy<Value = Event> {
    let rows = || prop::collection::vec(any::<String>(), 0..4);
    let at = || (any::<String>(), any::<usize>(), any::<u64>(), any::<String>());
    prop_oneof![
        (rows(), any::<[usize; 3]>(), any::<u64>()).prop_map(|(rows, [epochs, batches, images], seed)| {
            Event::Started { rows, epochs, batches, images, seed }
        }),
        (at(), any::<usize>(), numbers(), numbers(), terms(), prop::option::of(numbers())).prop_map(
            |((row, epoch, step, _), images, lr, loss, terms, gradient_norm)| Event::Step {
                row,
                epoch,
                step,
                images,
                lr,
                loss,
                terms,
                gradient_norm
            }
        ),
        (any::<usize>(), any::<usize>(), any::<usize>(), numbers())
            .prop_map(|(epoch, batch, images, wait_s)| Event::Batch { epoch, batch, images, wait_s }),
        (any::<String>(), any::<usize>(), numbers(), numbers())
            .prop_map(|(row, epoch, loss, top1)| Event::Epoch { row, epoch, loss, top1 }),
        (any::<String>(), any::<usize>(), any::<String>(), metrics())
            .prop_map(|(row, epoch, split, metrics)| Event::Evaluation { row, epoch, split, metrics }),
        (at(), any::<bool>()).prop_map(|((row, epoch, step, term), goes_on)| Event::Diverged {
            row,
            epoch,
            step,
            term,
            goes_on
        }),
        at().prop_map(|(row, epoch, step, term)| Event::Skipped { row, epoch, step, term }),
        (at(), numbers()).prop_map(|((row, epoch, step, term), lr_factor)| Event::Rewound {
            row,
            epoch,
            step,
            term,
            lr_factor
        }),
        rows().prop_map(|rows| Event::Finished { rows }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_event_comes_back(events in prop::collection::vec(events(), 0..8)) {
        let logged: Vec<Event> = events.iter().filter(|e| !matches!(e, Event::Batch { .. })).cloned().collect();
        let (got, torn) = read(&written(&events));
        prop_assert_eq!(torn.unwrap(), None);
        prop_assert_eq!(text(&got), text(&logged));
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..2_000, flips in 1_u8..=255) {
        // Whatever it is, alone and as part of a log, and a log with a changed byte.
        let _ = read(&bytes);
        let _ = read(&[VERSION.as_bytes(), &bytes].concat());
        let mut log = written(&table(1));
        let place = at % log.len();
        log[place] ^= flips;
        let _ = read(&log);
    }
}
