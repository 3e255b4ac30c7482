//! Where `dkd` computes: options that are passed on to it, and the program that they need.

use crate::check_cuda::{Place, full};
use crate::run::build_dkd;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, clap::Args)]
pub struct Device {
    /// Where to compute: cpu, cuda or cuda:N; anything but cpu builds `dkd` with CUDA, without a toolkit if there is none
    /// (docs/cuda.md)
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// Products and maps on a CUDA device: f32, tf32 or bf16
    #[arg(long, value_name = "KIND")]
    precision: Option<String>,
    /// Python environment or folder with NVIDIA's libraries, if they are not the system's
    #[arg(long, value_name = "DIR")]
    cuda_libraries: Option<PathBuf>,
    /// Convolutions on a CUDA device: by cuDNN's rules, or those that are measured once to be fastest: of those that give the same bits in
    /// every run, or of all
    #[arg(long, value_name = "KIND", value_parser = ["rules", "measured", "fastest"])]
    cuda_algorithms: Option<String>,
}

impl Device {
    /// Builds `dkd` for it, in release mode.
    pub fn dkd(&self) -> Result<PathBuf> {
        if self.device == "cpu" {
            return build_dkd(&[]);
        }
        let found = compiler(|name| std::env::var_os(name), Path::is_file);
        if let Some(nvcc) = found {
            println!("building dkd with {}", nvcc.display());
            return build_dkd(&["cuda"]);
        }
        println!(
            "no CUDA toolkit is here (CUDA_HOME, PATH): building dkd with NVIDIA's compiler from PyPI, which takes minutes"
        );
        let [dkd] = full::programs(&Place::new(Path::new("python3"))?, [full::DKD])
            .context("building without a CUDA toolkit; with one, name its folder in CUDA_HOME")?;
        Ok(dkd)
    }

    /// Passes the options on.
    pub fn pass(&self, command: &mut Command) {
        command.args(["--device", &self.device]);
        if let Some(kind) = &self.precision {
            command.args(["--precision", kind]);
        }
        if let Some(kind) = &self.cuda_algorithms {
            command.args(["--cuda-algorithms", kind]);
        }
        if let Some(folder) = &self.cuda_libraries {
            // `dkd` may run in another folder.
            command
                .arg("--cuda-libraries")
                .arg(std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
        }
    }
}

/// NVIDIA's compiler in a toolkit, where the build of candle's kernels looks for it.
fn compiler(variable: impl Fn(&str) -> Option<OsString>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let named = variable("NVCC").map(PathBuf::from);
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(&variable).map(|home| Path::new(&home).join("bin"));
    let path = variable("PATH").unwrap_or_default();
    let folders = homes.chain(std::env::split_paths(&path)).chain([PathBuf::from("/usr/local/cuda/bin")]);
    named.into_iter().chain(folders.map(|folder| folder.join("nvcc"))).find(|file| exists(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_found_where_the_build_finds_them() {
        let variables = [("CUDA_HOME", "/opt/cuda"), ("PATH", "/usr/bin:/else/bin")];
        let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        let only = |file: &'static str| compiler(of, move |f| f == Path::new(file));
        for there in ["/opt/cuda/bin/nvcc", "/else/bin/nvcc", "/usr/local/cuda/bin/nvcc"] {
            assert_eq!(only(there), Some(PathBuf::from(there)));
        }
        assert_eq!(only("/somewhere/nvcc"), None);
        // The first of several, and one that is named before all.
        assert_eq!(compiler(of, |_| true), Some("/opt/cuda/bin/nvcc".into()));
        let named = |name: &str| (name == "NVCC").then(|| OsString::from("/my/nvcc"));
        assert_eq!(compiler(named, |_| true), Some("/my/nvcc".into()));
    }
}
