//! Compiled kernels on disk.
//!
//! A file is a mark, the length and a hash of what follows, and that. Anything else is not taken.

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

const MARK: &[u8; 8] = b"dkdcuda1";

/// Where compiled kernels lie for this user, if that is known.
pub(super) fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("dkd").join("kernels"))
}

/// What was written there, unless it is damaged.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (head, body) = bytes.split_at_checked(24)?;
    let good = head.get(..8)? == MARK && head.get(8..)? == summary(body);
    good.then(|| body.to_vec())
}

/// Writes a file that appears as a whole.
pub(super) fn write(file: &Path, body: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", process::id()));
    let bytes = [MARK.as_slice(), &summary(body), body].concat();
    let done = fs::write(&part, bytes).and_then(|()| fs::rename(&part, file));
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
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
        let folder = env::temp_dir().join(format!("dkd-cuda-cache-{}", process::id()));
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
