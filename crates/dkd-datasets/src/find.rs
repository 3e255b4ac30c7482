//! Where data come from.

use crate::{Dataset, DatasetSpec, Error, Result, folder, read, spec, synthetic};
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

/// Reads the data set `name` from `source`; `size` is that of the images where [`has_any_size`]. With [`Source::Auto`], `None`
/// means that `root` (usually `data`) does not hold it, so that the caller can say what is about to be fetched.
///
/// # Errors
/// An unknown name; damaged files; a named folder without the files; a size for images that have one.
pub fn find(name: &str, source: &Source, root: &Path, size: Option<folder::Size>) -> Result<Option<Dataset>> {
    if has_any_size(name) {
        let Source::Folder(path) = source else {
            let files = if name == folder::NAME { "image files" } else { "files" };
            return Err(Error::Invalid(format!(
                "the data set `{name}` is made of {files}: name their folder with `--data DIR`"
            )));
        };
        let data = if name == folder::NAME { folder::read(path, size) } else { parquet(path, size) };
        return data.map(Some);
    }
    if size.is_some() {
        return Err(Error::Invalid(format!(
            "`data.image_size` is for the data sets `folder` and `parquet`; images of `{name}` have a size"
        )));
    }
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

/// Name of a data set in Parquet files on the command line.
pub const PARQUET: &str = "parquet";

/// Whether the data set `name` is somebody's own images, which may have any size and be brought to another.
pub fn has_any_size(name: &str) -> bool {
    [folder::NAME, PARQUET].contains(&name)
}

#[cfg(feature = "parquet")]
fn parquet(folder: &Path, size: Option<folder::Size>) -> Result<Dataset> {
    crate::parquet::read(folder, size)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Path, _: Option<folder::Size>) -> Result<Dataset> {
    let message =
        "this program was built without the reader of Parquet files: build it with `--features parquet`";
    Err(Error::Invalid(message.to_owned()))
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
        assert!(find("cifar10", &Source::Auto, empty.path(), None).unwrap().is_none());
        let folder = Source::Folder(empty.path().into());
        assert!(
            find("cifar10", &folder, empty.path(), None)
                .unwrap_err()
                .to_string()
                .contains("data_batch_1.bin")
        );
        assert!(
            find("mnist", &Source::Auto, empty.path(), None).unwrap_err().to_string().contains("cifar100")
        );
        let message = |name: &str, source: &Source, size| {
            find(name, source, empty.path(), size).unwrap_err().to_string()
        };
        assert!(message("folder", &Source::Auto, None).contains("--data DIR"));
        assert!(message("folder", &folder, None).contains("no folder `train`"));
        assert!(message("parquet", &Source::Auto, None).contains("--data DIR"));
        let expected = if cfg!(feature = "parquet") { "holds no" } else { "--features parquet" };
        assert!(message("parquet", &folder, None).contains(expected));
        assert!(message("cifar10", &folder, Some((8, 8))).contains("data.image_size"));
        assert_eq!(
            find("cifar10", &Source::Synthetic, empty.path(), None).unwrap().unwrap().name,
            "synthetic"
        );
    }
}
