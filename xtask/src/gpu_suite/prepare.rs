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

fn script(path: &Path) -> Result<()> {
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

    #[cfg(unix)]
    #[test]
    fn the_script_is_a_shell_script() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.sh");
        script(&file).unwrap();
        run(Command::new("sh").arg("-n").arg(&file)).unwrap();
    }

    /// In the place of the suite: it fails in one stage and hangs in another.
    const STUB: &str = r#"#!/bin/sh
        if [ "$1" = merge ]; then echo "merged $(for f; do basename -- "$f"; done | tr '\n' ' ')"; exit; fi
        for a; do [ "${before:-}" = --out ] && out=$a; before=$a; done
        if [ -n "${NO_DEVICE:-}" ]; then echo "error: no CUDA device" >&2; exit 1; fi
        echo '{}' >"$out"
        case "$out" in
        */first.json) exit 139 ;;
        */checks.json) exec sleep 100 ;;
        esac
    "#;

    #[cfg(unix)]
    #[test]
    fn a_stage_that_fails_or_hangs_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        script(&folder.path().join("run.sh")).unwrap();
        for program in ["dkd", "dkd-gpu-suite"] {
            let file = folder.path().join(program);
            fs::write(&file, STUB).unwrap();
            run(Command::new("gzip").arg(&file)).unwrap();
        }
        let out = folder.path().join("out");
        let start = |more: &[(&str, &str)], args: &[&str]| {
            let mut sh = Command::new("sh");
            sh.arg(folder.path().join("run.sh")).args(args).env("OUT", &out).env("TORCH_VARIANTS", "");
            // What is left for a stage after the end has been kept free.
            let done = sh.env("LIMIT", "22").envs(more.iter().copied()).output().unwrap();
            (done.status.code(), String::from_utf8(done.stdout).unwrap())
        };
        let (code, said) = start(&[], &[]);
        assert_eq!(code, Some(1), "{said}");
        for part in ["first: code 139", "checks: code 124", "rest: left out: no time"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(
            said.trim_end().ends_with("merged merge smoke.json first.json checks.json --out suite.json"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(out.join("log")).unwrap(), said);
        let (code, said) = start(&[("NO_DEVICE", "1")], &[]);
        assert!(code == Some(1) && said.contains("no CUDA device") && !said.contains("first"), "{said}");
        let (code, said) = start(&[], &["--parts", "goldens"]);
        assert!(code == Some(0) && !said.contains("first"), "{said}");
    }

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
