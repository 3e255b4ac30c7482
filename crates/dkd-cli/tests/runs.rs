//! `dkd runs` on runs of the real program: finished, stopped, in use, damaged.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use dkd_files::FolderLock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

const TABLE: &str = "
data = { dataset = 'synthetic', train_limit = 256, test_limit = 64 }
train = { epochs = 3, batch_size = 16 }
student.model = 'resnet8'
teacher = { model = 'resnet8', epochs = 1 }
[[rows]]
id = 'first'
[[rows]]
id = 'none'
[[rows]]
id = 'kd'
baseline = 'first'
loss = [{ method = 'ce', weight = 0.5 }, { method = 'kd', weight = 0.5 }]
";

fn dkd(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dkd"));
    command.current_dir(folder).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Code (`None` after a signal), standard output and standard error.
fn parts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    parts(dkd(folder, args).output().unwrap())
}

/// Runs to a good end; what it printed.
fn good(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert!(code == Some(0), "{args:?}: {out}{err}");
    out
}

/// Runs to a refusal; what it said.
fn refused(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert!(code == Some(1) && !err.contains("panicked"), "{args:?}: {out}{err}");
    err
}

/// Starts a command and sends it SIGTERM once `log` has `lines` lines.
fn stopped(folder: &Path, args: &[&str], log: &str, lines: usize) {
    let child = dkd(folder, args).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let written = || std::fs::read(folder.join(log)).map_or(0, |b| b.split(|c| *c == b'\n').count());
    while written() < lines {
        assert!(Instant::now() < deadline, "the log does not grow");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let (code, _, err) = parts(child.wait_with_output().unwrap());
    assert_eq!(code, Some(130), "{err}");
}

/// A run of four epochs with 16 steps each.
fn train(out: &str) -> Vec<&str> {
    let mut args = vec!["train", "--model", "resnet8", "--data", "synthetic", "--epochs", "4", "--seed", "7"];
    args.extend([
        "--set",
        "data.train_limit=256",
        "--set",
        "data.test_limit=64",
        "--set",
        "train.batch_size=16",
    ]);
    args.extend(["--threads", "1", "--out", out]);
    args
}

/// All files below a folder, with size and time.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let about = path.metadata().unwrap();
            all.insert(path, (about.len(), about.modified().unwrap()));
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    for path in files(from).keys() {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

/// A folder's checkpoints, the newest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = files(&run.join("checkpoints")).into_keys().collect();
    all.sort();
    all.reverse();
    all
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// What `list --json` says of a run.
fn listed(root: &Path, name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(&good(root, &["runs", "list", "--json"])).unwrap();
    let folder = format!("runs/{name}");
    all.into_iter().find(|run| run["folder"] == *folder).unwrap_or_else(|| panic!("{folder} is not listed"))
}

fn contains(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}

fn same(one: &Path, other: &Path, names: &[&str]) {
    for name in names {
        assert!(std::fs::read(one.join(name)).unwrap() == std::fs::read(other.join(name)).unwrap(), "{name}");
    }
}

const OUTCOME: [&str; 4] = ["last.safetensors", "summary.json", "events.jsonl", "config.toml"];

#[test]
fn runs_are_listed_shown_compared_resumed_and_cleaned() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (whole, part) = (root.join("runs/whole"), root.join("runs/part"));
    contains(&good(root, &["runs", "list"]), &["no runs in runs"]);
    good(root, &train("runs/whole"));
    stopped(root, &train("runs/part"), "runs/part/events.jsonl", 20);
    looking(root);
    used(root, &part);
    damaged(root, &whole, &part);

    // Without being told anything, from another folder.
    let elsewhere = root.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let (code, _, err) = run(&elsewhere, &["runs", "resume", "../runs/part"]);
    assert!(code == Some(0) && err.contains("going on with the students in epoch"), "{err}");
    same(&whole, &part, &OUTCOME);
    assert!(checkpoints(&part).is_empty(), "checkpoints are gone");
    let before = files(&part);
    contains(&good(root, &["runs", "resume", "runs/part"]), &["runs/part is finished"]);
    assert_eq!(files(&part), before);
    let shown = good(root, &["runs", "show", "runs/part"]);
    contains(
        &shown,
        &[
            "4 of 4 epochs, finished",
            " train --model resnet8",
            "dkd eval --weights runs/part/last.safetensors",
        ],
    );
    cleaned(root, &whole);
}

/// A finished and a stopped run, without changing anything.
fn looking(root: &Path) {
    let before = files(root);
    let text = good(root, &["runs", "list"]);
    contains(&text, &["runs/part", "stopped", "runs/whole", "finished", "4/4", "synthetic"]);
    assert!(text.lines().count() == 3 && text.lines().all(|l| l.chars().count() <= 80), "{text}");
    let (part, whole) = (listed(root, "part"), listed(root, "whole"));
    for run in [&part, &whole] {
        assert_eq!(
            (&run["kind"], &run["name"], &run["data"]),
            (&"run".into(), &"resnet8".into(), &"synthetic".into())
        );
        assert!(run["reason"].is_null() && run["accuracies"][0]["last"].is_number(), "{run}");
    }
    assert_eq!((part["state"].as_str(), whole["state"].as_str()), (Some("stopped"), Some("finished")));
    assert!((1..4).contains(&part["done"].as_u64().unwrap()) && part["planned"] == 4, "{part}");
    assert_eq!((whole["done"].as_u64(), whole["planned"].as_u64()), (Some(4), Some(4)));

    let known: Value = serde_json::from_str(&good(root, &["runs", "show", "runs/part", "--json"])).unwrap();
    for key in ["kind", "state", "done", "planned"] {
        assert_eq!(known[key], part[key], "{key}");
    }
    assert_eq!(
        (&known["settings"]["train.batch_size"], &known["next"]),
        (&"16".into(), &"dkd runs resume runs/part".into())
    );
    assert_eq!(
        known["results"][0]["epochs"].as_array().map(|e| e.len() as u64),
        part["done"].as_u64(),
        "{known}"
    );
    let newest = &known["checkpoints"][0];
    assert!(newest["damage"].is_null() && newest["bytes"].as_u64() > Some(1000), "{newest}");
    assert!(newest["goes_on_in"]["epoch"].as_u64() > part["done"].as_u64(), "{newest}");

    let shown = good(root, &["runs", "show", "runs/part"]);
    contains(
        &shown,
        &[
            "of 4 epochs, stopped",
            "train.batch_size = 16",
            "data.train_limit = 256",
            "checkpoints/7-s-",
            "whole",
        ],
    );
    contains(&shown, &["started by", "train --model resnet8", "next: dkd runs resume runs/part\n", "/4 "]);
    assert!(!shown.contains("momentum") && !shown.contains("damaged"), "only what was set:\n{shown}");

    let compared = good(root, &["runs", "compare", "runs/whole", "runs/part"]);
    contains(&compared, &["all settings are the same", "images: the same, synthetic", "runs/whole", "/4)"]);
    assert!(compared.lines().all(|l| l.chars().count() <= 80), "{compared}");
    let clean = good(root, &["runs", "clean", "runs"]);
    contains(&clean, &["0 files, 0 B freed in 2 runs"]);

    std::fs::create_dir(root.join("empty")).unwrap();
    contains(&good(root, &["runs", "list", "empty"]), &["no runs in empty"]);
    assert_eq!(good(root, &["runs", "list", "empty", "--json"]), "[]\n");
    for command in ["show", "resume"] {
        contains(&refused(root, &["runs", command, "empty"]), &["`empty` is no folder of a run"]);
    }
    contains(&refused(root, &["runs", "show", "none"]), &["there is no folder `none`"]);
    contains(&refused(root, &["runs", "clean", "none"]), &["there is no folder `none`"]);
    // Cleaning takes the lock, and says so in its file.
    let without = |all: BTreeMap<PathBuf, _>| {
        all.into_iter().filter(|(p, _)| !p.ends_with(".dkd.lock")).collect::<Vec<_>>()
    };
    assert_eq!(without(files(root)), without(before));
}

/// A run that another process uses.
fn used(root: &Path, part: &Path) {
    let lock = FolderLock::acquire(part, "a test").unwrap();
    let before = files(part);
    contains(&good(root, &["runs", "list"]), &["running", "runs/part is in use by process", "(a test)"]);
    let run = listed(root, "part");
    assert!(run["state"] == "running" && run["owner"].as_str().unwrap().contains("a test"), "{run}");
    contains(
        &good(root, &["runs", "show", "runs/part"]),
        &["running", "in use by   process", "stops it with a checkpoint"],
    );
    contains(&refused(root, &["runs", "resume", "runs/part"]), &["in use by process", "a test"]);
    let (code, out, err) = crate::run(root, &["runs", "clean", "runs", "--stopped"]);
    assert!(
        code == Some(1) && err.contains("`runs/part` is in use") && out.contains("0 files"),
        "{out}{err}"
    );
    assert_eq!(files(part), before);
    drop(lock);
    assert_eq!(listed(root, "part")["state"], "stopped");
}

/// Copies of the two runs, each damaged in another way.
fn damaged(root: &Path, whole: &Path, part: &Path) {
    let made = |name: &str, from: &Path| {
        let folder = root.join("runs").join(name);
        copy(from, &folder);
        folder
    };
    // The newest checkpoint: the one before it takes its place.
    let newest = made("newest", part);
    truncate(&checkpoints(&newest)[0]);
    assert_eq!(listed(root, "newest")["state"], "stopped");
    contains(
        &good(root, &["runs", "show", "runs/newest"]),
        &["whole", "damaged", "next: dkd runs resume runs/newest\n"],
    );
    let (code, _, err) = run(root, &["runs", "resume", "runs/newest"]);
    assert!(code == Some(0) && err.contains("cannot be used"), "{err}");
    same(whole, &newest, &OUTCOME);

    // All of them.
    let all = made("all", part);
    checkpoints(&all).iter().for_each(|path| truncate(path));
    let run_of = listed(root, "all");
    assert!(
        run_of["state"] == "damaged" && run_of["reason"].as_str().unwrap().contains(".safetensors"),
        "{run_of}"
    );
    let text = good(root, &["runs", "list"]);
    contains(&text, &["runs/all is damaged: "]);
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    contains(
        &good(root, &["runs", "show", "runs/all"]),
        &["from the beginning: there is no usable checkpoint"],
    );

    // The summary of a finished run.
    let summary = made("summary", whole);
    std::fs::write(summary.join("summary.json"), b"{").unwrap();
    let run_of = listed(root, "summary");
    assert!(
        run_of["state"] == "damaged" && run_of["reason"].as_str().unwrap().contains("summary.json"),
        "{run_of}"
    );
    contains(&good(root, &["runs", "show", "runs/summary"]), &["next: remove the damaged file"]);
    contains(&refused(root, &["runs", "resume", "runs/summary"]), &["summary.json", "Remove that file"]);

    // How it was started.
    let invocation = made("invocation", part);
    std::fs::write(invocation.join("invocation.json"), b"{\"format_version\": 9}").unwrap();
    contains(&good(root, &["runs", "list"]), &["runs/invocation is damaged: "]);
    contains(
        &refused(root, &["runs", "show", "runs/invocation"]),
        &["invocation.json", "version 9", "reads 1"],
    );
    // Without it, the images are all that must be said.
    std::fs::remove_file(invocation.join("invocation.json")).unwrap();
    contains(
        &good(root, &["runs", "show", "runs/invocation"]),
        &["next: dkd runs resume runs/invocation --data SOURCE\n"],
    );
    contains(&refused(root, &["runs", "resume", "runs/invocation"]), &["--data SOURCE", "invocation.json"]);
    good(root, &["runs", "resume", "runs/invocation", "--data", "synthetic"]);
    same(whole, &invocation, &OUTCOME);

    // Nothing of this is removed without being asked for, and what is asked for is only the checkpoints.
    let clean = ["runs", "clean", "runs/all", "runs/summary"];
    contains(&good(root, &clean), &["0 files"]);
    assert!(!checkpoints(&all).is_empty());
    let out = good(root, &[&clean[..], &["--stopped", "--dry-run"]].concat());
    contains(&out, &["would remove runs/all/checkpoints/", "would be freed", "could then not go on"]);
    assert!(!checkpoints(&all).is_empty());
    contains(
        &good(root, &[&clean[..], &["--stopped"]].concat()),
        &["removed runs/all/checkpoints/", "cannot go on any more"],
    );
    assert!(checkpoints(&all).is_empty() && all.join("events.jsonl").is_file());
    // Its images are known nevertheless.
    contains(
        &good(root, &["runs", "compare", "runs/whole", "runs/all"]),
        &["images: the same, synthetic", "none"],
    );
    assert_eq!(
        (listed(root, "all")["state"].as_str(), listed(root, "all")["done"].as_u64()),
        (Some("stopped"), Some(0))
    );
}

/// A finished run with leftovers.
fn cleaned(root: &Path, whole: &Path) {
    let before: Vec<PathBuf> = files(whole).into_keys().collect();
    let leftovers =
        ["checkpoints/7-s-0000000064.safetensors", "checkpoints/.dkd-a1b2c3.tmp", ".dkd-d4e5f6.tmp"];
    for name in leftovers {
        std::fs::create_dir_all(whole.join("checkpoints")).unwrap();
        std::fs::write(whole.join(name), vec![0; 1000]).unwrap();
    }
    std::fs::write(whole.join("checkpoints/notes.txt"), b"not ours").unwrap();
    let out = good(root, &["runs", "clean", "runs/whole", "--dry-run"]);
    contains(&out, &leftovers);
    contains(&out, &["3 files, 3.0 kB would be freed"]);
    assert!(leftovers.iter().all(|name| whole.join(name).is_file()));
    contains(&good(root, &["runs", "clean", "runs/whole"]), &["removed", "3 files, 3.0 kB freed"]);
    std::fs::remove_file(whole.join("checkpoints/notes.txt")).unwrap();
    assert_eq!(files(whole).into_keys().collect::<Vec<_>>(), before);
}

/// Results without times, machine and revision, and the weights.
fn table_outcome(out: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for row in ["teacher", "none", "kd"] {
        let bytes = std::fs::read(out.join(format!("results/t/{row}-0.json"))).unwrap();
        let mut result: Value = serde_json::from_slice(&bytes).unwrap();
        for changing in ["seconds", "waited_seconds", "host"] {
            result.as_object_mut().unwrap().remove(changing);
        }
        all.insert(row.to_owned(), result.to_string());
        let weights = std::fs::read(out.join(format!("weights/{row}-0.safetensors"))).unwrap();
        all.insert(format!("{row}'s weights"), dkd_files::sha256_bytes(&weights));
    }
    all.insert("log".to_owned(), std::fs::read_to_string(out.join("events-0.jsonl")).unwrap());
    all
}

#[test]
fn a_part_of_a_table_goes_on_from_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let work = root.join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("t.toml"), TABLE).unwrap();
    let args =
        |out| ["table", "t.toml", "--rows", "none,kd", "--threads", "1", "--results", "copy", "--out", out];
    good(&work, &args("whole"));
    std::fs::remove_dir_all(work.join("copy")).unwrap();
    // In the students' first or second epoch.
    stopped(&work, &args("part"), "part/events-0.jsonl", 60);
    std::fs::remove_file(work.join("t.toml")).unwrap();
    let text = good(root, &["runs", "list", "work"]);
    contains(&text, &["work/part", "table", "stopped", "0/2", "work/whole", "finished", "2/2"]);
    let shown = good(root, &["runs", "show", "work/part"]);
    contains(
        &shown,
        &["table t, 0 of 2 rows (seeds: 0), stopped", "rows.kd.loss.1.method = \"kd\"", "checkpoints/0-s-"],
    );
    good(root, &["runs", "resume", "work/part"]);
    let expected = table_outcome(&work.join("whole"));
    for (name, value) in table_outcome(&work.join("part")) {
        assert!(expected[&name] == value, "{name} differs");
    }
    contains(&expected["kd"], &["\"position\":3", "\"baseline\":\"first\""]);
    assert!(work.join("part/report.html").is_file() && work.join("copy/t/kd-0.json").is_file());
    contains(&good(root, &["runs", "resume", "work/part"]), &["work/part is finished"]);
    let compared = good(root, &["runs", "compare", "work/whole", "work/part"]);
    contains(&compared, &["all settings are the same", "teacher", "kd", "images: the same"]);
}

#[test]
fn other_settings_and_other_images_are_pointed_out() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let small = [
        "--data",
        "synthetic",
        "--epochs",
        "1",
        "--set",
        "data.train_limit=64",
        "--set",
        "data.test_limit=32",
    ];
    let one = |out: &str, more: &[&str]| {
        good(root, &[&["train", "--model", "resnet8", "--out", out], &small[..], more].concat());
    };
    one("a", &[]);
    one("b", &["--set", "optimizer.lr=0.01"]);
    let compared = good(root, &["runs", "compare", "a", "b"]);
    contains(
        &compared,
        &["rows.run.optimizer.lr", "0.05", "0.01", "top-1 after the last epoch", "images: the same"],
    );
    assert_eq!(compared.lines().filter(|l| l.contains("rows.")).count(), 1, "{compared}");
    let summary = root.join("b/summary.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&summary).unwrap()).unwrap();
    value["data"]["sha256"] = "0".repeat(64).into();
    std::fs::write(&summary, value.to_string()).unwrap();
    contains(
        &good(root, &["runs", "compare", "a", "b"]),
        &["WARNING: the images differ", "b: synthetic 000000000000…"],
    );
    assert_eq!(run(root, &["runs", "compare", "a"]).0, Some(2));
}
