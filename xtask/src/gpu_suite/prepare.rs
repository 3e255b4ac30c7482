//! The folders that are carried.

use super::folder::{check, copy, copy_files, make};
use super::start;
use crate::check_cuda::Place;
use crate::check_cuda::full::{DKD, SUITE, programs};
use crate::run::{root, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a part of a data set may.
const PART_MB: &str = "55";

const SCRIPT: &str = include_str!("run.sh");

/// The first trip's files: where they lie in this repository, and there.
const PYTHON: [&str; 2] = ["gpu_torch.py", "network.py"];
const GOLDENS: &str = "crates/dkd-models/tests/fixtures/golden/models";
const TABLES: &str = "configs/tables";

/// Makes `trip-1` with programs, reference values and scripts, and a trip for each part of a data set.
pub fn prepare(folder: &Path, data: Option<(&Path, &str)>, python: &Path) -> Result<()> {
    let [dkd, suite] = programs(&Place::new(python)?, [DKD, SUITE])?;
    let first = folder.join("trip-1");
    let goldens = first.join("fixtures/models");
    copy_files(&root().join(GOLDENS), &goldens)?;
    copy_files(&root().join(TABLES), &first.join(TABLES))?;
    for program in [&dkd, &suite] {
        let name = program.file_name().context("a program has a name")?;
        let to = first.join(name);
        copy(program, &to)?;
        strip(&to)?;
        if program == &suite {
            start::alone(&to, &goldens)?;
        }
        run(Command::new("gzip").args(["-9", "-n"]).arg(&to))?;
    }
    make(&first.join("python"))?;
    for name in PYTHON {
        copy(&root().join("xtask/python").join(name), &first.join("python").join(name))?;
    }
    script(&first.join("run.sh"))?;
    start::script(&first)?;
    if let Some((data, dataset)) = data {
        pack(&suite, folder, data, dataset)?;
        fs::write(first.join("dataset"), dataset)?;
    }
    check(folder)
}

/// Takes names out of a program, if there is a tool for it.
fn strip(program: &Path) -> Result<()> {
    match Command::new("strip").arg(program).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("strip {}: {status}", program.display()),
        Err(_) => {
            println!("{}: there is no `strip`; it stays as it is", program.display());
            Ok(())
        }
    }
}

/// Writes the script that runs all there.
pub fn script(path: &Path) -> Result<()> {
    fs::write(path, SCRIPT).with_context(|| format!("cannot write {}", path.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Packs a data set, each part into a trip of its own.
fn pack(suite: &Path, folder: &Path, data: &Path, dataset: &str) -> Result<()> {
    let packed = folder.join("data.pack");
    let mut command = Command::new(suite);
    command.args(["pack", "--dataset", dataset, "--megabytes", PART_MB]);
    run(command.arg("--data").arg(data).arg("--out").arg(&packed))?;
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("data.pack") {
            parts.push(path);
        }
    }
    parts.sort();
    for (i, part) in parts.iter().enumerate() {
        let trip = folder.join(format!("trip-{}", i + 2));
        make(&trip)?;
        let to = trip.join(part.file_name().context("a part has a name")?);
        fs::rename(part, &to).with_context(|| format!("cannot move {}", part.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// PyTorch's side, on the CPU and as small as it can be.
    #[test]
    fn pytorch_measures() {
        let python = "python3";
        let there = Command::new(python).args(["-c", "import torch"]).stderr(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            eprintln!("skipped: {python} has no PyTorch");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let layers = r#"{"layers": [
            {"op": "conv2d", "out": 4, "kernel": 3, "padding": 1}, {"op": "relu"}, {"op": "global_avg_pool"},
            {"op": "linear", "out": "classes"}]}"#;
        fs::write(folder.path().join("tiny.json"), layers).unwrap();
        let out = folder.path().join("out.json");
        let mut command = Command::new(python);
        command.arg(root().join("xtask/python/gpu_torch.py")).args(["--device", "cpu", "--models", "tiny"]);
        command.args(["--pair", "tiny,tiny", "--batches", "4", "--images", "16", "--workers", "0"]);
        command.args(["--seconds", "0.1", "--warm", "1", "--variants", "eager,graph"]);
        run(command.arg("--descriptions").arg(folder.path()).arg("--out").arg(&out)).unwrap();
        let whole: serde_json::Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
        let results = whole["results"].as_array().unwrap();
        let measured = |r: &serde_json::Value| r["images_per_s"].as_f64().is_some_and(|v| v > 0.0);
        assert_eq!(results.len(), 4);
        assert!(results.iter().all(measured), "{whole}");
        // 4 filters of 3x3x3, and 4 weights and a bias for each of 10 classes.
        assert!(results.iter().all(|r| r["parameters"] == 4 * 27 + 50), "{whole}");
    }
}
