//! Where kernels meet candle's tensors.

use super::error::{GpuError, Result, check};
use super::machine::Machine;
use super::memory::{Element, View};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};

/// A machine on whose memory candle has tensors as well.
pub trait TensorMachine: Machine {
    /// Where candle makes tensors in this machine's memory.
    fn device(&self) -> &Device;

    /// Overwrites all of a tensor on [`TensorMachine::device`]; lengths and types are checked already.
    ///
    /// # Errors
    /// It is not contiguous; the driver's.
    fn write_own(&self, from: &View, tensor: &Tensor) -> Result<()>;

    /// Reads all of a tensor on [`TensorMachine::device`]; lengths and types are checked already.
    ///
    /// # Errors
    /// The driver's; a step is being recorded.
    fn read_own(&self, tensor: &Tensor, to: &View) -> Result<()>;

    /// Overwrites all of a contiguous tensor, on the CPU or on this machine's device, in f32, with as many numbers.
    ///
    /// # Errors
    /// It is elsewhere, not contiguous, of another type or length; a step is being recorded.
    fn write_tensor(&self, from: &View, tensor: &Tensor) -> Result<()> {
        const NAME: &str = "write_tensor";
        fit(NAME, from, tensor)?;
        if !tensor.device().is_cpu() {
            return self.write_own(from, tensor);
        }
        let values = self.read_floats(from)?;
        tensor.inplace_op1(&Overwrite(&values)).map_err(|e| failed(NAME, &e))
    }

    /// Reads all of a tensor, on the CPU or on this machine's device, in f32, in the order of its elements.
    ///
    /// # Errors
    /// It is elsewhere, of another type or length; a step is being recorded.
    fn read_tensor(&self, tensor: &Tensor, to: &View) -> Result<()> {
        const NAME: &str = "read_tensor";
        fit(NAME, to, tensor)?;
        if !tensor.device().is_cpu() {
            return self.read_own(tensor, to);
        }
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| failed(NAME, &e))?;
        self.write_floats(to, &values)
    }
}

/// Fails unless view and tensor are as many numbers in f32.
fn fit(name: &'static str, view: &View, tensor: &Tensor) -> Result<()> {
    let same = tensor.elem_count() == view.len();
    check(name, same && tensor.dtype() == DType::F32 && view.element() == Element::F32, || {
        let (count, dtype) = (tensor.elem_count(), tensor.dtype());
        format!("a tensor of {count} {dtype:?} and {} {:?}", view.len(), view.element())
    })
}

pub(super) fn failed(call: &'static str, e: &candle_core::Error) -> GpuError {
    GpuError::Driver { call, message: e.to_string() }
}

/// Overwrites a tensor's storage.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "device-output"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(data), Some((start, end))) if end - start == self.0.len() => {
                data[start..end].copy_from_slice(self.0);
                Ok(())
            }
            _ => candle_core::bail!("expected a contiguous f32 tensor of {} numbers", self.0.len()),
        }
    }
}
