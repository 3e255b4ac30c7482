//! The device that was asked for.

use crate::engines::Ask;
#[cfg(feature = "cuda")]
use crate::engines::Asked;
use anyhow::{Context, Result, bail};
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_kernels::gpu::{Emulated, GpuError, Machine, TensorMachine};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Opens `cuda`, `cuda:N` or `emulated`; `libraries` is where NVIDIA's are, if not where the system has them. With `in_turn` no kernel begins
/// before the one ahead of it has ended.
///
/// # Errors
/// There is no such device, or something that it needs; this program was built without CUDA.
pub fn open(
    name: &str,
    libraries: Option<&Path>,
    algorithms: Algorithms,
    in_turn: bool,
) -> Result<Arc<dyn TensorMachine>> {
    if name == "emulated" {
        return match Emulated::new() {
            Ok(machine) => Ok(Arc::new(machine)),
            Err(GpuError::NoDevice(why)) => bail!("the kernels cannot be emulated: {why}"),
            Err(e) => Err(e.into()),
        };
    }
    let rest = name.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let ordinal = match rest {
        Some("") => Some(0),
        Some(number) => number.parse::<usize>().ok(),
        None => None,
    };
    let Some(ordinal) = ordinal else {
        bail!("--device {name}: expected `cuda`, `cuda:N` or `emulated`");
    };
    let machine =
        cuda(ordinal, libraries, algorithms, in_turn).with_context(|| format!("device `{name}`"))?;
    Ok(machine)
}

/// The machine's name and memory, and which of NVIDIA's libraries this process has opened, for people.
///
/// # Errors
/// The driver's.
pub fn described(machine: &dyn Machine) -> Result<String> {
    let (free, total) = machine.free_memory()?;
    let mut text = format!("{}; {} of {} MB are free", machine.name(), free >> 20, total >> 20);
    // Without /proc nothing is known of them.
    for library in opened(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        text.push_str(&format!("\n  {library}"));
    }
    Ok(text)
}

/// cuDNN's version, and what asks it for engines on a device with these properties, which is not here; `libraries` is where NVIDIA's are.
///
/// # Errors
/// A library is missing, or does not understand the properties; this program was built without CUDA.
#[cfg(feature = "cuda")]
pub fn elsewhere(properties: &str, libraries: Option<&Path>) -> Result<(usize, Box<Ask<'static>>)> {
    let device = dkd_kernels::gpu::Elsewhere::new(properties, libraries)?;
    let version = device.version();
    let ask = move |asked: &Asked| {
        Ok(match asked {
            Asked::Pass { pass, convolution, accumulate } => device.engine(*pass, convolution, *accumulate),
            Asked::Fused { convolution, epilogue } => device.fused_engine(convolution, *epilogue),
        }?)
    };
    Ok((version, Box::new(ask)))
}

/// The same.
///
/// # Errors
/// This program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn elsewhere(_: &str, _: Option<&Path>) -> Result<(usize, Box<Ask<'static>>)> {
    bail!("no cuDNN: this program was built without CUDA; see docs/cuda.md")
}

/// NVIDIA's libraries in a process's map of memory.
fn opened(maps: &str) -> BTreeSet<String> {
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let theirs = ["libcuda.", "libcudnn", "libcublas", "libcurand", "libnvrtc", "libnvidia-"];
    let is_theirs = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        theirs.iter().any(|start| name.starts_with(start)) && name.contains(".so")
    };
    paths.filter(is_theirs).map(real).collect()
}

/// Where a library really is: a link's name says no version.
fn real(path: &str) -> String {
    let real = std::fs::canonicalize(path);
    real.map_or_else(|_| path.to_owned(), |real| real.display().to_string())
}

#[cfg(feature = "cuda")]
fn cuda(
    ordinal: usize,
    libraries: Option<&Path>,
    algorithms: Algorithms,
    in_turn: bool,
) -> Result<Arc<dyn TensorMachine>> {
    use dkd_kernels::gpu::{Cuda, CudaOptions};
    Ok(Arc::new(Cuda::with(CudaOptions { ordinal, libraries, algorithms, in_turn })?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: Option<&Path>, _: Algorithms, _: bool) -> Result<Arc<dyn TensorMachine>> {
    bail!("no CUDA device: this program was built without CUDA; see docs/cuda.md, or give --device emulated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nvidias_libraries_are_told() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 1 /opt/nvidia/cudnn/lib/libcudnn.so.9\n\
                    7f01-7f02 r--p 00001000 08:01 1 /opt/nvidia/cudnn/lib/libcudnn.so.9\n\
                    7f02-7f03 r-xp 00000000 08:01 2 /lib/libc.so.6\n\
                    7f03-7f04 r-xp 00000000 08:01 3 /lib/libcuda.so.580.1\n\
                    7f04-7f05 rw-p 00000000 00:00 0 [stack]\n\
                    7f05-7f06 r-xp 00000000 08:01 4 /usr/bin/libcudnn-tool\n";
        let all: Vec<_> = opened(maps).into_iter().collect();
        assert_eq!(all, ["/lib/libcuda.so.580.1", "/opt/nvidia/cudnn/lib/libcudnn.so.9"]);
    }

    #[test]
    fn other_devices_are_refused() {
        for name in ["cpu", "cuda:x", "cuda:-1", ""] {
            let message = open(name, None, Algorithms::Ruled, false).unwrap_err().to_string();
            assert!(message.contains("expected `cuda`"), "{name}: {message}");
        }
    }
}
