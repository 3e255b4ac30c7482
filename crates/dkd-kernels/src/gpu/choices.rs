//! What was chosen by measuring, kept for later runs, so that they choose the same.

use super::cache;
use super::convolution::Algorithms;
use std::io;
use std::path::{Path, PathBuf};

/// Choices for one kind of device with one version of its library: a file for each shape.
#[derive(Debug)]
pub(super) struct Choices {
    folder: Option<PathBuf>,
    /// Device, library, and what was to be chosen.
    of: String,
}

impl Choices {
    /// In a folder, if one is known.
    pub fn new(folder: Option<PathBuf>, library: &str, algorithms: Algorithms) -> Self {
        Self { folder, of: format!("{library}, {}", algorithms.name()) }
    }

    /// The file of a shape, and its first line.
    fn file(&self, shape: &str) -> Option<(PathBuf, String)> {
        let text = format!("{}, {shape}", self.of);
        let name = format!("{:016x}", cache::hash(text.as_bytes()));
        Some((self.folder.as_ref()?.join(name), text))
    }

    /// What was chosen for a shape.
    pub fn read(&self, shape: &str) -> Option<String> {
        let (file, text) = self.file(shape)?;
        read(&file, &text)
    }

    /// Keeps a choice, unless there is one and it is not made anew: the one that is kept.
    ///
    /// # Errors
    /// The file cannot be written, or nobody knows where.
    pub fn keep(&self, shape: &str, choice: &str, anew: bool) -> io::Result<String> {
        let Some((file, text)) = self.file(shape) else {
            return Err(io::Error::other("neither HOME nor XDG_CACHE_HOME says where"));
        };
        let body = format!("{text}\n{choice}");
        let written = if anew {
            cache::write(&file, body.as_bytes()).map(|()| true)
        } else {
            cache::write_first(&file, body.as_bytes())
        };
        let first = written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
        let other = if first { None } else { read(&file, &text) };
        Ok(other.unwrap_or_else(|| choice.to_owned()))
    }
}

fn read(file: &Path, text: &str) -> Option<String> {
    let body = String::from_utf8(cache::read(file)?).ok()?;
    let (of, choice) = body.split_once('\n')?;
    // Two texts may have the same hash.
    (of == text).then(|| choice.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::fs;

    const SHAPE: &str = "forwards: 2 images";

    #[test]
    fn the_first_choice_stays() {
        let folder = std::env::temp_dir().join(format!("dkd-choices-{}", std::process::id()));
        let choices = |library: &str, algorithms| Choices::new(Some(folder.clone()), library, algorithms);
        let ours = choices("a device", Algorithms::Measured);
        assert_eq!(ours.read(SHAPE), None);
        assert_eq!(ours.keep(SHAPE, "GEMM", false).unwrap(), "GEMM");
        assert_eq!(ours.keep(SHAPE, "FFT", false).unwrap(), "GEMM");
        assert_eq!(ours.read(SHAPE).unwrap(), "GEMM");
        // Other shapes, devices and wishes have choices of their own.
        assert_eq!(ours.read("forwards: 3 images"), None);
        assert_eq!(choices("a device", Algorithms::Fastest).read(SHAPE), None);
        assert_eq!(choices("another", Algorithms::Measured).read(SHAPE), None);
        // What is damaged is made again.
        let (file, _) = ours.file(SHAPE).unwrap();
        fs::write(&file, "GEMM").unwrap();
        assert_eq!(ours.read(SHAPE), None);
        assert_eq!(ours.keep(SHAPE, "FFT", false).unwrap(), "FFT");
        assert_eq!(ours.read(SHAPE).unwrap(), "FFT");
        assert_eq!(ours.keep(SHAPE, "GEMM", true).unwrap(), "GEMM");
        assert_eq!(ours.read(SHAPE).unwrap(), "GEMM");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        let nowhere = Choices::new(None, "a device", Algorithms::Measured);
        assert!(nowhere.keep(SHAPE, "GEMM", false).unwrap_err().to_string().contains("HOME"));
        assert_eq!(nowhere.read(SHAPE), None);
        let file = std::env::temp_dir().join(format!("dkd-choices-file-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        let barred = Choices::new(Some(file.clone()), "a device", Algorithms::Measured);
        let message = barred.keep(SHAPE, "GEMM", false).unwrap_err().to_string();
        assert!(message.contains("dkd-choices-file"), "{message}");
        fs::remove_file(file).unwrap();
    }
}
