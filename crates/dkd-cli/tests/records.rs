//! What a run leaves, and a report from it alone.
#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use std::path::Path;

/// Runs and returns (code, standard output, standard error).
fn dkd(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("dkd").unwrap();
    let output = command.current_dir(folder).env("NO_COLOR", "1").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_run_and_what_a_crash_leaves_of_it_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let small = ["--set", "data.train_limit=128", "--set", "data.test_limit=64", "--epochs", "2"];
    let mut args = vec!["train", "--model", "resnet8", "--data", "synthetic", "--out", "whole"];
    args.extend(small);
    args.extend(["--record", "csv,tensorboard"]);
    let (code, _, err) = dkd(folder, &args);
    assert_eq!(code, 0, "{err}");
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let csv = read("whole/metrics.csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert!(
        lines.len() == 3 && lines[1].starts_with("0,run,1,1,") && lines[2].starts_with("0,run,2,3,"),
        "{csv}"
    );
    assert!(folder.join("whole/tensorboard/run-0/events.out.tfevents.dkd").metadata().unwrap().len() > 500);
    let log = read("whole/events.jsonl");
    assert!(log.starts_with("{\"event\":\"log\",\"format\":1}\n{\"event\":\"started\""), "{log}");

    // Killed within the second epoch: no result, and half a line.
    std::fs::create_dir(folder.join("crashed")).unwrap();
    for file in ["config.toml", "host.json", "data.json"] {
        std::fs::copy(folder.join("whole").join(file), folder.join("crashed").join(file)).unwrap();
    }
    let second = log.match_indices("\"event\":\"step\"").nth(3).unwrap().0;
    std::fs::write(folder.join("crashed/events.jsonl"), &log[..second + 30]).unwrap();
    let (code, out, err) = dkd(folder, &["report", "whole", "crashed"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("crashed: resnet8: incomplete: stopped in epoch 2 of 2"), "{out}");
    let results: Vec<serde_json::Value> = serde_json::from_str(&read("report/results.json")).unwrap();
    let [whole, crashed] = &results[..] else { panic!("{results:?}") };
    assert_eq!((whole["row"].as_str(), crashed["row"].as_str()), (Some("whole"), Some("crashed")));
    assert_eq!(crashed["epochs"][0], whole["epochs"][0]);
    assert!(crashed["incomplete"] == true && whole.get("incomplete").is_none());
    assert!(whole["seconds"].as_f64().unwrap() > 0.0 && whole["host"] == crashed["host"]);
    for file in ["report/report.html", "report/report.md"] {
        let page = read(file);
        assert!(
            page.contains("incomplete: stopped in epoch 2 of 2") && page.contains("whole: resnet8"),
            "{page}"
        );
    }
    let (code, _, err) = dkd(folder, &["report", "none"]);
    assert!(code == 1 && err.contains("no folder `none`"), "{err}");
}
