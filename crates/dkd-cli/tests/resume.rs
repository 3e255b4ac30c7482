//! The real program, stopped and killed, and resumed.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TABLE: &str = "
data = { dataset = 'synthetic', train_limit = 256, test_limit = 64 }
train = { epochs = 3, batch_size = 16 }
student.model = 'resnet8'
teacher = { model = 'resnet8', epochs = 1 }
[[rows]]
id = 'none'
[[rows]]
id = 'kd'
loss = [{ method = 'ce', weight = 0.5 }, { method = 'kd', weight = 0.5 }]
";

fn table(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dkd"));
    command.current_dir(folder).args(["table", "t.toml", "--out", "out", "--threads", "1"]).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Waits for an end; its code (`None` after a signal) and what it said.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Starts a table and sends it `signal` once its log has `lines` lines.
fn stopped(folder: &Path, more: &[&str], signal: &str, lines: usize) -> (Option<i32>, String) {
    let child = table(folder, more).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let written =
        || std::fs::read(folder.join("out/events-0.jsonl")).map_or(0, |b| b.split(|c| *c == b'\n').count());
    while written() < lines {
        assert!(Instant::now() < deadline, "the log does not grow");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    end(child)
}

/// Log, weights and results without times, machine and revision.
fn outcome(folder: &Path) -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read(folder.join("out").join(path)).unwrap();
    let mut all = BTreeMap::new();
    for (name, file) in [("log", "events-0.jsonl"), ("table", "metrics-0.csv")] {
        all.insert(name.to_owned(), String::from_utf8(read(file)).unwrap());
    }
    for row in ["none", "kd", "teacher"] {
        all.insert(format!("{row} weights"), format!("{:?}", read(&format!("weights/{row}-0.safetensors"))));
        let mut result: serde_json::Value =
            serde_json::from_slice(&read(&format!("results/t/{row}-0.json"))).unwrap();
        for changing in ["seconds", "waited_seconds", "host"] {
            result.as_object_mut().unwrap().remove(changing);
        }
        all.insert(row.to_owned(), result.to_string());
    }
    all
}

fn compare(expected: &BTreeMap<String, String>, folder: &Path) {
    for (name, value) in outcome(folder) {
        assert!(expected[&name] == value, "{name} differs");
    }
    assert_eq!(std::fs::read_dir(folder.join("out/checkpoints")).unwrap().count(), 0, "checkpoints are gone");
}

fn here() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.toml"), TABLE).unwrap();
    folder
}

#[test]
fn a_table_survives_signals_and_kills() {
    let whole = here();
    assert_eq!(end(table(whole.path(), &[]).spawn().unwrap()).0, Some(0));
    let expected = outcome(whole.path());

    let parts = here();
    let folder = parts.path();
    // In the teacher's training, and politely.
    let (code, text) = stopped(folder, &[], "-TERM", 6);
    assert!(code == Some(130) && text.contains("--resume"), "{code:?} {text}");
    // Not by accident.
    let (code, text) = end(table(folder, &[]).spawn().unwrap());
    assert!(code == Some(1) && text.contains("--resume goes on"), "{text}");
    let (code, text) = end(table(folder, &["--resume", "--set", "optimizer.lr=0.2"]).spawn().unwrap());
    let expected_text = "rows.kd.optimizer.lr was 0.05, is 0.2";
    assert!(code == Some(1) && text.contains(expected_text) && text.contains("--change"), "{text}");
    // Without a chance to save anything, in the first and in the second epoch of the students.
    for lines in [40, 70] {
        assert_eq!(stopped(folder, &["--resume"], "-KILL", lines).0, None);
    }
    let (code, text) = end(table(folder, &["--resume"]).spawn().unwrap());
    assert!(code == Some(0) && text.contains("going on with the students"), "{text}");
    compare(&expected, folder);
    // Once more: there is nothing left to do.
    let (code, text) = end(table(folder, &["--resume"]).spawn().unwrap());
    assert!(code == Some(0) && text.contains("seed 0 is complete"), "{text}");
    compare(&expected, folder);
}

#[test]
fn without_a_usable_checkpoint_it_begins_anew_and_says_so() {
    let (whole, parts) = (here(), here());
    assert_eq!(end(table(whole.path(), &[]).spawn().unwrap()).0, Some(0));
    let folder = parts.path();
    assert_eq!(stopped(folder, &[], "-INT", 8).0, Some(130));
    for file in std::fs::read_dir(folder.join("out/checkpoints")).unwrap() {
        std::fs::write(file.unwrap().path(), b"not a checkpoint").unwrap();
    }
    let (code, text) = end(table(folder, &["--resume"]).spawn().unwrap());
    assert!(
        code == Some(0) && text.contains("cannot be used") && text.contains("from the beginning"),
        "{text}"
    );
    // Its teacher was complete and is not trained again: only the log tells.
    let mut expected = outcome(whole.path());
    for name in ["log", "table"] {
        expected.insert(name.to_owned(), outcome(folder)[name].clone());
    }
    compare(&expected, folder);
}
