//! Putting a folder of new files in the place of an old one.

use crate::{Error, Result};
use std::io;
use std::path::{Path, PathBuf};

/// Refuses a place that holds something else than a folder: it would be lost.
///
/// # Errors
/// [`Error::Invalid`] for a file or a link, also one that leads to a folder: the new files would not get where it leads.
pub(crate) fn check_place(to: &Path) -> Result<()> {
    match std::fs::symlink_metadata(to) {
        Ok(found) if !found.is_dir() => Err(Error::Invalid(format!(
            "`{}` is a file or a link, not a folder: move it away, or fetch into another folder",
            to.display()
        ))),
        _ => Ok(()),
    }
}

/// Moves the folder `new` to `to`, all of it or nothing. What else lies in `to` stays there; the files that `new` brings
/// anew replace the old ones, which go to `aside`. All three must be on one file system.
///
/// # Errors
/// The system's; `to` is then as it was, or else the error is [`Error::Stranded`], and nothing must be deleted.
pub(crate) fn place(new: &Path, to: &Path, aside: &Path) -> Result<()> {
    place_by(new, to, aside, &mut |from, to| std::fs::rename(from, to))
}

/// Renames, so that tests can let one fail.
type Rename<'a> = dyn FnMut(&Path, &Path) -> io::Result<()> + 'a;

fn place_by(new: &Path, to: &Path, aside: &Path, rename: &mut Rename<'_>) -> Result<()> {
    check_place(to)?;
    let mut moves = Moves { done: Vec::new(), rename };
    let Err(source) = moves.swap(new, to, aside) else { return Ok(()) };
    let reason = source.to_string();
    let failed = dkd_files::Error::Io { action: "move data to", path: to.to_owned(), source };
    if moves.undo() {
        return Err(Error::File(failed));
    }
    let kept = aside.parent().unwrap_or(aside).to_owned();
    Err(Error::Stranded { path: to.to_owned(), kept, reason })
}

/// Renames that were made, in order.
struct Moves<'a, 'r> {
    done: Vec<(PathBuf, PathBuf)>,
    rename: &'a mut Rename<'r>,
}

impl Moves<'_, '_> {
    fn step(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        (self.rename)(from, to)?;
        self.done.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn swap(&mut self, new: &Path, to: &Path, aside: &Path) -> io::Result<()> {
        if to.is_dir() {
            let names: io::Result<Vec<_>> = to.read_dir()?.map(|e| Ok(e?.file_name())).collect();
            for name in names? {
                let place = new.join(&name);
                if std::fs::symlink_metadata(&place).is_err() {
                    self.step(&to.join(&name), &place)?;
                }
            }
            self.step(to, aside)?;
        }
        self.step(new, to)?;
        sync_folder(to)?;
        to.parent().map_or(Ok(()), sync_folder)
    }

    /// Takes everything back, last first; whether it could.
    fn undo(&mut self) -> bool {
        let mut all = true;
        while let Some((from, to)) = self.done.pop() {
            // The others are tried nevertheless: each that succeeds is one less to be repaired by hand.
            all &= (self.rename)(&to, &from).is_ok();
        }
        all
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a bare name is the empty path.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs::{create_dir, read, write};

    /// A folder with old data and a stranger's file, and beside it, in `work`, new data.
    fn scene() -> (tempfile::TempDir, [PathBuf; 3]) {
        let outer = tempfile::tempdir().unwrap();
        let [to, work] = ["data", "work"].map(|name| outer.path().join(name));
        let [new, aside] = ["data", "replaced"].map(|name| work.join(name));
        for folder in [&to, &work, &new] {
            create_dir(folder).unwrap();
        }
        write(to.join("a.bin"), "old").unwrap();
        write(to.join("notes.txt"), "mine").unwrap();
        write(new.join("a.bin"), "new").unwrap();
        write(new.join("b.bin"), "new").unwrap();
        (outer, [new, to, aside])
    }

    fn content(folder: &Path) -> BTreeMap<String, String> {
        let files = folder.read_dir().unwrap().map(|e| e.unwrap().path());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        files
            .map(|f| (f.file_name().unwrap().to_string_lossy().into_owned(), text(read(&f).unwrap())))
            .collect()
    }

    #[test]
    fn new_files_replace_old_ones_and_strangers_stay() {
        let (_outer, [new, to, aside]) = scene();
        place(&new, &to, &aside).unwrap();
        let expected = [("a.bin", "new"), ("b.bin", "new"), ("notes.txt", "mine")];
        assert_eq!(content(&to), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(content(&aside).len(), 1, "the old file");
        let fresh = to.with_file_name("fresh");
        place(&to, &fresh, &new).unwrap();
        assert_eq!(content(&fresh).len(), 3);
    }

    #[test]
    fn a_failed_rename_leaves_everything_as_it_was() {
        for fails in 0..3 {
            let (_outer, [new, to, aside]) = scene();
            let before = (content(&to), content(&new));
            let mut count = 0;
            let mut rename = |from: &Path, to: &Path| {
                count += 1;
                if count == fails + 1 { Err(io::Error::other("refused")) } else { std::fs::rename(from, to) }
            };
            let message = place_by(&new, &to, &aside, &mut rename).unwrap_err().to_string();
            assert!(message.contains("refused") && message.contains("data"), "{message}");
            assert_eq!((content(&to), content(&new)), before, "rename {fails}");
            assert!(!aside.exists());
        }
    }

    #[test]
    fn what_cannot_be_put_back_is_not_lost() {
        let (_outer, [new, to, aside]) = scene();
        let mut count = 0;
        let mut rename = |from: &Path, to: &Path| {
            count += 1;
            if count > 2 { Err(io::Error::other("refused")) } else { std::fs::rename(from, to) }
        };
        let error = place_by(&new, &to, &aside, &mut rename).unwrap_err();
        let Error::Stranded { kept, .. } = &error else { panic!("{error}") };
        assert_eq!(content(&kept.join("replaced"))["a.bin"], "old");
        assert_eq!(content(&kept.join("data"))["notes.txt"], "mine");
    }

    #[test]
    fn a_file_in_the_place_is_refused() {
        let (_outer, [new, to, aside]) = scene();
        let file = to.join("a.bin");
        let message = place(&new, &file, &aside).unwrap_err().to_string();
        assert!(message.contains("a.bin") && message.contains("not a folder"), "{message}");
        assert_eq!(read(&file).unwrap(), b"old");
    }
}
