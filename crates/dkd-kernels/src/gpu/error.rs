//! What can go wrong on a machine that runs kernels.

/// Result of a call to a machine.
pub type Result<T> = std::result::Result<T, GpuError>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no device, or what it needs is missing.
    #[error("no CUDA device: {0}")]
    NoDevice(String),
    /// The memory does not suffice.
    #[error("out of device memory: {asked} bytes were asked for, {free} of {total} are free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free.
        free: u64,
        /// Bytes there are.
        total: u64,
    },
    /// The kernels do not compile.
    #[error("the kernels do not compile: {0}")]
    Compile(String),
    /// A kernel of this name is not in the compiled text, or its parameters are others.
    #[error("kernel `{name}`: {message}")]
    Kernel {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A call to the driver or one of its libraries failed.
    #[error("{call}: {message}")]
    Driver {
        /// What was called.
        call: &'static str,
        /// What it answered.
        message: String,
    },
    /// The arguments of an operation do not fit each other.
    #[error("{operation}: {message}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// What does not fit.
        message: String,
    },
    /// Something that cannot be part of a recorded step was called while one is recorded.
    #[error("`{0}` was called while a step is recorded, and cannot be part of one")]
    Recording(&'static str),
    /// What was called within something else has failed, with an error of its own.
    #[error("{0}")]
    Within(String),
    /// Branches that cannot be.
    #[error("branches {0}")]
    Branches(&'static str),
}

impl GpuError {
    /// Within a branch.
    #[cfg(any(feature = "cuda", feature = "emulated"))]
    pub(crate) const NESTED: Self = Self::Branches("cannot be begun within a branch");
    /// More of them than are ready.
    #[cfg(any(feature = "cuda", feature = "emulated"))]
    pub(crate) const UNPREPARED: Self = Self::Branches("were recorded that nothing was prepared for");

    /// A convolution that [`super::Machine::prepare`] has said no to.
    #[cfg(any(feature = "cuda", feature = "emulated"))]
    pub(crate) fn no_library(what: impl std::fmt::Display) -> Self {
        let message = format!("nothing here computes {what}");
        Self::Driver { call: "convolution", message }
    }
}

/// Fails with a message unless `holds`.
pub(crate) fn check(operation: &'static str, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(GpuError::Shape { operation, message: message() }) }
}
