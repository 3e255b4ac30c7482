//! Starting other programs.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program ended with another code than 0.
#[derive(Debug)]
pub struct Failed {
    /// What was started.
    pub program: String,
    /// Its code, or 1 if a signal ended it.
    pub code: i32,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with code {}", self.program, self.code)
    }
}

impl std::error::Error for Failed {}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{program}`"))?;
    if status.success() { Ok(()) } else { Err(Failed { program, code: status.code().unwrap_or(1) }.into()) }
}

/// Runs a command and returns what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        return Err(Failed { program, code: output.status.code().unwrap_or(1) }.into());
    }
    String::from_utf8(output.stdout).context("output is not text")
}

/// The root of this repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Builds `dkd` in release mode and returns its path.
pub fn build_dkd(features: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["build", "--release", "-p", "dkd-cli"]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    run(&mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release").join(format!("dkd{}", std::env::consts::EXE_SUFFIX)))
}
