//! What stands in for a CUDA toolkit.

use super::Place;
use crate::run::run as start;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The CUDA that cudarc's bindings are made for: what torch's wheels bring, and driver 580 and later take.
const VERSION: &str = "13000";

/// Libraries that the linker is told of. With run-time loading it needs nothing of them, and leaves them out.
const LIBRARIES: [&str; 7] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "cudnn", "cudart"];

/// A folder in the form of a toolkit.
pub struct Toolkit {
    /// Of what is built with it.
    pub name: String,
    root: PathBuf,
    /// NVIDIA's compiler, if it is there.
    real: Option<PathBuf>,
}

impl Toolkit {
    /// One whose compiler makes empty files: enough to check Rust code.
    pub fn stand_in(place: &Place) -> Result<Self> {
        Self::new(place, "check", None)
    }

    /// One with NVIDIA's compiler, except for kernels that nothing here uses.
    pub fn with(place: &Place, compiler: PathBuf) -> Result<Self> {
        let toolkit = Self::new(place, "build", Some(compiler))?;
        for library in LIBRARIES {
            let file = toolkit.root.join("lib64").join(format!("lib{library}.so"));
            let mut cc = Command::new("cc");
            cc.args(["-shared", "-x", "c", "/dev/null", "-o"]).arg(&file);
            start(&mut cc)?;
        }
        Ok(toolkit)
    }

    fn new(place: &Place, name: &str, real: Option<PathBuf>) -> Result<Self> {
        let root = place.folder.join(format!("{name}-toolkit"));
        for folder in ["bin", "lib64", "include"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        executable(&root.join("bin/nvcc"), include_str!("nvcc.sh"))?;
        Ok(Self { name: name.to_owned(), root, real })
    }

    /// Makes a command find this toolkit.
    pub fn apply(&self, command: &mut Command) {
        let bin = self.root.join("bin");
        let mut path = OsString::from(&bin);
        if let Some(old) = std::env::var_os("PATH") {
            path.push(":");
            path.push(old);
        }
        command.env("PATH", path).env("NVCC", bin.join("nvcc"));
        command.env("CUDA_HOME", &self.root).env("CUDA_PATH", &self.root);
        command.env("CUDARC_CUDA_VERSION", VERSION);
        // candle's own kernels become text for this one, which the driver translates for it and later ones.
        command.env("CUDA_COMPUTE_CAP", "80");
        match &self.real {
            Some(real) => command.env("REAL_NVCC", real),
            None => command.env_remove("REAL_NVCC"),
        };
    }
}

/// Writes a program, unless it is there: a newer file would be a reason to build again.
fn executable(path: &Path, text: &str) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(cannot)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(cannot)?;
    }
    Ok(())
}
