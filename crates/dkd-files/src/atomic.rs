//! Writing a whole file or nothing.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Names of files that are being written begin and end so.
const TEMPORARY: (&str, &str) = (".dkd-", ".tmp");

/// Writes a file so that at any moment, also after a power cut, either the old or the complete new content is there:
/// a temporary file in the same folder, `fsync`, rename, `fsync` of the folder. Missing parent folders are made.
///
/// # Errors
/// [`Error::Io`], or whatever `content` reports; the old file is untouched then and nothing else is left behind.
pub fn atomic_write<E: From<Error>>(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<&mut File>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY.0)
        .suffix(TEMPORARY.1)
        .tempfile_in(folder)
        .map_err(Error::io("write in", folder))?;
    {
        let mut writer = BufWriter::new(file.as_file_mut());
        content(&mut writer)?;
        writer.flush().map_err(Error::io("write", path))?;
    }
    allow_reading(file.as_file()).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    sync_folder(folder).map_err(Error::io("write in", folder))?;
    Ok(())
}

/// Writes `bytes` as [`atomic_write`] does.
///
/// # Errors
/// [`Error::Io`]; the old file is untouched then.
pub fn atomic_write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic_write(path, |w| w.write_all(bytes).map_err(Error::io("write", path)))
}

/// Whether a file of this name is one that [`atomic_write`] had not finished when its process was killed.
pub fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str());
    name.is_some_and(|n| n.starts_with(TEMPORARY.0) && n.ends_with(TEMPORARY.1))
}

/// Temporary files are private; results are for everyone whom the folder lets in.
#[cfg(unix)]
fn allow_reading(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn allow_reading(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/file");
        atomic_write_bytes(&path, b"one").unwrap();
        atomic_write_bytes(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        atomic_write_bytes(&path, b"old").unwrap();
        let failed = atomic_write(&path, |w| {
            w.write_all(b"half").unwrap();
            let there = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
            assert_eq!(there.filter(|p| is_unfinished(p)).count(), 1);
            Err(Error::TooLarge { path: path.clone(), size: 2, limit: 1 })
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert!(!is_unfinished(&path));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        atomic_write_bytes(&file, b"").unwrap();
        let message = atomic_write_bytes(&file.join("below"), b"").unwrap_err().to_string();
        assert!(message.contains("file"), "{message}");
    }
}
