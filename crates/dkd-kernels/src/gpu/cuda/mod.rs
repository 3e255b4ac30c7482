//! A CUDA device.
//!
//! All work is on one stream, which is that of candle's tensors too: own kernels, compiled by NVRTC when the
//! machine is made, cuDNN's convolutions, and copies. Only branches of a recorded step, and what is aside or beside
//! all else, have streams of their own.
//! Nothing here has run on a GPU yet: see `docs/cuda.md`.

mod ahead;
mod branches;
mod compile;
mod cudnn;
mod errors;
mod heap;
mod kernels;
mod libraries;
mod record;
mod tensors;

use super::convolution::{Algorithms, Convolution, Epilogue, Fused, Pass};
use super::error::{GpuError, Result, check};
use super::launch::Launch;
use super::machine::{Machine, Recorded};
use super::memory::{Memory, Registry, View};
use branches::Branches;
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
pub use cudnn::Elsewhere;
use errors::Called;
use heap::{Ahead, Heap, Staging};
use kernels::Kernels;
use record::{Capture, Kept};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A CUDA device with candle's tensors, own kernels and cuDNN on one stream.
#[derive(Clone, Debug)]
pub struct Cuda {
    inner: Arc<Inner>,
}

/// Which device, and how it computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct CudaOptions<'a> {
    /// Its number.
    pub ordinal: usize,
    /// A Python environment, its `site-packages`, or a folder, with NVIDIA's libraries; else they are the
    /// system's.
    pub libraries: Option<&'a Path>,
    /// How cuDNN's convolutions are chosen.
    pub algorithms: Algorithms,
    /// Whether every kernel begins only when the one before it has ended, also where the device could begin it earlier.
    pub in_turn: bool,
}

// Fields are dropped in this order: what uses the device goes before it.
struct Inner {
    staging: Mutex<Staging>,
    cudnn: cudnn::Cudnn,
    kernels: Kernels,
    device: Device,
    heap: Arc<Heap>,
    memory: Registry,
    name: String,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").field("name", &self.name).field("heap", &self.heap).finish_non_exhaustive()
    }
}

impl Cuda {
    /// The device of this number, which gives the same results in every run.
    ///
    /// # Errors
    /// There is no driver, no such device, or a library is missing ([`GpuError::NoDevice`]); the kernels do
    /// not compile.
    pub fn new(ordinal: usize, libraries: Option<&Path>) -> Result<Self> {
        Self::with(CudaOptions { ordinal, libraries, ..CudaOptions::default() })
    }

    /// A device, as the options say.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn with(options: CudaOptions<'_>) -> Result<Self> {
        let driver = libraries::driver()?;
        present(options.ordinal)?;
        libraries::open_all(options.libraries)?;
        let device = Device::new_cuda_with_stream(options.ordinal).called("a CUDA stream for candle")?;
        let Device::Cuda(candle) = &device else {
            return Err(GpuError::NoDevice("candle has made another device".to_owned()));
        };
        // SAFETY: candle has one stream only. Events would wait for work outside of a recorded step, which
        // cannot be part of one.
        unsafe { candle.disable_event_tracking() };
        let heap = Arc::new(Heap::new(candle.cuda_stream()));
        let kernels = Kernels::new(&heap, &driver)?;
        let (major, minor) = heap.context.compute_capability().called("cuDeviceGetAttribute")?;
        let model = heap.context.name().called("cuDeviceGetName")?;
        let name = format!("{model}, compute capability {major}.{minor}");
        let cudnn = cudnn::Cudnn::new(&heap, (&name, driver_version()?), options.algorithms)?;
        let staging = Mutex::new(Staging::new(Arc::clone(&heap)));
        // The kernels keep functions of it.
        std::mem::forget(driver);
        let memory = Registry::default();
        let machine = Self { inner: Arc::new(Inner { staging, cudnn, kernels, device, heap, memory, name }) };
        if !options.in_turn && machine.inner.kernels.can_wait {
            machine.begin_ahead()?;
        }
        Ok(machine)
    }

    fn recorded(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>> {
        let capture = Capture::begin(&self.inner.heap)?;
        // Before the work, which may let go of what it has used; it gets no more.
        let memory = self.inner.memory.hold();
        // If it fails, what was recorded goes with `capture`.
        work()?;
        let (machine, workspaces) = (Arc::clone(&self.inner), self.inner.cudnn.workspaces());
        let kept = Kept { _machine: machine, _workspaces: workspaces, _memory: memory };
        Ok(Box::new(capture.finish(kept)?))
    }

    /// Lets kernels of recorded steps begin ahead of their time, if that works with this driver. Those after a library's are not tried, as that takes
    /// a convolution.
    fn begin_ahead(&self) -> Result<()> {
        self.inner.heap.set_ahead(Ahead::OfOwn);
        let why = match ahead::try_out(self) {
            Ok(true) => {
                // Unless they had to be recorded without.
                if self.inner.heap.ahead().0 == Ahead::OfOwn {
                    self.inner.heap.set_ahead(Ahead::OfAll);
                }
                return Ok(());
            }
            Ok(false) => "the results were others".to_owned(),
            Err(e) => e.to_string(),
        };
        self.inner.heap.set_ahead(Ahead::None);
        // If the device has failed, this says so.
        self.wait()?;
        tracing::warn!("{}, as beginning ahead of it does not work: {why}", Ahead::None);
        Ok(())
    }
}

/// Fails unless the driver starts and has a device of this number.
fn present(ordinal: usize) -> Result<()> {
    let why = |text: String| Err(GpuError::NoDevice(text));
    let count = match result::init().and_then(|()| CudaContext::device_count()) {
        Ok(count) => usize::try_from(count).unwrap_or_default(),
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
        Err(e) => return why(format!("the NVIDIA driver does not start: {e}")),
    };
    match count {
        0 => why("the NVIDIA driver finds no device".to_owned()),
        n if n <= ordinal => {
            why(format!("device {ordinal} does not exist; the driver finds {n}, counted from 0"))
        }
        _ => Ok(()),
    }
}

/// As the driver counts: 13000 for CUDA 13.0.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: it is written there.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().called("cuDriverGetVersion")?;
    Ok(version)
}

impl Machine for Cuda {
    fn name(&self) -> String {
        self.inner.name.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        let heap = &self.inner.heap;
        heap.not_recording("alloc")?;
        let block = heap.zeros(bytes)?;
        let memory = Memory::new(block.address, bytes, Arc::new(block));
        self.inner.memory.add(&memory);
        Ok(memory)
    }

    fn free_memory(&self) -> Result<(u64, u64)> {
        self.inner.heap.free_memory()
    }

    fn write(&self, to: &View, bytes: &[u8]) -> Result<()> {
        self.inner.heap.not_recording("write")?;
        check("write", to.bytes() == bytes.len(), || format!("{} bytes to {}", bytes.len(), to.bytes()))?;
        let mut staging = self.inner.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the view is inside its memory.
        unsafe { staging.write(to.address(), bytes) }
    }

    fn read(&self, from: &View, bytes: &mut [u8]) -> Result<()> {
        let heap = &self.inner.heap;
        heap.not_recording("read")?;
        check("read", from.bytes() == bytes.len(), || {
            format!("{} bytes from {}", bytes.len(), from.bytes())
        })?;
        let stream = heap.bound()?;
        if bytes.is_empty() {
            return heap.stream.synchronize().called("cuStreamSynchronize");
        }
        // SAFETY: the view is inside its memory, and `bytes` is borrowed until the copy is done: all paths
        // wait for that.
        let begun = unsafe { result::memcpy_dtoh_async(bytes, from.address(), stream) };
        let done = heap.stream.synchronize();
        begun.called("cuMemcpyDtoHAsync")?;
        done.called("cuStreamSynchronize")
    }

    fn copy(&self, from: &View, to: &View) -> Result<()> {
        let same = from.len() == to.len() && from.element() == to.element() && !from.overlaps(to);
        check("copy", same, || {
            format!("{} {:?} to {} {:?}", from.len(), from.element(), to.len(), to.element())
        })?;
        if from.bytes() == 0 {
            return Ok(());
        }
        let stream = self.inner.heap.bound()?;
        // SAFETY: both views are inside their memories.
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), from.bytes(), stream) }
            .called("cuMemcpyDtoDAsync")
    }

    fn clear(&self, view: &View) -> Result<()> {
        if view.bytes() == 0 {
            return Ok(());
        }
        let stream = self.inner.heap.bound()?;
        // SAFETY: the view is inside its memory.
        unsafe { result::memset_d8_async(view.address(), 0, view.bytes(), stream) }.called("cuMemsetD8Async")
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.inner.kernels.launch(launch.kernel, launch.parameters, launch.grid, launch.block) }
    }

    fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<bool> {
        self.inner.cudnn.prepare(pass, convolution)
    }

    fn algorithm(&self, pass: Pass, convolution: &Convolution) -> Option<String> {
        self.inner.cudnn.algorithm(pass, convolution)
    }

    unsafe fn convolve(
        &self,
        pass: Pass,
        convolution: &Convolution,
        operands: [&View; 3],
        accumulate: bool,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.inner.cudnn.run(pass, convolution, operands.map(View::address), accumulate) }
    }

    fn prepare_fused(&self, convolution: &Convolution, epilogue: Epilogue) -> Result<bool> {
        self.inner.cudnn.prepare_fused(convolution, epilogue)
    }

    fn fused_algorithm(&self, convolution: &Convolution, epilogue: Epilogue) -> Option<String> {
        self.inner.cudnn.fused_algorithm(convolution, epilogue)
    }

    unsafe fn convolve_fused(
        &self,
        convolution: &Convolution,
        epilogue: Epilogue,
        fused: &Fused<'_>,
    ) -> Result<()> {
        let operands: Vec<_> = fused.views().map(View::address).collect();
        // SAFETY: the caller's.
        unsafe { self.inner.cudnn.run_fused(convolution, epilogue, &operands) }
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>> {
        self.inner.heap.not_recording("record")?;
        self.inner.cudnn.prepare_lanes()?;
        let heap = &self.inner.heap;
        let (before, _) = heap.ahead();
        let mut first = None;
        loop {
            let why = match self.recorded(work) {
                Ok(recorded) => {
                    if let Some(why) = first {
                        tracing::warn!(
                            "{}, as a step could not be recorded otherwise: {why}",
                            heap.ahead().0
                        );
                    }
                    return Ok(recorded);
                }
                Err(why) => why,
            };
            // It may be for those that may begin ahead of their time: then once more with less of them.
            let less = match heap.ahead().1 {
                Ahead::OfAll => Ahead::OfOwn,
                Ahead::OfOwn => Ahead::None,
                Ahead::None => {
                    heap.set_ahead(before);
                    return Err(first.unwrap_or(why));
                }
            };
            heap.set_ahead(less);
            first.get_or_insert(why);
        }
    }

    fn prepare_branches(&self, n: usize) -> Result<()> {
        let heap = &self.inner.heap;
        heap.not_recording("prepare_branches")?;
        heap.prepare_branches(n);
        Ok(())
    }

    fn branches(&self, n: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let branches = Branches::begin(&self.inner.heap, n)?;
        for i in 0..n {
            branches.enter(i);
            work(i)?;
        }
        branches.finish()
    }

    fn aside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        let heap = &self.inner.heap;
        let Some(number) = heap.begin_aside()? else { return work().map(|()| 0) };
        let done = work();
        heap.end_aside()?;
        done.map(|()| number)
    }

    fn rejoin(&self, number: usize) -> Result<()> {
        self.inner.heap.rejoin(number)
    }

    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let heap = &self.inner.heap;
        if !heap.begin_beside()? {
            return work();
        }
        let done = work();
        heap.end_beside();
        done
    }

    fn wait(&self) -> Result<()> {
        let heap = &self.inner.heap;
        heap.not_recording("wait")?;
        heap.bound()?;
        heap.stream.synchronize().called("cuStreamSynchronize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_the_error_says_what_is_missing() {
        match Cuda::new(0, None) {
            Ok(cuda) => assert!(!cuda.name().is_empty()),
            Err(GpuError::NoDevice(why)) => assert!(why.contains("driver") || why.contains("lib"), "{why}"),
            Err(e) => panic!("{e}"),
        }
    }
}
