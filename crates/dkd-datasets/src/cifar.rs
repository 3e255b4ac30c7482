//! The official binary layout of CIFAR.

use crate::{DataFile, Dataset, DatasetSpec, Error, Result, Split};
use std::path::Path;

/// Largest file with class names that is read.
const NAMES_LIMIT: u64 = 64 * 1024;

/// Reads a data set from its folder, or from the folder that holds its folder.
///
/// # Errors
/// A file is missing, has the wrong size or a label that is no class: the message names it and says what to do.
pub fn read(spec: &'static DatasetSpec, folder: &Path) -> Result<Dataset> {
    let inner = folder.join(spec.folder);
    let folder = if inner.is_dir() { &inner } else { folder };
    let train = read_split(spec, folder, spec.train)?;
    let test = read_split(spec, folder, spec.test)?;
    let class_names = class_names(spec, folder);
    tracing::debug!(dataset = spec.name, folder = %folder.display(), "read");
    Ok(Dataset { name: spec.name.to_owned(), train, test, class_names, normalization: spec.normalization })
}

/// Names from the archive's list; numbers if there is none.
fn class_names(spec: &DatasetSpec, folder: &Path) -> Vec<String> {
    let names: Vec<String> = dkd_files::read_text_limited(&folder.join(spec.names_file), NAMES_LIMIT)
        .map(|text| text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    if names.len() == spec.num_classes {
        names
    } else {
        (0..spec.num_classes).map(|i| i.to_string()).collect()
    }
}

fn read_split(spec: &'static DatasetSpec, folder: &Path, files: &[DataFile]) -> Result<Split> {
    let total: usize = files.iter().map(|f| f.records).sum();
    let mut images = Vec::with_capacity(total * 3072);
    let mut labels = Vec::with_capacity(total);
    for file in files {
        read_file(spec, folder, file, &mut images, &mut labels)?;
    }
    Split::new(images, labels, 32, 32, spec.num_classes)
}

fn read_file(
    spec: &'static DatasetSpec,
    folder: &Path,
    file: &DataFile,
    images: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<()> {
    let path = folder.join(file.name);
    let expected = (file.records * spec.record_bytes()) as u64;
    if !path.is_file() {
        let files = spec.files().map(|f| f.name).collect::<Vec<_>>().join(", ");
        return Err(Error::Missing { path, dataset: spec.name, files });
    }
    match dkd_files::read_limited(&path, expected) {
        Ok(bytes) => decode_file(spec, file, &bytes, &path, images, labels),
        Err(dkd_files::Error::TooLarge { size, .. }) => Err(wrong_size(spec, file, &path, size)),
        Err(other) => Err(other.into()),
    }
}

fn wrong_size(spec: &DatasetSpec, file: &DataFile, path: &Path, found: u64) -> Error {
    let (records, record) = (file.records, spec.record_bytes());
    let expected = (records * record) as u64;
    Error::Size { path: path.to_owned(), dataset: spec.name, found, expected, records, record }
}

/// Appends what the bytes of one of a data set's files hold: images, channels innermost, to `images`, and their classes to
/// `labels`. `path` names the file in messages.
///
/// # Errors
/// [`Error::Size`] if these are not the bytes of as many records as the file should have; [`Error::Label`] for a label that is
/// no class, after the records before it have been appended.
pub fn decode_file(
    spec: &DatasetSpec,
    file: &DataFile,
    bytes: &[u8],
    path: &Path,
    images: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<()> {
    let record = spec.record_bytes();
    if bytes.len() != file.records * record {
        return Err(wrong_size(spec, file, path, bytes.len() as u64));
    }
    for (index, bytes) in bytes.chunks_exact(record).enumerate() {
        let (label, pixels) = (bytes[spec.label_bytes - 1], &bytes[spec.label_bytes..]);
        if usize::from(label) >= spec.num_classes {
            let (path, last) = (path.to_owned(), spec.num_classes - 1);
            return Err(Error::Label { path, dataset: spec.name, record: index, label, last });
        }
        labels.push(u32::from(label));
        // Planes of red, green, blue become pixels.
        images.extend((0..1024).flat_map(|p| [pixels[p], pixels[1024 + p], pixels[2048 + p]]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: DatasetSpec = DatasetSpec {
        train: &[DataFile { name: "a.bin", records: 3 }, DataFile { name: "b.bin", records: 2 }],
        test: &[DataFile { name: "t.bin", records: 1 }],
        ..crate::CIFAR10
    };
    static SPEC: DatasetSpec = TINY;

    fn write(folder: &Path, name: &str, records: usize, label: u8) {
        let mut bytes = Vec::new();
        for r in 0..records {
            bytes.push(label);
            bytes.extend((0..3072).map(|i| ((i + r) % 251) as u8));
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn planes_become_pixels() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join(SPEC.folder);
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "a.bin", 3, 1);
        write(&folder, "b.bin", 2, 2);
        write(&folder, "t.bin", 1, 9);
        for path in [outer.path(), &*folder] {
            let data = read(&SPEC, path).unwrap();
            assert_eq!((data.train.len(), data.test.len()), (5, 1));
            assert_eq!(data.train.labels, [1, 1, 1, 2, 2]);
            let at = |p: usize| ((p + 1) % 251) as u8;
            assert_eq!(data.train.image(1)[5 * 3..5 * 3 + 3], [at(5), at(1029), at(2053)]);
            assert_eq!(data.class_names[3], "3");
        }
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = || read(&SPEC, folder.path()).unwrap_err().to_string();
        assert!(message().contains("a.bin") && message().contains("dkd data fetch cifar10"), "{}", message());
        write(folder.path(), "a.bin", 2, 1);
        assert!(message().contains("6146 bytes, expected 9219"), "{}", message());
        write(folder.path(), "a.bin", 4, 1);
        assert!(message().contains("12292 bytes, expected 9219"), "{}", message());
        write(folder.path(), "a.bin", 3, 10);
        assert!(message().contains("record 0: label 10"), "{}", message());
    }
}
