//! `dkd search`, with the real program.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const BASE: &str = "
data = { dataset = 'synthetic', train_limit = 160, test_limit = 16 }
train = { epochs = 1, batch_size = 16 }
student.model = 'resnet8'
teacher = { model = 'resnet8', epochs = 1 }
loss = [{ method = 'ce' }, { method = 'dkd', beta = 2.0, warmup_epochs = 2 }]
";

const SEARCH: &str = "
base = 'base.toml'
strategy = 'random'
trials = 4
validation = 40
together = 2

[keys.'loss.1.beta']
low = 0.5
high = 8.0
scale = 'log'

[keys.'student.model']
values = ['resnet8', 'resnet14']
";

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dkd"));
    command.current_dir(folder).arg("search").args(args);
    command
}

fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = command(folder, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn good(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    out
}

fn refused(folder: &Path, args: &[&str], code: i32, expected: &[&str]) {
    let (got, out, err) = run(folder, args);
    assert!(got == code && out.is_empty(), "{args:?}: {got} {out}{err}");
    assert!(expected.iter().all(|e| err.contains(e)), "{args:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

fn here(search: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.toml"), BASE).unwrap();
    std::fs::write(folder.path().join("s.toml"), search).unwrap();
    folder
}

/// The trials of a search, without what differs from run to run.
fn trials(folder: &Path, out: &str) -> Vec<Value> {
    let text = std::fs::read(folder.join(out).join("search.json")).unwrap();
    let mut state: Value = serde_json::from_slice(&text).unwrap();
    let trials = state["trials"].as_array_mut().unwrap();
    for trial in trials.iter_mut() {
        assert!(trial["seconds"].as_f64().unwrap() > 0.0, "{trial}");
        trial["seconds"] = Value::Null;
    }
    trials.clone()
}

#[test]
fn a_search_ends_in_settings_to_copy() {
    let folder = here(SEARCH);
    let root = folder.path();
    let out = good(root, &["s.toml", "--out", "whole"]);
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    for part in [
        "accuracy on 40 held-out training images: best 4 of 4 trials",
        "beta",
        "resnet",
        "--set loss.1.beta=",
        "--set student.model=",
        "whole/search.html",
        "Generated images",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let whole = trials(root, "whole");
    assert_eq!(whole.iter().map(|t| t["number"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for trial in &whole {
        let beta = trial["values"]["loss.1.beta"].as_f64().unwrap();
        assert!((0.5..=8.0).contains(&beta) && trial["top1"].is_f64(), "{trial}");
    }
    let html = std::fs::read_to_string(root.join("whole/search.html")).unwrap();
    assert!(!html.contains("src=") && !html.contains("href=") && !html.contains("NaN"));
    for picture in ["keys.svg", "progress.svg"] {
        let svg = std::fs::read_to_string(root.join("whole").join(picture)).unwrap();
        assert!(svg.starts_with("<svg") && html.contains(svg.trim()), "{picture}");
    }
    let markdown = std::fs::read_to_string(root.join("whole/search.md")).unwrap();
    assert!(markdown.contains("| loss.1.beta | 0.5 to 8, log scale |") && markdown.contains("(<keys.svg>)"));
    // The teacher stays, for the next trials; weights of trials and checkpoints do not.
    let left: Vec<String> = ["weights", "checkpoints"]
        .iter()
        .flat_map(|f| std::fs::read_dir(root.join("whole").join(f)).into_iter().flatten())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    assert_eq!(left, ["teacher-0.safetensors"]);

    // In two calls; with another number of threads; and once more, when there is nothing left to do.
    good(root, &["s.toml", "--out", "parts", "--trials", "3", "--threads", "1"]);
    assert_eq!(trials(root, "parts").len(), 3);
    refused(root, &["s.toml", "--out", "parts"], 1, &["parts holds a search", "--resume"]);
    good(root, &["s.toml", "--out", "parts", "--resume", "--threads", "2"]);
    assert_eq!(trials(root, "parts"), whole);
    let before = std::fs::read(root.join("parts/search.json")).unwrap();
    let json = good(root, &["s.toml", "--out", "parts", "--resume", "--json"]);
    assert!(before == std::fs::read(root.join("parts/search.json")).unwrap(), "nothing was left to do");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::from_slice::<Value>(&before).unwrap());
    assert!(json["best"].as_u64().is_some_and(|best| (1..=4).contains(&best)));

    let args = ["s.toml", "--out", "parts", "--resume", "--epochs", "2"];
    refused(root, &args, 1, &["parts/search.json is another search", "search.epochs was \"1\", is \"2\""]);
    std::fs::write(root.join("base.toml"), BASE.replace("batch_size = 16", "batch_size = 32")).unwrap();
    let args = ["s.toml", "--out", "parts", "--resume"];
    refused(root, &args, 1, &["another search", "train.batch_size was 16, is 32"]);
}

#[test]
fn mistakes_are_explained() {
    let folder = here(SEARCH);
    let root = folder.path();
    let cases: [(String, &[&str]); 4] = [
        (
            SEARCH.replace("loss.1.beta", "loss.1.bta"),
            &["s.toml", "keys.\"loss.1.bta\"", "did you mean `beta`"],
        ),
        (
            SEARCH.replace("'random'", "'grid'").replace("trials = 4", ""),
            &["keys.\"loss.1.beta\"", "`points`"],
        ),
        (SEARCH.replace("low = 0.5", "low = -1"), &["keys.\"loss.1.beta\"", "above 0"]),
        (SEARCH.replace("validation = 40", "validation = 160"), &["`validation` is 160", "of 160"]),
    ];
    for (text, expected) in cases {
        std::fs::write(root.join("s.toml"), text).unwrap();
        refused(root, &["s.toml", "--out", "out"], 3, expected);
        assert!(!root.join("out").exists());
    }
    refused(root, &["none.toml"], 1, &["none.toml"]);
    refused(root, &["s.toml", "--trials", "0"], 2, &["--trials"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_search_that_can_go_on() {
    let folder = here(SEARCH);
    let root = folder.path();
    let mut child = command(root, &["s.toml", "--out", "out", "--epochs", "100000"]);
    let child =
        child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The teacher is trained, its students are under way.
    let teacher = root.join("out/weights/teacher-0.json");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !teacher.exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(130) && err.contains("--resume"), "{err}");
    let left = std::fs::read_dir(root.join("out/checkpoints")).unwrap().count();
    assert!(left > 0, "the cohort goes on from here: {err}");
}
