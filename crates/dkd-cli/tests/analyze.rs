//! `dkd analyze` on what the real program has trained.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const TABLE: &str = "
data = { dataset = 'synthetic', train_limit = 64, test_limit = 48, validation = 16 }
train = { epochs = 2, batch_size = 16 }
student.model = 'resnet8'
teacher = { model = 'resnet8', epochs = 1 }
[[rows]]
id = 'none'
[[rows]]
id = 'dkd'
loss = [{ method = 'ce' }, { method = 'dkd', warmup_epochs = 2 }]
";

fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(assert_cmd::cargo::cargo_bin!("dkd")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn good(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    out
}

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&good(folder, args)).unwrap()
}

fn refused(folder: &Path, args: &[&str], expected: &[&str]) {
    let (code, out, err) = run(folder, args);
    assert!(
        code != 0 && out.is_empty() && expected.iter().all(|e| err.contains(e)),
        "{args:?}: {code} {out}{err}"
    );
    assert!(!err.contains("panicked"), "{err}");
}

fn sum(values: &Value) -> f64 {
    values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum()
}

#[test]
fn a_table_is_analysed_with_its_networks() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::write(root.join("t.toml"), TABLE).unwrap();
    good(root, &["table", "t.toml", "--data", "synthetic", "--out", "t"]);
    let before = std::fs::read(root.join("t/events-0.jsonl")).unwrap();
    let out = good(root, &["analyze", "t", "--points", "20", "--out", "a"]);
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    for part in
        ["dkd.nckd", "same answer", "ECE", "CE,TCKD", "corr. mean", "a/analysis.html", "48 test images"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(before == std::fs::read(root.join("t/events-0.jsonl")).unwrap(), "looking changes nothing");

    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let html = read("a/analysis.html");
    assert!(!html.contains("src=") && !html.contains("href=") && !html.contains("NaN"));
    for picture in ["accuracy", "terms-dkd", "shares-dkd", "terms-none", "reliability", "correlation", "tsne"]
    {
        let svg = read(&format!("a/{picture}.svg"));
        assert!(svg.starts_with("<svg") && html.contains(svg.trim()), "{picture}");
    }
    assert!(!root.join("a/shares-none.svg").exists(), "one term is all of its loss");
    let analysis: Value = serde_json::from_str(&read("a/analysis.json")).unwrap();
    assert_eq!(analysis["format_version"], 1);
    let terms = analysis["run"]["terms"].as_array().unwrap();
    let dkd = terms.iter().find(|t| t["row"] == "dkd").unwrap();
    assert_eq!(dkd["terms"], serde_json::json!(["ce", "dkd.tckd", "dkd.nckd"]));
    assert_eq!(dkd["weights"], serde_json::json!([1.0, 1.0, 8.0]));
    // 48 images in batches of 16, twice.
    assert_eq!(dkd["points"].as_array().map(Vec::len), Some(6));
    assert!((sum(&dkd["points"][5]["shares"]) - 100.0).abs() < 1e-9);
    let pairs = &analysis["pairs"];
    assert_eq!(pairs["students"].as_array().map(Vec::len), Some(2));
    for (i, network) in [&pairs["teacher"], &pairs["students"][0], &pairs["students"][1]].iter().enumerate() {
        let result = &analysis["run"]["results"][i];
        let (here, logged) = (network["top1"].as_f64().unwrap(), result["last"].as_f64().unwrap());
        assert!((here - logged).abs() < 1e-9, "{network}");
        assert_eq!(network["tsne"].as_array().map(Vec::len), Some(20));
    }
    let shares = &pairs["students"][1]["gradients"];
    let shares: f64 = ["ce", "tckd", "nckd"].iter().map(|t| shares[t]["share"].as_f64().unwrap()).sum();
    assert!((shares - 100.0).abs() < 1e-9);

    // The same from elsewhere, and with any number of threads.
    let inner = root.join("inner");
    std::fs::create_dir(&inner).unwrap();
    let args = ["analyze", "../t", "--points", "20", "--json", "--threads", "2"];
    let mut again = json(&inner, &args);
    again["run"]["folder"] = analysis["run"]["folder"].clone();
    for (a, b) in ["terms", "results"].map(|k| (&again["run"][k], &analysis["run"][k])) {
        assert_eq!(a, b);
    }
    assert_eq!(again["pairs"]["students"][1]["tsne"], pairs["students"][1]["tsne"]);
    assert_eq!(again["pairs"]["students"][1]["divergence"], pairs["students"][1]["divergence"]);
    let held =
        json(root, &["analyze", "t", "--rows", "dkd", "--split", "validation", "--points", "0", "--json"]);
    assert_eq!(
        (held["pairs"]["images"].as_u64(), held["pairs"]["split"].as_str()),
        (Some(16), Some("validation"))
    );
    assert_eq!(held["run"]["results"].as_array().map(Vec::len), Some(1));

    a_pair_of_files(root);
    refused(root, &["analyze", "t", "--seed", "7"], &["`t`", "seed 7", "it has: 0"]);
    refused(root, &["analyze", "t", "--rows", "kd"], &["no row `kd`", "none, dkd"]);
    refused(root, &["analyze", "t", "--temperature", "0"], &["temperature"]);
    // Without the weights the records are still there.
    std::fs::remove_dir_all(root.join("t/weights")).unwrap();
    let (code, out, err) = run(root, &["analyze", "t"]);
    assert!(code == 0 && out.contains("dkd.nckd") && err.contains("there is no teacher"), "{out}{err}");
    std::fs::write(root.join("t/events-0.jsonl"), "{\"event\":\"log\",\"format\":1}\n").unwrap();
    refused(root, &["analyze", "t"], &["events-0.jsonl", "no step", "dkd runs show t"]);
    std::fs::write(root.join("t/events-0.jsonl"), "nonsense\n").unwrap();
    refused(root, &["analyze", "t"], &["`t`", "events-0.jsonl", "line 1"]);
}

/// The table's weights, as files that nothing else is known of.
fn a_pair_of_files(root: &Path) {
    let pair =
        ["analyze", "--teacher", "t/weights/teacher-0.safetensors", "--data", "synthetic", "--images", "64"];
    let with = |student: &str, more: &[&str]| -> Vec<String> {
        let all = [&pair[..], &["--student", student], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let text = |args: Vec<String>| good(root, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let two = "t/weights/none-0.safetensors,t/weights/dkd-0.safetensors";
    let found: Value = serde_json::from_str(&text(with(two, &["--points", "0", "--json"]))).unwrap();
    assert!(
        found["run"].is_null()
            && found["pairs"]["images"] == 64
            && found["pairs"]["teacher"]["tsne"].is_null()
    );
    assert_eq!(found["pairs"]["students"][1]["name"], "dkd-0.safetensors");
    let out = text(with("t/weights/teacher-0.safetensors", &["--temperature", "2"]));
    assert!(
        out.contains("100.00") && out.contains("T = 2") && out.lines().all(|l| l.chars().count() <= 80),
        "{out}"
    );
    let fails = |args: Vec<String>, expected: &[&str]| {
        refused(root, &args.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    };
    fails(with("gone.safetensors", &[]), &["`gone.safetensors` cannot be analysed"]);
    fails(with(two, &["--split", "validation"]), &["held out", "dkd analyze RUN"]);
    fails(with(two, &["--student-model", "a,b,c"]), &["3 networks for 2 students"]);
    fails(with(two, &["--student-model", "resnet14"]), &["none-0.safetensors", "they fit resnet8"]);
    refused(root, &["analyze", "--teacher", "t"], &["--student"]);
    refused(root, &["analyze"], &["folder of a run", "--teacher FILE"]);
}

#[test]
fn a_run_without_a_teacher_has_its_losses() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut args =
        vec!["train", "--model", "resnet8", "--data", "synthetic", "--epochs", "1", "--out", "run"];
    args.extend([
        "--set",
        "data.train_limit=32",
        "--set",
        "data.test_limit=16",
        "--set",
        "train.batch_size=16",
    ]);
    good(root, &args);
    let (code, out, err) = run(root, &["analyze", "run"]);
    assert!(code == 0 && out.contains("ce") && err.contains("had no teacher"), "{out}{err}");
    let found = json(root, &["analyze", "run", "--json"]);
    assert!(
        found["pairs"].is_null() && found["run"]["terms"][0]["points"][1]["shares"][0] == 100.0,
        "{found}"
    );
    refused(root, &["analyze", "nowhere"], &["no folder `nowhere`"]);
    refused(root, &["analyze", "."], &["no folder of a run"]);
}
