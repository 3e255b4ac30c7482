//! Unpacking an archive that nobody vouches for.

use crate::{DatasetSpec, Error, Result};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most members of an archive; the official ones have fewer than ten.
const MAX_MEMBERS: usize = 1_000;

/// Most bytes of the file with class names.
const NAMES_LIMIT: u64 = 64 * 1024;

/// Bytes that an archive may unpack to beyond those of the data set's files: headers, padding, a text or two.
const SPARE: u64 = 16 << 20;

/// Unpacks the files of a `.tar.gz` that belong to the data set into `to/FOLDER`, each whole and on the disk; other plain
/// files are ignored. `url` names the archive in messages.
///
/// No more is held in memory than the largest of these files, or the archive's longest name, and both are limited by what the
/// archive may unpack to: the data set and some mebibytes.
///
/// # Errors
/// [`Error::Archive`] for a damaged archive, for members that lead out of their folder, are no plain files or are too large,
/// too many or twice there, and for one that unpacks to more than it should, ignored members included; nothing is
/// written outside of `to`. [`Error::Stopped`]; [`Error::File`] for a full disk.
pub fn unpack(spec: &DatasetSpec, url: &str, archive: impl Read, to: &Path, stop: &AtomicBool) -> Result<()> {
    let bad = |problem: String| Error::Archive { url: url.to_owned(), problem };
    let data: u64 = spec.files().map(|f| (f.records * spec.record_bytes()) as u64).sum();
    let limit = data + SPARE;
    let damaged = |what: &str, e: &std::io::Error| match e.kind() {
        ErrorKind::FileTooLarge => bad(format!("unpacks to more than {limit} bytes")),
        _ => bad(format!("is damaged{what}: {e}")),
    };
    let stream = Limited { inner: flate2::read::GzDecoder::new(archive), left: limit };
    let mut tar = tar::Archive::new(stream);
    let mut written: Vec<String> = Vec::new();
    for (index, entry) in tar.entries().map_err(|e| damaged("", &e))?.enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped { kept: None });
        }
        let mut entry = entry.map_err(|e| damaged("", &e))?;
        if index >= MAX_MEMBERS {
            return Err(bad(format!("has more than {MAX_MEMBERS} members")));
        }
        let path = entry.path().map_err(|e| damaged(" in a member's name", &e))?.into_owned();
        if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(bad(format!("has a member `{}` that leaves its folder", path.display())));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(bad(format!(
                "has a member `{}` that is no plain file but a link, a device or the like",
                path.display()
            )));
        }
        // Only the files we know, by name, are written; nothing in the archive chooses a path.
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let limit = match spec.files().find(|f| f.name == name) {
            Some(f) => (f.records * spec.record_bytes()) as u64,
            None if name == spec.names_file => NAMES_LIMIT,
            None => continue,
        };
        if entry.size() > limit {
            return Err(bad(format!("has a member `{name}` of {} bytes, more than {limit}", entry.size())));
        }
        if written.iter().any(|w| w == name) {
            return Err(bad(format!("has two members `{name}`")));
        }
        // Read first: a full disk is not the archive's fault.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| damaged(&format!(" at `{name}`"), &e))?;
        dkd_files::atomic_write_bytes(&to.join(spec.folder).join(name), &bytes)?;
        written.push(name.to_owned());
    }
    // The compression's own checksum comes last.
    std::io::copy(&mut tar.into_inner(), &mut std::io::sink()).map_err(|e| damaged(" at its end", &e))?;
    Ok(())
}

/// A reader that fails with [`ErrorKind::FileTooLarge`] once more than `left` bytes have come.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or(ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
