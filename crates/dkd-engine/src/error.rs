//! The one error type of this crate.

/// Everything that can go wrong when a graph is built, planned or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer cannot take the shape it was given.
    #[error("layer `{layer}`: {message}")]
    Layer {
        /// Parameter prefix of the layer, or the name of the operation if it has none.
        layer: String,
        /// What was given, what was expected.
        message: String,
    },
    /// Two parameters have the same name.
    #[error("parameter `{0}` is defined twice; every layer needs a name of its own")]
    DuplicateParameter(String),
    /// A tap was asked for that the graph does not have.
    #[error("no tap `{name}`; this network has: {known}")]
    UnknownTap {
        /// The name asked for.
        name: String,
        /// The taps there are, comma separated.
        known: String,
    },
    /// A tensor of the wrong shape, type or layout was given.
    #[error("{what}: expected {expected}, got {got}")]
    Tensor {
        /// Which tensor.
        what: String,
        /// What it should have been.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A call out of order, for example a backward pass without a forward pass.
    #[error("{0}")]
    State(String),
    /// A candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A GPU, or what stands in for one, failed.
    #[error(transparent)]
    Gpu(#[from] dkd_kernels::gpu::GpuError),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
