//! Events as lines of JSON.

use crate::checkpoint::LogMark;
use crate::{Error, Event, Result, Sink};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes every event as one line, but for those of batches, checkpoints and resuming.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonLines {
    /// Goes on after what is in the file, which is made if it is missing: further rows of a table add to its log.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn append(path: &Path) -> Result<Self> {
        let io = |source| dkd_files::Error::Io { action: "write", path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let file = BufWriter::new(File::options().append(true).create(true).open(path).map_err(io)?);
        Ok(Self { path: path.to_owned(), file })
    }

    /// Goes on after the first `bytes` bytes of a file; what a stopped run wrote after its last checkpoint is cut off, as it
    /// will be written again.
    ///
    /// # Errors
    /// The file is shorter, or cannot be written.
    pub fn resume(path: &Path, bytes: u64) -> Result<Self> {
        let io = |source| dkd_files::Error::Io { action: "write", path: path.to_owned(), source };
        Self::check(path, bytes)?;
        let log = Self::append(path)?;
        log.file.get_ref().set_len(bytes).map_err(io)?;
        Ok(log)
    }

    /// Whether a log holds the first `bytes` bytes that a checkpoint counts on.
    ///
    /// # Errors
    /// It does not.
    pub fn check(path: &Path, bytes: u64) -> Result<()> {
        let found = std::fs::metadata(path).map_or(0, |m| m.len());
        if found >= bytes {
            return Ok(());
        }
        let message =
            format!("has {found} bytes, but the checkpoint was made when it had {bytes}: lines are missing");
        Err(Error::Record { path: path.to_owned(), message })
    }
}

impl Sink for JsonLines {
    fn event(&mut self, event: &Event) -> Result<()> {
        if matches!(event, Event::Batch { .. } | Event::Resumed { .. } | Event::Checkpoint { .. }) {
            return Ok(());
        }
        let io = |source| dkd_files::Error::Io { action: "write", path: self.path.clone(), source };
        let mut line = serde_json::to_vec(event).expect("events are JSON");
        line.push(b'\n');
        self.file.write_all(&line).map_err(io)?;
        // Steps are many and may be lost in a crash; everything else is on its way to the disk at once.
        if !matches!(event, Event::Step { .. }) {
            self.file.flush().map_err(io)?;
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<Option<LogMark>> {
        let io = |source| dkd_files::Error::Io { action: "write", path: self.path.clone(), source };
        self.file.flush().map_err(io)?;
        let file = self.file.get_ref().try_clone().map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        Ok(Some(LogMark { bytes, file }))
    }
}
