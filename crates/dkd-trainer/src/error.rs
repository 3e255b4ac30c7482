//! The one error type of this crate.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while a run is configured or trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be used.
    #[error("{place}: {message}")]
    Config {
        /// File, with line where known, or the option.
        place: String,
        /// What is wrong, what is expected.
        message: String,
    },
    /// A loss that is not a number.
    #[error(
        "row `{row}`: `{term}` is {value} in epoch {epoch}, step {step}; the update was not made. The batch's samples are \
         {samples}. Lower the learning rate or the loss weight, or set train.nonfinite to `mark` or `continue`"
    )]
    NonFinite {
        /// Which row.
        row: String,
        /// Which term.
        term: String,
        /// Its value.
        value: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Step, from 0 over all epochs.
        step: u64,
        /// Positions in the training set.
        samples: String,
    },
    /// The run was asked to stop.
    #[error(
        "stopped in epoch {epoch}, after step {step}; {}",
        .saved.as_ref().map_or_else(|| "nothing was saved".to_owned(), |p| format!("`{}` has it all: `--resume` goes on", p.display()))
    )]
    Interrupted {
        /// Epoch, from 1.
        epoch: usize,
        /// The last step that was made, from 0 over all epochs.
        step: u64,
        /// The checkpoint that was written.
        saved: Option<PathBuf>,
    },
    /// A network has no such tap.
    #[error(
        "a candle module has no taps; `{tap}` was asked for. Losses on feature maps need an engine network"
    )]
    NoTaps {
        /// The tap.
        tap: String,
    },
    /// A record that is not what its name says.
    #[error("`{path}`: {message}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Labels, classes or sizes that do not fit each other.
    #[error("{0}")]
    Invalid(String),
    /// From the losses.
    #[error(transparent)]
    Loss(#[from] dkd_losses::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] dkd_engine::Error),
    /// From the models.
    #[error(transparent)]
    Model(#[from] dkd_models::Error),
    /// From the data.
    #[error(transparent)]
    Data(#[from] dkd_datasets::Error),
    /// From files.
    #[error(transparent)]
    File(#[from] dkd_files::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
