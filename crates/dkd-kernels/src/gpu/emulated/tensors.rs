//! Tensors on the CPU.

use super::Emulated;
use crate::gpu::error::{GpuError, Result, check};
use crate::gpu::machine::Machine;
use crate::gpu::memory::View;
use crate::gpu::tensors::TensorMachine;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};

/// Overwrites a tensor's storage.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "emulated-output"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = layout.contiguous_offsets();
        match (storage, range) {
            (CpuStorage::F32(data), Some((start, end))) if end - start == self.0.len() => {
                data[start..end].copy_from_slice(self.0);
                Ok(())
            }
            _ => candle_core::bail!("expected a contiguous f32 tensor of {} numbers", self.0.len()),
        }
    }
}

fn failed(call: &'static str, e: &candle_core::Error) -> GpuError {
    GpuError::Driver { call, message: e.to_string() }
}

impl TensorMachine for Emulated {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn to_tensor(&self, from: &View, tensor: &Tensor) -> Result<()> {
        const NAME: &str = "to_tensor";
        check(NAME, from.len() == tensor.elem_count(), || {
            format!("{} to {} numbers", from.len(), tensor.elem_count())
        })?;
        let mut bytes = vec![0_u8; from.bytes()];
        self.read(from, &mut bytes)?;
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensor.inplace_op1(&Overwrite(&values)).map_err(|e| failed(NAME, &e))
    }

    fn from_tensor(&self, tensor: &Tensor, to: &View) -> Result<()> {
        const NAME: &str = "from_tensor";
        check(NAME, to.len() == tensor.elem_count(), || {
            format!("{} to {} numbers", tensor.elem_count(), to.len())
        })?;
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| failed(NAME, &e))?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write(to, &bytes)
    }
}
