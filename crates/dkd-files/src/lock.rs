//! One process per folder.

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = ".dkd.lock";

/// How long an attempt goes on while somebody else has the lock: a look at it ([`FolderLock::owner`]) takes an instant, and
/// must not make it fail.
const PATIENCE: Duration = Duration::from_millis(250);

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
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(PATIENCE / 25);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path: folder.to_owned(), owner: described(&mut file) });
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
            }
        }
        let text = format!("process {} ({owner})\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(Error::io("write", &path))?;
        Ok(Self { _file: file })
    }

    /// Who uses `folder` now, as they describe themselves; `None` if nobody does. Writes nothing, makes no file, and neither
    /// disturbs the owner nor keeps anybody from becoming it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn owner(folder: &Path) -> Result<Option<String>> {
        let path = folder.join(NAME);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        // Several may look at a time. What is shared here is given back when the file is closed, at once.
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(described(&mut file))),
            Err(TryLockError::Error(e)) => Err(Error::io("look at the lock", &path)(e)),
        }
    }
}

/// What a lock's file says about its owner.
fn described(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(1000).read_to_string(&mut text);
    let known = read.is_ok() && !text.trim().is_empty();
    if known { text.trim().to_owned() } else { "another process".to_owned() }
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

    #[test]
    fn looking_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let owner = || FolderLock::owner(folder.path()).unwrap();
        assert_eq!((owner(), std::fs::read_dir(folder.path()).unwrap().count()), (None, 0));
        let lock = FolderLock::acquire(folder.path(), "dkd train").unwrap();
        for _ in 0..2 {
            assert!(owner().unwrap().contains("dkd train"));
        }
        drop(lock);
        assert_eq!(owner(), None);
        assert_eq!(FolderLock::owner(&folder.path().join("none")).unwrap(), None);
    }

    #[test]
    fn nobody_is_refused_because_somebody_looks() {
        let folder = tempfile::tempdir().unwrap();
        drop(FolderLock::acquire(folder.path(), "first").unwrap());
        let seen = File::open(folder.path().join(NAME)).unwrap();
        seen.lock_shared().unwrap();
        let looking = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 10);
            drop(seen);
        });
        FolderLock::acquire(folder.path(), "second").unwrap();
        looking.join().unwrap();
    }
}
