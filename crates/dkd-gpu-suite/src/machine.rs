//! The device that was asked for.

use anyhow::{Context, Result, bail};
use dkd_kernels::gpu::{Emulated, GpuError, Machine, TensorMachine};
use std::path::Path;
use std::sync::Arc;

/// Opens `cuda`, `cuda:N` or `emulated`; `libraries` is where NVIDIA's are, if not where the system has them. With `fastest` cuDNN takes its
/// fastest convolutions, whose bits may differ from run to run.
///
/// # Errors
/// There is no such device, or something that it needs; this program was built without CUDA.
pub fn open(name: &str, libraries: Option<&Path>, fastest: bool) -> Result<Arc<dyn TensorMachine>> {
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
    let machine = cuda(ordinal, libraries, fastest).with_context(|| format!("device `{name}`"))?;
    Ok(machine)
}

/// The machine's name and memory, for people.
///
/// # Errors
/// The driver's.
pub fn described(machine: &dyn Machine) -> Result<String> {
    let (free, total) = machine.free_memory()?;
    Ok(format!("{}; {} of {} MB are free", machine.name(), free >> 20, total >> 20))
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, libraries: Option<&Path>, fastest: bool) -> Result<Arc<dyn TensorMachine>> {
    use dkd_kernels::gpu::{Cuda, CudaOptions};
    Ok(Arc::new(Cuda::with(CudaOptions { ordinal, libraries, fastest })?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: Option<&Path>, _: bool) -> Result<Arc<dyn TensorMachine>> {
    bail!("no CUDA device: this program was built without CUDA; see docs/cuda.md, or give --device emulated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_devices_are_refused() {
        for name in ["cpu", "cuda:x", "cuda:-1", ""] {
            let message = open(name, None, false).unwrap_err().to_string();
            assert!(message.contains("expected `cuda`"), "{name}: {message}");
        }
    }
}
