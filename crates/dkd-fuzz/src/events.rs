//! Event logs.

use crate::{assert_names, result};
use dkd_trainer::Event;
use dkd_trainer::record::{Derive, EventReader, JsonLines, Records, read_records};
use std::path::Path;

const FILE: &str = "events.jsonl";

/// Every event that is read can be written and read again as the same; the results that are put together from a log can be
/// stored and read; a log can be gone on with or is refused.
pub fn events(bytes: &[u8]) -> bool {
    let mut reader = EventReader::new(bytes, Path::new(FILE));
    let (mut seen, mut whole) = (0, true);
    for event in reader.by_ref() {
        match event {
            Ok(event) => {
                seen += 1;
                // As text: a loss that is NaN is not equal to itself.
                let line = serde_json::to_string(&event).expect("events are JSON");
                let again: Event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                assert_eq!(serde_json::to_string(&again).ok().as_ref(), Some(&line));
            }
            Err(e) => {
                assert_names(&e, FILE);
                whole = false;
            }
        }
    }
    assert!(reader.next().is_none());
    if seen > 0 {
        as_a_folder(bytes);
    }
    whole && seen > 0
}

/// What `dkd report` and a run that goes on do with the log.
fn as_a_folder(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("there is space for a folder");
    let path = folder.path().join(FILE);
    std::fs::write(&path, bytes).expect("there is space for a file");
    match read_records(folder.path()) {
        Ok(results) => {
            for found in results {
                let text = serde_json::to_vec(&found).expect("results are JSON");
                assert!(result(&text), "{}", String::from_utf8_lossy(&text));
            }
        }
        Err(e) => assert_names(&e, FILE),
    }
    let derive = Derive { csv: true, tensorboard: false };
    if let Err(e) = JsonLines::append(&path).and_then(|log| Records::new(log, derive, 0)) {
        assert_names(&e, FILE);
    }
}
