//! TensorBoard itself reads what is written for it.

use super::{table, tfevents};
use dkd_trainer::Sink;
use dkd_trainer::record::{Derive, JsonLines, Records};
use std::collections::BTreeMap;
use std::process::Command;

/// Prints all scalars of a folder as JSON: tag to [step, value], NaN as null.
const PROGRAM: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}).Reload()
number = lambda value: value if value == value else None
scalars = {tag: [[e.step, number(e.value)] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}
print(json.dumps(scalars))
";

#[test]
#[allow(clippy::print_stderr)]
fn tensorboard_reads_the_same_points() {
    let Some(python) = std::env::var_os("DKD_TENSORBOARD_PYTHON") else {
        eprintln!("skipped: DKD_TENSORBOARD_PYTHON names no interpreter that has TensorBoard");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let log = JsonLines::append(&folder.path().join("events.jsonl")).unwrap();
    let mut records = Records::new(log, Derive { csv: false, tensorboard: true }, 3).unwrap();
    table(3).iter().for_each(|e| records.event(e).unwrap());
    drop(records);
    for row in ["teacher-3", "a-3", "b__c_-3"] {
        let run = folder.path().join("tensorboard").join(row);
        let output = Command::new(&python).arg("-c").arg(PROGRAM).arg(&run).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: BTreeMap<String, Vec<(u64, Option<f32>)>> =
            serde_json::from_slice(&output.stdout).unwrap();
        let own = tfevents::read(&run.join("events.out.tfevents.dkd"));
        assert!(own.len() >= 10);
        let points = |all: Vec<(u64, f32)>| {
            all.into_iter().map(|(s, v)| (s, Some(v).filter(|v| !v.is_nan()))).collect()
        };
        let own: BTreeMap<String, Vec<(u64, Option<f32>)>> =
            own.into_iter().map(|(tag, all)| (tag, points(all))).collect();
        assert_eq!(theirs, own);
    }
}
