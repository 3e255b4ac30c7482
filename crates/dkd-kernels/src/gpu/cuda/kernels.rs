//! Compiled kernels on a device, found by name.

use super::compile::Compiled;
use super::errors::Called;
use super::heap::Heap;
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use libloading::os::unix::Library;
use std::collections::HashMap;
use std::env;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Where compiled kernels lie for this user, if that is known.
pub(super) fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("dkd").join("kernels"))
}

type ParameterInfo = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> sys::CUresult;
type LoadFunction = unsafe extern "C" fn(sys::CUfunction) -> sys::CUresult;

#[derive(Debug)]
pub(super) struct Kernels {
    heap: Arc<Heap>,
    module: sys::CUmodule,
    /// Whether the text is made for kernels that begin ahead of their time.
    pub can_wait: bool,
    found: Mutex<HashMap<&'static str, Kernel>>,
    /// Calls that the driver has from CUDA 12.4 on.
    parameter_info: Option<ParameterInfo>,
    load: Option<LoadFunction>,
}

#[derive(Clone, Copy, Debug)]
struct Kernel {
    function: sys::CUfunction,
    /// Bytes of its parameters, if the driver tells.
    bytes: Option<usize>,
}

// SAFETY: the driver takes its handles from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above; the map has a lock.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Compiles the text for the device and loads it.
    pub fn new(heap: &Arc<Heap>, driver: &Library) -> Result<Self> {
        let capability = heap.context.compute_capability().called("cuDeviceGetAttribute")?;
        let mut compiled = Compiled::new(capability)?;
        heap.bound()?;
        let mut module = load(&compiled.image);
        if module.is_err() && compiled.found {
            compiled.again()?;
            module = load(&compiled.image);
        }
        // SAFETY: these are the types in the driver's header.
        let (parameter_info, load) = unsafe {
            let info = driver.get::<ParameterInfo>(b"cuFuncGetParamInfo\0").ok().map(|f| *f);
            (info, driver.get::<LoadFunction>(b"cuFuncLoad\0").ok().map(|f| *f))
        };
        let module = module.called("cuModuleLoadData")?;
        let (heap, can_wait) = (Arc::clone(heap), compiled.of >= 90);
        Ok(Self { heap, module, can_wait, found: Mutex::default(), parameter_info, load })
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// What it reads and writes is alive.
    pub unsafe fn launch(
        &self,
        name: &'static str,
        parameters: &[u8],
        [gx, gy, gz]: [u32; 3],
        [bx, by, bz]: [u32; 3],
    ) -> Result<()> {
        let (stream, ahead) = self.heap.bound_for_kernel()?;
        let kernel = self.kernel(name)?;
        let wrong = |message: String| GpuError::Kernel { name, message };
        if let Some(bytes) = kernel.bytes.filter(|bytes| *bytes != parameters.len()) {
            return Err(wrong(format!("its parameters are {bytes} bytes, not {}", parameters.len())));
        }
        let mut pointers = [parameters.as_ptr().cast_mut().cast::<c_void>()];
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: &raw mut early,
            numAttrs: u32::from(ahead),
        };
        // SAFETY: the kernel has one parameter, of as many bytes, which the driver copies before it returns, as it does the attributes.
        let done = unsafe {
            let pointers = pointers.as_mut_ptr();
            sys::cuLaunchKernelEx(&raw const config, kernel.function, pointers, std::ptr::null_mut())
        };
        done.result().map_err(|e| wrong(format!("{gx}x{gy}x{gz} blocks of {bx}x{by}x{bz} threads: {e}")))
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = found.get(name) {
            return Ok(*kernel);
        }
        // Loading is a call that the driver forbids while this thread records, unless it is told that it does
        // not matter.
        let _relaxed = Relaxed::new()?;
        let wrong = |message: String| GpuError::Kernel { name, message };
        let c_name = CString::new(name).map_err(|e| wrong(e.to_string()))?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.module, c_name) };
        let function = function.map_err(|e| wrong(e.to_string()))?;
        if let Some(load) = self.load {
            // SAFETY: the function is the module's.
            unsafe { load(function) }.result().map_err(|e| wrong(e.to_string()))?;
        }
        let kernel = Kernel { function, bytes: self.bytes(function) };
        found.insert(name, kernel);
        Ok(kernel)
    }

    /// Bytes of a kernel's one parameter.
    fn bytes(&self, function: sys::CUfunction) -> Option<usize> {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: both are there to be written.
        let told = unsafe { (self.parameter_info?)(function, 0, &raw mut offset, &raw mut size) };
        (told == sys::CUresult::CUDA_SUCCESS).then_some(size)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.heap.context.bind_to_thread().is_ok() {
            let _ = self.heap.stream.synchronize();
            // SAFETY: it was loaded, and nothing of it runs any more; records keep it loaded.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

fn load(image: &[u8]) -> std::result::Result<sys::CUmodule, result::DriverError> {
    // SAFETY: the image is NVRTC's, whole by its hash; text ends with a 0.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
}

/// While it lives, this thread may make calls that could be unsafe to record: they are about code, not about
/// the stream.
pub(super) struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    pub fn new() -> Result<Self> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the mode is there to be exchanged.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }
            .result()
            .called("cuThreadExchangeStreamCaptureMode")?;
        Ok(Self(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut self.0) };
    }
}
