//! Where data come from.

use crate::{Dataset, DatasetSpec, Result, read, spec, synthetic};
use std::path::{Path, PathBuf};

/// What `--data` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `auto`: the folder `data/`, else the network.
    Auto,
    /// `synthetic`: generated.
    Synthetic,
    /// A folder.
    Folder(PathBuf),
}

impl Source {
    /// Reads the option.
    pub fn parse(text: &str) -> Self {
        match text {
            "auto" => Self::Auto,
            synthetic::NAME => Self::Synthetic,
            folder => Self::Folder(folder.into()),
        }
    }
}

/// Reads the data set `name` from `source`. With [`Source::Auto`], `None` means that `root` (usually `data`) does not hold
/// it, so that the caller can say what is about to be fetched.
///
/// # Errors
/// An unknown name; damaged files; a named folder without the files.
pub fn find(name: &str, source: &Source, root: &Path) -> Result<Option<Dataset>> {
    if *source == Source::Synthetic || name == synthetic::NAME {
        return Ok(Some(synthetic::generate(&synthetic::Options::default())));
    }
    let spec: &'static DatasetSpec = spec(name)?;
    match source {
        Source::Folder(folder) => read(spec, folder).map(Some),
        _ if root.join(spec.folder).is_dir() => read(spec, root).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        assert_eq!(Source::parse("auto"), Source::Auto);
        assert_eq!(Source::parse("synthetic"), Source::Synthetic);
        assert_eq!(Source::parse("some/where"), Source::Folder("some/where".into()));
        let empty = tempfile::tempdir().unwrap();
        assert!(find("cifar10", &Source::Auto, empty.path()).unwrap().is_none());
        let folder = Source::Folder(empty.path().into());
        assert!(find("cifar10", &folder, empty.path()).unwrap_err().to_string().contains("data_batch_1.bin"));
        assert!(find("mnist", &Source::Auto, empty.path()).unwrap_err().to_string().contains("cifar100"));
        assert_eq!(find("cifar10", &Source::Synthetic, empty.path()).unwrap().unwrap().name, "synthetic");
    }
}
