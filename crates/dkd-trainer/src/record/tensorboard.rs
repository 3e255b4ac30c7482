//! TensorBoard's event files: records with checksums around messages in Protocol Buffers' encoding, written by hand, since
//! scalars need little of either.

use crate::Result;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a file of this format says in its first record.
const FILE_VERSION: &str = "brain.Event:2";

/// A file of scalars for TensorBoard, which shows each folder of such files as a run.
#[derive(Debug)]
pub struct ScalarFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl ScalarFile {
    /// Begins a file, in place of one that is there; its folder is made if it is missing. TensorBoard reads files with
    /// `tfevents` in their names.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let io = |source| dkd_files::Error::Io { action: "write", path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut new = Self { path: path.to_owned(), file: BufWriter::new(File::create(path).map_err(io)?) };
        let mut event = wall_time();
        field(&mut event, 3, FILE_VERSION.as_bytes());
        new.write(&event)?;
        Ok(new)
    }

    /// Adds a point to each of the named curves, at `step` and now. Values are stored in f32.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut point = Vec::new();
            field(&mut point, 1, tag.as_bytes());
            point.push(2 << 3 | 5);
            point.extend((*value as f32).to_le_bytes());
            field(&mut summary, 1, &point);
        }
        let mut event = wall_time();
        event.push(2 << 3);
        varint(&mut event, step);
        field(&mut event, 5, &summary);
        self.write(&event)
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let done = self.file.flush();
        Ok(done.map_err(|source| dkd_files::Error::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let done = self.file.write_all(&record(event));
        Ok(done.map_err(|source| dkd_files::Error::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?)
    }
}

/// Field 1 of an event: seconds since 1970, as an f64.
fn wall_time() -> Vec<u8> {
    // A clock set to before 1970 is no reason to stop.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(since.as_secs_f64().to_le_bytes());
    bytes
}

/// A field of Protocol Buffers that holds bytes.
fn field(to: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(to, number << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend(bytes);
}

/// Seven bits in a byte, the lowest first; the top bit says that more follow.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A record as TensorFlow frames it: length and data, each with its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked(crc32c(&length)).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked(crc32c(data)).to_le_bytes());
    bytes
}

/// Checksums of data that hold checksums are weak; so TensorFlow stores them turned by 15 bits and shifted.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): the polynomial of iSCSI (RFC 3720), bits reversed.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The remainder of every byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        // RFC 3720, B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn numbers_of_variable_length() {
        let encoded = |value| {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            bytes
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(300), [0xac, 2], "the example of the format's description");
        assert_eq!(encoded(u64::MAX).len(), 10);
    }
}
