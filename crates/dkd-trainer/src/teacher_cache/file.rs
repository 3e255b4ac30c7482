//! A file of entries of one size, each with a checksum, filled in any order.

use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes before an entry's values: [`WRITTEN`] and the checksum.
pub(super) const HEADER: usize = 8;

/// Stands before an entry that was written. A hole reads as 0.
const WRITTEN: [u8; 4] = *b"DKDe";

/// What was found in the place of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Entry,
    Nothing,
    /// Something that was not written whole, or changed since.
    Damage,
}

/// The file. Reads and writes go through the system's page cache rather than through a mapping: what another process cuts
/// off or damages is then an error or a wrong checksum, never a signal.
#[derive(Debug)]
pub(super) struct EntryFile {
    file: File,
    buffer: Vec<u8>,
}

impl EntryFile {
    /// Opens the file at `path`, or makes it, for entries with `payload` bytes.
    ///
    /// # Errors
    /// [`Error::Record`]: the system's reason, or that it is there and has another size than `bytes`.
    pub fn open(path: &Path, payload: usize, bytes: u64) -> Result<Self> {
        let fail = |problem: String| Error::Record {
            path: path.to_owned(),
            message: format!("the teacher's cache cannot be used: {problem}. It can be removed at any time"),
        };
        let system = |e: std::io::Error| fail(e.to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(system)?;
        match file.metadata().map_err(system)?.len() {
            0 => file.set_len(bytes).map_err(system)?,
            len if len == bytes => {}
            len => return Err(fail(format!("has {len} bytes, expected {bytes}"))),
        }
        Ok(Self { file, buffer: vec![0; HEADER + payload] })
    }

    fn seek(&mut self, entry: u64) -> std::io::Result<()> {
        let at = entry * self.buffer.len() as u64;
        self.file.seek(SeekFrom::Start(at)).map(drop)
    }

    /// Reads entry `entry`; its values are then in [`EntryFile::payload`].
    pub fn read(&mut self, entry: u64) -> std::io::Result<Found> {
        self.seek(entry)?;
        self.file.read_exact(&mut self.buffer)?;
        let (header, payload) = self.buffer.split_at(HEADER);
        Ok(if header == [0; HEADER] {
            Found::Nothing
        } else if header[..4] == WRITTEN && header[4..] == checksum(entry, payload) {
            Found::Entry
        } else {
            Found::Damage
        })
    }

    /// Values of the last entry that was read, or of the next one to be written.
    pub fn payload(&mut self) -> &mut [u8] {
        &mut self.buffer[HEADER..]
    }

    /// Writes [`EntryFile::payload`] as entry `entry`.
    pub fn write(&mut self, entry: u64) -> std::io::Result<()> {
        let sum = checksum(entry, &self.buffer[HEADER..]);
        self.buffer[..4].copy_from_slice(&WRITTEN);
        self.buffer[4..HEADER].copy_from_slice(&sum);
        self.seek(entry)?;
        self.file.write_all(&self.buffer)
    }
}

/// Of an entry's place and values, so that a displaced one is noticed as well.
fn checksum(entry: u64, payload: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry.to_le_bytes());
    hasher.update(payload);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        let mut file = EntryFile::open(&path, 4, 36).unwrap();
        assert_eq!(file.read(2).unwrap(), Found::Nothing);
        for entry in [2, 0] {
            file.payload().copy_from_slice(&[entry as u8, 1, 2, 3]);
            file.write(entry).unwrap();
        }
        let mut again = EntryFile::open(&path, 4, 36).unwrap();
        assert_eq!(again.read(0).unwrap(), Found::Entry);
        assert_eq!(again.read(1).unwrap(), Found::Nothing);
        assert_eq!(again.read(2).unwrap(), Found::Entry);
        assert_eq!(again.payload(), [2, 1, 2, 3]);
        let whole = std::fs::read(&path).unwrap();
        for at in 24..36 {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(again.read(2).unwrap(), Found::Damage, "{at}");
        }
        // An entry in the place of another.
        let mut displaced = whole.clone();
        displaced.copy_within(24..36, 12);
        std::fs::write(&path, &displaced).unwrap();
        assert_eq!(again.read(1).unwrap(), Found::Damage);
        std::fs::write(&path, &whole[..35]).unwrap();
        assert!(again.read(2).is_err());
        let message = EntryFile::open(&path, 4, 36).unwrap_err().to_string();
        assert!(message.contains("has 35 bytes, expected 36"), "{message}");
    }
}
