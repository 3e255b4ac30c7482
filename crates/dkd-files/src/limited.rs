//! Reading files whose size nobody can be sure of.

use crate::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads a whole file of at most `limit` bytes. The limit holds also for files whose size is not known beforehand
/// (pipes, devices).
///
/// # Errors
/// [`Error::Io`]; [`Error::TooLarge`].
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let too_large = |size| Error::TooLarge { path: path.to_owned(), size, limit };
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::TooLarge`]; [`Error::NotText`].
pub fn read_text_limited(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_limited(path, limit)?)
        .map_err(|e| Error::NotText { path: path.to_owned(), at: e.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        let message = read_limited(&path, 4).unwrap_err().to_string();
        assert!(message.contains("5 bytes") && message.contains("file"), "{message}");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(read_text_limited(&path, 10).unwrap_err().to_string().contains("byte 2"));
    }

    #[cfg(unix)]
    #[test]
    fn endless_files_end() {
        assert!(matches!(read_limited(Path::new("/dev/zero"), 1000), Err(Error::TooLarge { .. })));
    }
}
