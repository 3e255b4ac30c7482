//! The folders that are carried.

use crate::check_cuda::Place;
use crate::check_cuda::full::{DKD, SUITE, programs};
use crate::run::{root, run as start};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What one trip may weigh.
const LIMIT: u64 = 60_000_000;

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
    make(&first)?;
    for program in [&dkd, &suite] {
        let name = program.file_name().context("a program has a name")?;
        let to = first.join(name);
        copy(program, &to)?;
        strip(&to)?;
        if program == &suite {
            starts_anywhere(&to)?;
        }
        start(Command::new("gzip").args(["-9", "-n"]).arg(&to))?;
    }
    copy_files(&root().join(GOLDENS), &first.join("fixtures/models"))?;
    copy_files(&root().join(TABLES), &first.join(TABLES))?;
    make(&first.join("python"))?;
    for name in PYTHON {
        copy(&root().join("xtask/python").join(name), &first.join("python").join(name))?;
    }
    script(&first.join("run.sh"))?;
    if let Some((data, dataset)) = data {
        pack(&suite, folder, data, dataset)?;
        fs::write(first.join("dataset"), dataset)?;
    }
    check(folder)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies the files of a folder into another.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
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

/// The program must need nothing of where it was built: it finds a device, or says that there is none.
fn starts_anywhere(program: &Path) -> Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let program = program.canonicalize().with_context(|| format!("no {}", program.display()))?;
    let mut command = Command::new(&program);
    command.env_clear().current_dir(elsewhere.path()).stdin(Stdio::null());
    let done = command.args(["--parts", "goldens", "--models", "resnet8", "--precisions", "f32"]).output();
    let done = done.with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let none = done.status.code() == Some(1) && said.contains("no CUDA device");
    if !none && !done.status.success() {
        bail!(
            "{}: expected a device, or `no CUDA device` and code 1; {}: {said}",
            program.display(),
            done.status
        );
    }
    print!("with an empty environment: {said}");
    Ok(())
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
    start(command.arg("--data").arg(data).arg("--out").arg(&packed))?;
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

/// Prints what each trip weighs; fails if one is too heavy.
fn check(folder: &Path) -> Result<()> {
    let mut trips: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    trips.sort();
    let mut heavy = Vec::new();
    for trip in &trips {
        let mut files = Vec::new();
        sizes(trip, &mut files)?;
        let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        println!("{}: {:.1} MB in {} files", trip.display(), total as f64 / 1e6, files.len());
        for (path, bytes) in files.iter().filter(|(_, bytes)| *bytes > 1_000_000) {
            println!("  {:5.1} MB  {}", *bytes as f64 / 1e6, path.display());
        }
        if total > LIMIT {
            heavy.push(trip.display().to_string());
        }
    }
    if !heavy.is_empty() {
        bail!("a trip may weigh {} MB: {} is heavier", LIMIT / 1_000_000, heavy.join(", "));
    }
    println!("{} trips, all into one folder; then run.sh there", trips.len());
    Ok(())
}

/// All files below a folder, and their sizes.
fn sizes(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sizes(&entry.path(), found)?;
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_trip_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let trip = folder.path().join("trip-1/inner");
        make(&trip).unwrap();
        fs::File::create(trip.join("a")).unwrap().set_len(LIMIT).unwrap();
        check(folder.path()).unwrap();
        fs::write(trip.join("b"), "1").unwrap();
        assert!(check(folder.path()).unwrap_err().to_string().contains("trip-1 is heavier"));
    }

    #[cfg(unix)]
    #[test]
    fn the_script_is_a_shell_script() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.sh");
        script(&file).unwrap();
        start(Command::new("sh").arg("-n").arg(&file)).unwrap();
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
        start(command.arg("--descriptions").arg(folder.path()).arg("--out").arg(&out)).unwrap();
        let whole: serde_json::Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
        let results = whole["results"].as_array().unwrap();
        let measured = |r: &serde_json::Value| r["images_per_s"].as_f64().is_some_and(|v| v > 0.0);
        assert_eq!(results.len(), 4);
        assert!(results.iter().all(measured), "{whole}");
        // 4 filters of 3x3x3, and 4 weights and a bias for each of 10 classes.
        assert!(results.iter().all(|r| r["parameters"] == 4 * 27 + 50), "{whole}");
    }
}
