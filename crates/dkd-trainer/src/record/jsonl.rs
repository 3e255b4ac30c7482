//! Events as lines of JSON.

use super::read::EventReader;
use crate::checkpoint::LogMark;
use crate::{Error, Event, Result, Sink};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Version of the format: the number in a log's first line. `docs/events.md` describes it.
pub(super) const FORMAT: u32 = 1;

/// Bytes looked at at a time in the search for a log's last whole line.
const BLOCK: u64 = 1 << 13;

/// Writes every event as one line, after a first line with the format's version, but for those of batches, checkpoints and
/// resuming.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Whether an event is kept in logs.
pub(super) fn is_logged(event: &Event) -> bool {
    !matches!(event, Event::Batch { .. } | Event::Resumed { .. } | Event::Checkpoint { .. })
}

impl JsonLines {
    /// Goes on after what is in the file, which is made if it is missing: further rows of a table add to its log. A last line
    /// that a crash has cut off is removed.
    ///
    /// # Errors
    /// It cannot be made; what is there is no log of this format.
    pub fn append(path: &Path) -> Result<Self> {
        Self::open(path, None)
    }

    /// Goes on after the first `bytes` bytes of a file; what a stopped run wrote after its last checkpoint is cut off, as it
    /// will be written again.
    ///
    /// # Errors
    /// As [`JsonLines::append`]; the file is shorter.
    pub fn resume(path: &Path, bytes: u64) -> Result<Self> {
        Self::check(path, bytes)?;
        Self::open(path, Some(bytes))
    }

    /// Opens the file, cuts it to `bytes` bytes or to whole lines, and sees to its first line.
    fn open(path: &Path, bytes: Option<u64>) -> Result<Self> {
        let io = |source| dkd_files::Error::Io { action: "write", path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = File::options().read(true).append(true).create(true).open(path).map_err(io)?;
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => whole_lines(&mut file).map_err(io)?,
        };
        file.set_len(bytes).map_err(io)?;
        if bytes == 0 {
            let line = serde_json::json!({ "event": "log", "format": FORMAT });
            file.write_all(format!("{line}\n").as_bytes()).map_err(io)?;
        } else {
            file.rewind().map_err(io)?;
            EventReader::new(BufReader::new(&file), path).check_version()?;
        }
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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
        if !is_logged(event) {
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

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        let io = |source| dkd_files::Error::Io { action: "write", path: self.path.clone(), source };
        self.file.flush().map_err(io)?;
        Ok(self.file.get_ref().set_len(bytes).map_err(io)?)
    }
}

/// Bytes up to the end of the last line that has one.
fn whole_lines(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
