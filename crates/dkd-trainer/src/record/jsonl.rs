//! Events as lines of JSON.

use crate::{Event, Result, Sink};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes every event but the batches' as one line.
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
}

impl Sink for JsonLines {
    fn event(&mut self, event: &Event) -> Result<()> {
        if matches!(event, Event::Batch { .. }) {
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
}
