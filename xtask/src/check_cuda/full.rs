//! Programs with the feature `cuda`, for a computer that has a GPU.

use super::Place;
use super::stand_in::Programs;
use super::toolkit::Toolkit;
use crate::run::{output, run as start};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// NVIDIA's compiler and headers; what newer ones write is too new for driver 580.
const PACKAGE: &str = "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]==13.0.2";

/// A program of this workspace.
pub struct Program {
    package: &'static str,
    /// `bin` or `example`.
    kind: &'static str,
    name: &'static str,
    /// What turns CUDA on.
    pub feature: &'static str,
}

/// The command.
pub const DKD: Program = Program { package: "dkd-cli", kind: "bin", name: "dkd", feature: "dkd-cli/cuda" };
/// What looks for a device and tries it.
const EXAMPLE: Program =
    Program { package: "dkd-kernels", kind: "example", name: "cuda_device", feature: "dkd-kernels/cuda" };
/// All checks and measurements.
pub const SUITE: Program =
    Program { package: "dkd-gpu-suite", kind: "bin", name: "dkd-gpu-suite", feature: "dkd-gpu-suite/cuda" };

/// Builds `dkd` and an example that looks for a device, and checks that both start here.
pub fn build(place: &Place) -> Result<()> {
    let [dkd, example] = programs(place, [DKD, EXAMPLE])?;
    start(Command::new(&dkd).arg("--version"))?;
    finds_no_device(&example)
}

/// Builds these two and the suite.
pub fn all(place: &Place) -> Result<Programs> {
    let [dkd, example, suite] = programs(place, [DKD, EXAMPLE, SUITE])?;
    Ok(Programs { dkd, example, suite })
}

/// Builds programs, which must need none of CUDA's libraries before they start.
pub fn programs<const N: usize>(place: &Place, all: [Program; N]) -> Result<[PathBuf; N]> {
    let wheels = place.folder.join("cuda-toolkit-13.0.2");
    if let Err(why) = place.install(&[PACKAGE], &wheels)? {
        bail!("{why}");
    }
    let compiler = wheels.join("nvidia/cu13/bin/nvcc");
    let toolkit = Toolkit::with(place, compiler)?;
    let mut cargo = place.cargo("build", &toolkit);
    cargo.arg("--release");
    for program in &all {
        cargo.args(["-p", program.package, &format!("--{}", program.kind), program.name]);
        cargo.args(["--features", program.feature]);
    }
    start(&mut cargo)?;
    let made = place.folder.join(&toolkit.name).join(&place.host).join("release");
    let made = all.map(|program| match program.kind {
        "example" => made.join("examples").join(program.name),
        _ => made.join(program.name),
    });
    for program in &made {
        let needed = needed(&output(Command::new("readelf").arg("-d").arg(program))?);
        if let Some(library) = needed.iter().find(|name| is_cudas(name)) {
            bail!("{} needs {library} before it starts", program.display());
        }
        println!("{} needs {}", program.display(), needed.join(", "));
    }
    Ok(made)
}

/// The example either finds a device or says that there is none.
fn finds_no_device(example: &Path) -> Result<()> {
    let done =
        Command::new(example).output().with_context(|| format!("cannot start {}", example.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    print!("{}{said}", String::from_utf8_lossy(&done.stdout));
    if !done.status.success() && !said.contains("no CUDA device") {
        bail!("the example should have found a device, or said that there is none");
    }
    Ok(())
}

/// Libraries without which a program does not start.
fn needed(readelf: &str) -> Vec<String> {
    let lines = readelf.lines().filter(|line| line.contains("(NEEDED)"));
    let name = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    lines.filter_map(name).collect()
}

fn is_cudas(library: &str) -> bool {
    ["libcu", "libnv"].iter().any(|start| library.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_are_found() {
        let text = " 0x01 (NEEDED)  Shared library: [libcudart.so.13]\n 0x0e (SONAME) [x]\n\
            0x01 (NEEDED) Shared library: [libc.so.6]\n";
        assert_eq!(needed(text), ["libcudart.so.13", "libc.so.6"]);
        assert!(is_cudas("libcudart.so.13") && is_cudas("libnvrtc.so.13") && !is_cudas("libc.so.6"));
    }
}
