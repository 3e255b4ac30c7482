//! Compiled kernels, and what was measured, on disk.
//!
//! A file is a mark, the length and a hash of what follows, and that. Anything else is not taken.

use std::path::Path;
use std::{fs, io, process};

const MARK: &[u8; 8] = b"dkdcuda1";

/// What was written there, unless it is damaged.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (head, body) = bytes.split_at_checked(24)?;
    let good = head.get(..8)? == MARK && head.get(8..)? == summary(body);
    good.then(|| body.to_vec())
}

/// Writes a file that appears as a whole.
pub(super) fn write(file: &Path, body: &[u8]) -> io::Result<()> {
    appear(file, body, |part| fs::rename(part, file))
}

/// The same, unless it is there, undamaged: whether it was written.
pub(super) fn write_first(file: &Path, body: &[u8]) -> io::Result<bool> {
    if read(file).is_none() {
        // If it is not there, that is as well.
        let _ = fs::remove_file(file);
    }
    let mut first = true;
    appear(file, body, |part| match fs::hard_link(part, file) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            first = false;
            Ok(())
        }
        done => done,
    })?;
    Ok(first)
}

/// Writes beside a file, and gives it its name with `place`.
fn appear(file: &Path, body: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", process::id()));
    let bytes = [MARK.as_slice(), &summary(body), body].concat();
    let done = fs::write(&part, bytes).and_then(|()| place(&part));
    let _ = fs::remove_file(&part);
    done
}

/// Length and FNV-1a hash.
fn summary(body: &[u8]) -> [u8; 16] {
    let length = (body.len() as u64).to_le_bytes();
    let mut all = [0; 16];
    all[..8].copy_from_slice(&length);
    all[8..].copy_from_slice(&hash(body).to_le_bytes());
    all
}

/// FNV-1a.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_not_taken() {
        let folder = std::env::temp_dir().join(format!("dkd-cuda-cache-{}", process::id()));
        let file = folder.join("deep").join("kernels-1.cubin");
        assert_eq!(read(&file), None);
        write(&file, b"compiled").unwrap();
        assert_eq!(read(&file).as_deref(), Some(b"compiled".as_slice()));
        let whole = fs::read(&file).unwrap();
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 4;
            fs::write(&file, &bytes).unwrap();
            assert_eq!(read(&file), None, "byte {i}");
            fs::write(&file, &whole[..i]).unwrap();
            assert_eq!(read(&file), None, "{i} bytes");
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no parts stay");
        fs::remove_dir_all(folder).unwrap();
    }
}
