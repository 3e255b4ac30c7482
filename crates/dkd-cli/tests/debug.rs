//! `dkd debug` and the policies about numbers, through the real program.
#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use std::path::Path;

fn dkd(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("dkd").unwrap();
    command.current_dir(folder).args(args).env("NO_COLOR", "1");
    command
}

const CONFIG: &str = "
data = { dataset = 'synthetic', train_limit = 96, test_limit = 16 }
train = { epochs = 2, batch_size = 16 }
student.model = 'resnet8'
checkpoints.every_steps = 1
optimizer.lr = 0.02
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_that_stops_at_a_bad_number_can_be_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.toml"), CONFIG).unwrap();
    let train =
        ["train", "--config", "c.toml", "--data", "synthetic", "--out", "run", "--set", "optimizer.lr=1e30"];
    let failed = dkd(folder.path(), &train).assert().code(5);
    let message = text(&failed.get_output().stderr);
    for expected in ["row `run`", "epoch 1", "First seen in", "samples", "dkd debug", "optimizer.clip_norm"] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let shown = text(&dkd(folder.path(), &["debug", "run"]).assert().success().get_output().stdout);
    for expected in ["row run: epoch 1", "not finite first: ", "layer1.0.conv1", "fc.weight", "gradient min"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    assert!(shown.lines().all(|l| l.chars().count() <= 160), "{shown}");
    let json = text(
        &dkd(folder.path(), &["debug", "run", "--step", "0", "--json"])
            .assert()
            .success()
            .get_output()
            .stdout,
    );
    let reports: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((reports[0]["step"].as_u64(), reports[0]["epoch"].as_u64()), (Some(0), Some(1)));
    assert!(reports[0]["origin"].is_null() && reports[0]["samples"].as_array().unwrap().len() == 16);
    let failed = dkd(folder.path(), &["debug", "run", "--row", "kd"]).assert().code(1);
    assert!(text(&failed.get_output().stderr).contains("it has: run"));
}

#[test]
fn a_healthy_run_is_looked_into_at_a_named_step() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.toml"), CONFIG).unwrap();
    dkd(folder.path(), &["train", "--config", "c.toml", "--data", "synthetic", "--out", "run"])
        .assert()
        .success();
    let weights = || std::fs::read(folder.path().join("run/last.safetensors")).unwrap();
    let before = (weights(), std::fs::read(folder.path().join("run/events.jsonl")).unwrap());
    let failed = dkd(folder.path(), &["debug", "run"]).assert().code(1);
    assert!(text(&failed.get_output().stderr).contains("--step N"));
    let shown = dkd(folder.path(), &["debug", "run", "--step", "7"]).assert().success();
    assert!(text(&shown.get_output().stdout).contains("epoch 2, step 7"));
    let failed = dkd(folder.path(), &["debug", "run", "--step", "12"]).assert().code(1);
    assert!(text(&failed.get_output().stderr).contains("step 12"));
    assert!(before == (weights(), std::fs::read(folder.path().join("run/events.jsonl")).unwrap()));
}

#[test]
fn a_batch_that_does_not_fit_into_the_memory_is_refused_before_anything_happens() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "ulimit -v 1500000; exec {} train --model resnet32x4 --data synthetic --epochs 1 --set train.batch_size=4096 --out run",
        assert_cmd::cargo::cargo_bin("dkd").display()
    );
    let failed = Command::new("bash").current_dir(folder.path()).args(["-c", &script]).assert().code(1);
    let message = text(&failed.get_output().stderr);
    assert!(message.contains("largest train.batch_size that fits is "), "{message}");
}
