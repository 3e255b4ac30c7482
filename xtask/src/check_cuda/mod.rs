//! `cargo xtask check-cuda`: what can be checked of the CUDA build without a GPU, a driver and a toolkit.
//!
//! Everything that it makes lies in `check-cuda` in cargo's target folder, which may be kept: Rust code in a
//! target folder of its own, since its flags are others, and what was downloaded.

mod engines;
pub mod full;
mod kernels;
mod stand_in;
mod toolkit;
mod waits;

use crate::run::{cargo, output, run as start, target_folder};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use toolkit::Toolkit;

pub const EXAMPLES: &str = "\
Examples:
  cargo xtask check-cuda
      the Rust code with lints, and the kernels with NVIDIA's compiler
  cargo xtask check-cuda --no-kernels
      the Rust code only: nothing is downloaded
  cargo xtask check-cuda --build
      then also `dkd` in release mode, to be carried to a computer with a GPU
  cargo xtask check-cuda --run
      then also what a GPU would be asked, in small, with the processor in its place
  cargo xtask check-cuda --engines
      then also which engines cuDNN has for the convolutions of all measured networks on an H200, asked of cuDNN without one
  cargo xtask check-cuda --engines --gpu rtx4090
      the same for another GPU
  cargo xtask check-cuda --sanitize
      then also every access of the kernels, and of branches of recorded steps, in the tests on the emulated machine";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the kernels out
    #[arg(long)]
    no_kernels: bool,
    /// Compile the kernels in any case, and list what each takes and how often it waits for memory; list engines
    #[arg(long, conflicts_with = "no_kernels")]
    list: bool,
    /// Check tests and examples too
    #[arg(long)]
    all_targets: bool,
    /// Build `dkd` with NVIDIA's compiler as well: takes minutes
    #[arg(long)]
    build: bool,
    /// Build as well, and run the programs with libraries in the place of NVIDIA's that compute on this computer: takes minutes
    #[arg(long)]
    run: bool,
    /// Build the suite as well, and ask cuDNN itself what it would choose on an H200: downloads 800 MB, which are kept
    #[arg(long)]
    engines: bool,
    /// The GPU that cuDNN is asked for; with another one than an H200 the table is printed, and compared with nothing
    #[arg(long, value_parser = ["h200", "a100", "rtx4090", "t4"], default_value = "h200", requires = "engines", value_name = "GPU")]
    gpu: String,
    /// Run the tests on the emulated machine, and look at every access of every thread: takes a quarter of an hour
    #[arg(long)]
    sanitize: bool,
    /// Python that has pip
    #[arg(long, default_value = "python3", value_name = "PYTHON")]
    python: PathBuf,
}

/// Where things are.
pub struct Place {
    /// All that this task makes.
    folder: PathBuf,
    python: PathBuf,
    /// This computer, as rustc calls it.
    host: String,
}

/// Checks, and says how long each part took.
pub fn run(args: &Args) -> Result<()> {
    let place = Place::new(&args.python)?;
    timed("Rust code", || {
        let toolkit = Toolkit::stand_in(&place)?;
        // Nothing is linked, so no flags are needed, and most of what other checks have made is used again.
        let mut clippy = cargo("clippy");
        toolkit.apply(&mut clippy);
        clippy.args(["--workspace", "--features", "dkd-cli/cuda,dkd-gpu-suite/cuda"]);
        if args.all_targets {
            clippy.arg("--all-targets");
        }
        start(clippy.args(["--", "-D", "warnings"]))
    })?;
    if !args.no_kernels {
        timed("kernels", || kernels::check(&place, args.list))?;
    }
    if args.build {
        timed("build", || full::build(&place))?;
    }
    if args.run {
        let programs = full::all(&place)?;
        timed("programs", || stand_in::run(&place, &programs))?;
    }
    if args.engines {
        timed("engines", || engines::check(&place, &args.gpu, args.list))?;
    }
    if args.sanitize {
        for tests in [&["--lib", "--", "gpu::"][..], &["--test", "gpu"]] {
            timed("accesses", || {
                start(cargo("test").arg("--workspace").args(tests).env("DKD_SANITIZE", "1"))
            })?;
        }
    }
    Ok(())
}

fn timed(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    work()?;
    println!("{what}: {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn host() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

impl Place {
    /// The usual one; `python` has pip.
    pub fn new(python: &Path) -> Result<Self> {
        let folder = target_folder(&mut cargo("metadata"))?.join("check-cuda");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, python: python.to_owned(), host: host()? })
    }

    /// A cargo command that takes `toolkit` for CUDA's.
    ///
    /// cudarc can open CUDA's libraries on first use, but candle asks for linking, and cudarc's build script
    /// refuses both together. Its library takes the first if both are set; so that is set for the library
    /// alone: with `--target`, build scripts get no such flags.
    fn cargo(&self, command: &str, toolkit: &Toolkit) -> Command {
        let mut cargo = cargo(command);
        let flags = r#"["--cfg", "feature=\"dynamic-loading\""]"#;
        cargo.args(["--target", &self.host]);
        cargo.args(["--config", &format!("target.{}.rustflags={flags}", self.host)]);
        // They would win over the flags above.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("CARGO_TARGET_DIR", self.folder.join(&toolkit.name));
        toolkit.apply(&mut cargo);
        cargo
    }

    /// Installs packages of Python's into a folder, which is then kept; why not, if that is impossible.
    fn install(&self, packages: &[&str], folder: &Path) -> Result<std::result::Result<(), String>> {
        let mark = folder.join("complete");
        if mark.exists() {
            return Ok(Ok(()));
        }
        let _ = std::fs::remove_dir_all(folder);
        let mut pip = Command::new(&self.python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
        pip.args(["--no-warn-script-location", "--root-user-action=ignore", "--only-binary=:all:"]);
        pip.arg("--target").arg(folder).args(packages);
        let done = match pip.output() {
            Ok(done) => done,
            Err(e) => return Ok(Err(format!("cannot start {}: {e}", self.python.display()))),
        };
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            let what = packages.last().copied().unwrap_or_default();
            return Ok(Err(format!("pip cannot install {what}: {last}")));
        }
        std::fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))?;
        Ok(Ok(()))
    }
}
