//! The one error type of this crate.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is no data set.
    #[error("there is no data set `{name}`{}; known are {known}", did_you_mean(.nearest))]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<String>,
        /// All names.
        known: String,
    },
    /// A file of the data set is not there.
    #[error(
        "`{path}` is missing: {dataset} consists of {files} in one folder. Get it with `dkd data fetch {dataset}`, or \
         name the folder that holds them"
    )]
    Missing {
        /// The file looked for.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// All its files.
        files: String,
    },
    /// A file of the wrong size: truncated, or something else.
    #[error(
        "`{path}` has {found} bytes, expected {expected} ({records} records of {record} bytes): it is truncated or not a \
         {dataset} file. Delete it and run `dkd data fetch {dataset}`"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// Its size.
        found: u64,
        /// The right size.
        expected: u64,
        /// Records it should hold.
        records: usize,
        /// Bytes of a record.
        record: usize,
    },
    /// A label that is no class.
    #[error(
        "`{path}`, record {record}: label {label} is not a class (0 to {last}): the file is damaged. Delete it and run \
         `dkd data fetch {dataset}`"
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// Record, counted from 0.
        record: usize,
        /// The value found.
        label: u8,
        /// The largest class.
        last: usize,
    },
    /// An image file that cannot be read.
    #[error("`{path}`: {reason}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder of images that is not laid out as one must be, or images in it that do not fit.
    #[error("`{path}`: {problem}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Images, labels or settings that do not fit each other.
    #[error("{0}")]
    Invalid(String),
    /// A download failed.
    #[error("cannot fetch `{url}`: {reason}. {advice}")]
    Fetch {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// A downloaded archive is not the right one.
    #[error(
        "the archive from `{url}` {problem}; nothing of it was kept. Name another server with `--url`, or leave it out for \
         the official one"
    )]
    Archive {
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A fetch was asked to stop.
    #[error("stopped; {}", .kept.as_deref().unwrap_or("nothing had arrived that could be kept"))]
    Stopped {
        /// What is kept of the download and where, in words.
        kept: Option<String>,
    },
    /// New data could not take the place of old ones, which could not be put back either.
    #[error(
        "cannot move data to `{path}`: {reason}. What was there could not be put back either and lies in `{kept}`; move it \
         to `{path}` by hand"
    )]
    Stranded {
        /// Where the data belong.
        path: PathBuf,
        /// The folder that holds the old data.
        kept: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] dkd_files::Error),
    /// A candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}
