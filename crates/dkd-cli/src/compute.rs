//! What was asked to compute on.

use crate::args::Common;
use anyhow::{Result, bail};
use dkd_engine::Precision;
use dkd_kernels::Cpu;
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_trainer::{Arithmetic, Compute, Gpu};

/// Threads, and the device if it is not the CPU.
///
/// # Errors
/// This program was built without CUDA; there is no such device, or something that it needs.
pub fn compute(common: &Common) -> Result<Compute> {
    let cpu = Cpu::new(common.threads)?;
    let Some(ordinal) = common.device.strip_prefix("cuda") else {
        if common.cuda_algorithms != Algorithms::Ruled.name() {
            bail!("--cuda-algorithms is about a CUDA device; give --device cuda as well");
        }
        return Ok(Compute { cpu, gpu: None, precision: precision(common)? });
    };
    let arithmetic = arithmetic(&common.precision)?;
    let ordinal: usize = ordinal.strip_prefix(':').map_or(Ok(0), str::parse)?;
    Ok(Compute { cpu, gpu: Some(gpu(ordinal, common, arithmetic)?), precision: Precision::F32 })
}

/// In what networks on the CPU keep their maps.
///
/// # Errors
/// There is no such kind on the CPU.
pub fn precision(common: &Common) -> Result<Precision> {
    match arithmetic(&common.precision)? {
        Arithmetic::F32 => Ok(Precision::F32),
        Arithmetic::Bf16 => Ok(Precision::Bf16),
        Arithmetic::Tf32 => bail!("--precision tf32: CPUs have no such products; give --device cuda as well"),
    }
}

fn arithmetic(name: &str) -> Result<Arithmetic> {
    Ok(match name {
        "f32" => Arithmetic::F32,
        "tf32" => Arithmetic::Tf32,
        "bf16" => Arithmetic::Bf16,
        other => bail!("there is no precision `{other}`; expected f32, tf32 or bf16"),
    })
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize, common: &Common, arithmetic: Arithmetic) -> Result<Gpu> {
    use anyhow::Context;
    use dkd_kernels::gpu::{Cuda, CudaOptions, GpuError, Machine};
    let algorithms = Algorithms::named(&common.cuda_algorithms).unwrap_or_default();
    let libraries = common.cuda_libraries.as_deref();
    let options = CudaOptions { ordinal, libraries, algorithms, in_turn: false };
    let machine = Cuda::with(options).map_err(|e| match e {
        GpuError::NoDevice(why) => anyhow::anyhow!("no CUDA device: {why}"),
        other => other.into(),
    });
    let machine = machine.with_context(|| format!("device `{}`", common.device))?;
    tracing::info!("computing on {}", machine.name());
    Ok(Gpu { machine: std::sync::Arc::new(machine), arithmetic, recorded: true })
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize, common: &Common, _: Arithmetic) -> Result<Gpu> {
    bail!(
        "device `{}`: this program was built for the CPU only; build it with `--features cuda` (docs/cuda.md), or leave --device \
         out",
        common.device
    )
}
