//! One process per folder.

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

const NAME: &str = ".dkd.lock";

/// Exclusive use of a folder by this process, until dropped.
///
/// The lock is the operating system's on a file in the folder: it ends with the process, however that ends, so a stale
/// file never blocks anyone. The file's text tells others who the owner is.
#[derive(Debug)]
pub struct FolderLock {
    // Holding the file open holds the lock.
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which is made if it is missing; `owner` describes the caller for others (a command line, a time).
    ///
    /// # Errors
    /// [`Error::Locked`] names the owner; [`Error::Io`].
    pub fn acquire(folder: &Path, owner: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        let path = folder.join(NAME);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(Error::io("lock", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = (&mut file).take(1000).read_to_string(&mut text);
                let known = read.is_ok() && !text.trim().is_empty();
                let owner = if known { text.trim().to_owned() } else { "another process".to_owned() };
                return Err(Error::Locked { path: folder.to_owned(), owner });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
        }
        let text = format!("process {} ({owner})\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(Error::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path(), "dkd train").unwrap();
        let message = FolderLock::acquire(folder.path(), "other").unwrap_err().to_string();
        assert!(
            message.contains("dkd train") && message.contains(&std::process::id().to_string()),
            "{message}"
        );
        drop(first);
        FolderLock::acquire(folder.path(), "third").unwrap();
    }
}
