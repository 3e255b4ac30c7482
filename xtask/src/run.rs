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
    let mut command = cargo("build");
    command.args(["--release", "-p", "dkd-cli"]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    run(&mut command)?;
    let target = target_folder(&mut cargo("metadata"))?;
    Ok(target.join("release").join(format!("dkd{}", std::env::consts::EXE_SUFFIX)))
}

/// A command that builds an example of `package` in release mode and runs it.
pub fn example(package: &str, name: &str) -> Command {
    let mut command = cargo("run");
    command.args(["--release", "--quiet", "-p", package, "--example", name, "--"]);
    command
}

/// A cargo command for this repository. It runs in the caller's folder, as the cargo that started this program did: a
/// relative target folder then means the same to both. What `cargo xtask` says of this package is not passed on: some build
/// scripts (ring's) take a change of these variables for a change of theirs, and so half of all would be built again.
pub fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).arg("--manifest-path").arg(root().join("Cargo.toml"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Where cargo puts what it builds, from `cargo metadata`: it alone knows the environment and all configuration files.
pub fn target_folder(metadata: &mut Command) -> Result<PathBuf> {
    let told = told_by(metadata.arg("--no-deps"))?;
    let folder = told["target_directory"].as_str().context("`cargo metadata` names no target_directory")?;
    Ok(folder.into())
}

/// What `cargo metadata` tells.
pub fn told_by(metadata: &mut Command) -> Result<serde_json::Value> {
    let text = output(metadata.args(["--format-version", "1"]))?;
    serde_json::from_str(&text).context("`cargo metadata` does not print JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_command_knows_nothing_of_this_package() {
        // Cargo sets it for tests as for `cargo xtask`.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "run by cargo");
        let command = cargo("build");
        assert!(command.get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none()));
    }

    #[test]
    fn the_target_folder_is_cargos() {
        let caller = root().join("xtask");
        let asked = |variable: Option<&Path>| {
            let mut command = cargo("metadata");
            command.current_dir(&caller).env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
            if let Some(folder) = variable {
                command.env("CARGO_TARGET_DIR", folder);
            }
            target_folder(&mut command).unwrap()
        };
        assert_eq!(asked(Some(Path::new("some/where"))), caller.join("some/where"));
        let absolute = root().join("else/where");
        assert_eq!(asked(Some(&absolute)), absolute);
        assert!(asked(None).is_absolute());
    }
}
