//! Tensors are on the CPU, where every machine reads and writes them.

use super::Emulated;
use crate::gpu::error::{GpuError, Result};
use crate::gpu::memory::View;
use crate::gpu::tensors::TensorMachine;
use candle_core::{Device, Tensor};

fn elsewhere() -> GpuError {
    let message = "the tensor is not on the CPU".to_owned();
    GpuError::Shape { operation: "tensor", message }
}

impl TensorMachine for Emulated {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn write_own(&self, _: &View, _: &Tensor) -> Result<()> {
        Err(elsewhere())
    }

    fn read_own(&self, _: &Tensor, _: &View) -> Result<()> {
        Err(elsewhere())
    }
}
