//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file that could not be read, written or locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than its reader accepts.
    #[error(
        "`{path}` has {size} bytes, more than the {limit} that are read: it is not the expected kind of file"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The file is not text.
    #[error("`{path}` is not UTF-8 text (byte {at}): it is not the expected kind of file")]
    NotText {
        /// The file.
        path: PathBuf,
        /// Position of the first byte that is no text.
        at: usize,
    },
    /// Another process uses the folder.
    #[error(
        "`{path}` is in use by {owner}; wait for it, choose another folder, or stop that process. If it is gone, \
         the next attempt will succeed"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the lock file says about its owner.
        owner: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
