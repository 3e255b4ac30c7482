//! The one error type of this crate.

use crate::debug::Origin;
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
    /// A loss or a gradient that is not finite.
    #[error(
        "row `{row}`: `{term}` is {value} in epoch {epoch}, step {step}; the update was not made. First seen in {}; samples {}.{} \
         `dkd debug` shows the step from inside. Lower the learning rate or the loss weight, clip gradients \
         (optimizer.clip_norm), or set train.nonfinite to `skip`, `rewind`, `mark` or `continue`",
        .origin.place, .origin.samples_text(), .tried.as_ref().map_or_else(String::new, |t| format!(" {t}."))
    )]
    NonFinite {
        /// Which row.
        row: String,
        /// Which term, or `gradient of NAME`.
        term: String,
        /// Its value.
        value: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// Step, from 0 over all epochs.
        step: u64,
        /// Where it came from.
        origin: Box<Origin>,
        /// What had been tried before.
        tried: Option<String>,
    },
    /// Networks and batches that do not fit into the memory.
    #[error(
        "{rows} networks with batches of {batch} images need about {}, but {} are there; {}",
        bytes(*.needed), bytes(*.available),
        if *.fits == 0 {
            "not even one image at a time fits: train fewer rows at once (--rows) or smaller networks; a train.batch_size of 1 \
             would not help".to_owned()
        } else {
            format!("the largest train.batch_size that fits is {}, or train fewer rows at once (--rows)", .fits)
        }
    )]
    Memory {
        /// Networks trained together.
        rows: usize,
        /// Images in a batch.
        batch: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// The largest batch that fits; 0 if none does.
        fits: usize,
    },
    /// A device whose memory did not suffice after all.
    #[error(
        "{why}: {rows} networks with batches of {batch} images were planned to take {} of the {} that were free; other programs, and losses \
         that candle computes on the device, take more. {}",
        bytes(*.planned), bytes(*.available),
        if *.fits == 0 {
            "Train fewer rows at once (--rows)".to_owned()
        } else {
            format!("With a train.batch_size of {} a quarter less is planned; or train fewer rows at once (--rows)", .fits)
        }
    )]
    DeviceMemory {
        /// What failed.
        why: String,
        /// Networks trained together.
        rows: usize,
        /// Images in a batch.
        batch: usize,
        /// Bytes that were planned.
        planned: u64,
        /// Bytes that were free at the beginning.
        available: u64,
        /// The largest batch for which a quarter less is planned; 0 if there is none.
        fits: usize,
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
    /// From the threads.
    #[error(transparent)]
    Cpu(#[from] dkd_kernels::CpuError),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<dkd_kernels::gpu::GpuError> for Error {
    fn from(error: dkd_kernels::gpu::GpuError) -> Self {
        dkd_engine::Error::from(error).into()
    }
}

/// A size in words.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000_000 => format!("{} kB", n / 1000),
        1_000_000..1_000_000_000 => format!("{} MB", n / 1_000_000),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
