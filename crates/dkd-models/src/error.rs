//! The one error type of this crate.

use std::path::PathBuf;

/// Everything that can go wrong when a model is built by name, or a checkpoint is read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No model of this name.
    #[error("no model `{name}`{}; the models are: {known}", did_you_mean(.nearest))]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The most similar names, best first; empty if none is similar.
        nearest: Vec<String>,
        /// All names, comma separated.
        known: String,
    },
    /// The architecture does not take images of this size.
    #[error("`{model}` does not take images of {height}x{width} pixels: {allowed}")]
    ImageSize {
        /// Name of the model.
        model: String,
        /// Height asked for.
        height: usize,
        /// Width asked for.
        width: usize,
        /// Which sizes it takes.
        allowed: String,
    },
    /// An option that no model can be built with.
    #[error("{option} = {value}: {expected}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The graph could not be recorded.
    #[error("model `{model}`: {source}")]
    Model {
        /// Name of the model.
        model: String,
        /// Which layer, and why.
        #[source]
        source: dkd_engine::Error,
    },
    /// A description of a network could not be read, or describes none.
    #[error("{source_name}: {problem}")]
    Description {
        /// The file, or whatever the description was called.
        source_name: String,
        /// Which line or layer, and what is wrong with it.
        problem: String,
    },
    /// A graph could not be recorded by a function that does not know its model's name.
    #[error(transparent)]
    Graph(#[from] dkd_engine::Error),
    /// A file is not a whole safetensors file.
    #[error("{}: {problem}; expected a safetensors file, as `checkpoint::save` writes it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights of others cannot be read.
    #[error("{}: {problem}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Weights do not fit a network.
    #[error("{0}")]
    Mismatch(Box<crate::checkpoint::Report>),
    /// A checkpoint comes from a later version of this program.
    #[error("{}: checkpoint format {found}, but this version reads up to {supported}; update dkd", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: String,
        /// Newest format that can be read.
        supported: u32,
    },
    /// A tensor cannot be stored.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A network cannot be written as ONNX.
    #[error("this network cannot be written as ONNX: {0}")]
    Onnx(String),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    File(#[from] dkd_files::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!(", did you mean {}?", names.join(" or ")),
    }
}
