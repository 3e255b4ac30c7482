//! What cuDNN itself would choose on a GPU that is not here.
//!
//! Its rules need no device, only the properties of one. So the library from PyPI is asked, by the code that asks it on a GPU, for every
//! convolution of the networks that are measured: whether it has an engine, and of what kind. Nothing is computed.

use super::{Place, full};
use crate::run::{output, root, run as start};
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

/// cuDNN as PyTorch 2.11 for CUDA 13 has it, and what it opens.
const PACKAGES: [&str; 3] =
    ["nvidia-cudnn-cu13==9.19.0.56", "nvidia-cublas==13.1.0.3", "nvidia-cuda-nvrtc==13.0.88"];

/// The GPU of the table in the documentation.
const DOCUMENTED: &str = "h200";

/// Asks for a GPU, of which there is a file of properties, and compares the table with the documentation's; shows every engine with `list`.
pub fn check(place: &Place, gpu: &str, list: bool) -> Result<()> {
    let wheels = place.folder.join("cudnn-9.19.0.56");
    if let Err(why) = place.install(&[&["--no-deps"], &PACKAGES[..]].concat(), &wheels)? {
        println!("engines: skipped: {why}");
        return Ok(());
    }
    let [suite] = full::programs(place, [full::SUITE])?;
    let folder = place.folder.join("absent");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let here = root().join("xtask/src/check_cuda");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]).arg(folder.join("libcuda.so.1"));
    start(compiler.arg(here.join("absent.c")))?;
    let mut suite = Command::new(suite);
    suite
        .arg("engines")
        .arg("--properties")
        .arg(here.join(gpu).with_extension("json"))
        .arg("--libraries")
        .arg(&wheels);
    if list {
        suite.arg("--list");
    }
    let said = output(suite.env("LD_LIBRARY_PATH", &folder))?;
    print!("{said}");
    if gpu != DOCUMENTED {
        return Ok(());
    }
    let docs = root().join("docs/cuda.md");
    let docs = fs::read_to_string(&docs).with_context(|| format!("cannot read {}", docs.display()))?;
    let rows = said.lines().filter(|line| line.starts_with('|'));
    let lacks: Vec<&str> = rows.filter(|row| !docs.contains(*row)).collect();
    if !lacks.is_empty() {
        bail!("docs/cuda.md lacks\n{}", lacks.join("\n"));
    }
    Ok(())
}
