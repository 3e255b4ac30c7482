//! Checksums of files.

use crate::{Error, Result};
use sha2::Digest;
use std::fs::File;
use std::io::Read;
use std::path::Path;

fn of_file<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&buffer[..n]);
    }
}

/// SHA-256 of a file, in lower-case hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_file(path: &Path) -> Result<String> {
    of_file::<sha2::Sha256>(path)
}

/// MD5 of a file, in lower-case hexadecimal: what CIFAR's site publishes; not a protection against malice.
///
/// # Errors
/// [`Error::Io`].
pub fn md5_file(path: &Path) -> Result<String> {
    of_file::<md5::Md5>(path)
}

/// SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(md5_file(&path).unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), sha);
        assert_eq!(sha256_bytes(b"abc"), sha);
        assert!(sha256_file(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
