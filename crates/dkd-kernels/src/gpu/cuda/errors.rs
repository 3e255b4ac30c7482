//! What the driver and its libraries answer, as errors of this crate.

use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::result::CudnnError;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::nvrtc::result::NvrtcError;

/// Names the call that failed.
pub(super) trait Called<T> {
    fn called(self, call: &'static str) -> Result<T>;
}

impl<T> Called<T> for std::result::Result<T, DriverError> {
    fn called(self, call: &'static str) -> Result<T> {
        self.map_err(|e| {
            let text = e.error_string().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            GpuError::Driver { call, message: format!("{text} ({:?})", e.0) }
        })
    }
}

impl<T> Called<T> for std::result::Result<T, CudnnError> {
    fn called(self, call: &'static str) -> Result<T> {
        self.map_err(|e| GpuError::Driver { call, message: e.to_string() })
    }
}

impl<T> Called<T> for std::result::Result<T, NvrtcError> {
    fn called(self, call: &'static str) -> Result<T> {
        self.map_err(|e| GpuError::Driver { call, message: e.to_string() })
    }
}

impl<T> Called<T> for candle_core::Result<T> {
    fn called(self, call: &'static str) -> Result<T> {
        self.map_err(|e| GpuError::Driver { call, message: e.to_string() })
    }
}
