//! candle's tensors on the same stream.

use super::Cuda;
use super::errors::Called;
use crate::gpu::error::{Result, check};
use crate::gpu::memory::{Element, View};
use crate::gpu::tensors::TensorMachine;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, result};
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};

/// Overwrites a tensor with what lies at an address.
struct Overwrite<'a> {
    machine: &'a Cuda,
    from: &'a View,
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "dkd-output"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("the tensor is on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the tensor is not contiguous")
        };
        let slice = storage.as_cuda_slice_mut::<f32>()?;
        if end > slice.len() || end - start != self.from.len() {
            candle_core::bail!("{} numbers do not fit {start} to {end} of {}", self.from.len(), slice.len())
        }
        let heap = &self.machine.inner.heap;
        let (address, _written) = slice.device_ptr_mut(&heap.stream);
        let to = address + (start * size_of::<f32>()) as u64;
        let stream = heap.bound().map_err(candle_core::Error::wrap)?;
        // SAFETY: both are memory of this device, as large, and in use on this stream only.
        unsafe { result::memcpy_dtod_async(to, self.from.address(), self.from.bytes(), stream) }
            .map_err(candle_core::Error::wrap)
    }
}

impl Cuda {
    /// Fails unless the tensor is this device's, and view and tensor are as many numbers in f32.
    fn fits(&self, name: &'static str, tensor: &Tensor, view: &View) -> Result<()> {
        let own = match (tensor.device(), self.device()) {
            (Device::Cuda(a), Device::Cuda(b)) => a.id() == b.id(),
            _ => false,
        };
        check(name, own, || "the tensor is on another device".to_owned())?;
        let same = tensor.elem_count() == view.len();
        check(name, same && tensor.dtype() == DType::F32 && view.element() == Element::F32, || {
            let (count, dtype) = (tensor.elem_count(), tensor.dtype());
            format!("a tensor of {count} {dtype:?} and {} {:?}", view.len(), view.element())
        })
    }
}

impl TensorMachine for Cuda {
    fn device(&self) -> &Device {
        &self.inner.device
    }

    fn to_tensor(&self, from: &View, tensor: &Tensor) -> Result<()> {
        self.inner.heap.not_recording("to_tensor")?;
        self.fits("to_tensor", tensor, from)?;
        tensor.inplace_op1(&Overwrite { machine: self, from }).called("to_tensor")
    }

    fn from_tensor(&self, tensor: &Tensor, to: &View) -> Result<()> {
        const NAME: &str = "from_tensor";
        self.inner.heap.not_recording(NAME)?;
        self.fits(NAME, tensor, to)?;
        let tensor = tensor.contiguous().called(NAME)?;
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            return check(NAME, false, || "the tensor is not contiguous".to_owned());
        };
        let slice = storage.as_cuda_slice::<f32>().called(NAME)?;
        check(NAME, end <= slice.len() && end - start == to.len(), || format!("{start} to {end}"))?;
        let heap = &self.inner.heap;
        let stream = heap.bound()?;
        let (address, _read) = slice.device_ptr(&heap.stream);
        let from = address + (start * size_of::<f32>()) as u64;
        // SAFETY: both are memory of this device, as large; what candle frees of it is freed on this stream,
        // later.
        unsafe { result::memcpy_dtod_async(to.address(), from, to.bytes(), stream) }
            .called("cuMemcpyDtoDAsync")
    }
}
