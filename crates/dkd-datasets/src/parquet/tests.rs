//! Files as pyarrow writes them, in the hub's layout: tests/fixtures/parquet/make.py.

use super::*;
use std::fs::{copy, create_dir_all};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)
}

/// A folder with these copies of fixtures.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        let to = folder.path().join(to);
        create_dir_all(to.parent().unwrap()).unwrap();
        copy(fixture(from), to).unwrap();
    }
    folder
}

fn message(folder: &Path) -> String {
    read(folder, None).unwrap_err().to_string()
}

#[test]
fn the_hubs_layout() {
    let folder = folder(&[
        ("train-a.parquet", "plain_text/train-00000-of-00002.parquet"),
        ("train-b.parquet", "plain_text/train-00001-of-00002.parquet"),
        ("test.parquet", "plain_text/test-00000-of-00001.parquet"),
    ]);
    let data = read(folder.path(), None).unwrap();
    assert_eq!(data.class_names, ["cat", "dog", "frog"]);
    assert_eq!(data.train.labels, [0, 1, 2, 0, 2, 2, 1]);
    assert_eq!(data.test.labels, [1, 0]);
    assert_eq!((data.train.height, data.train.width), (6, 5));
    // Image i of the script has red 10 i, green 5 i and blue 255 - i.
    for i in 0..7 {
        assert_eq!(&data.train.image(i)[..3], [10 * i as u8, 5 * i as u8, 255 - i as u8], "{i}");
    }
    assert_eq!(&data.test.image(1)[..3], [110, 55, 244]);
    assert!((data.normalization.mean[0] - 30.0 / 255.0).abs() < 1e-6);
    assert_eq!(read(folder.path(), Some((3, 3))).unwrap().test.image_bytes(), 27);
}

#[test]
fn folders_named_like_splits_and_labels_without_names() {
    let folder = folder(&[
        ("fine.parquet", "default/train/0000.parquet"),
        ("fine.parquet", "default/validation/0000.parquet"),
    ]);
    let data = read(folder.path(), None).unwrap();
    // `coarse_label` and `id` are there too.
    assert_eq!((&data.train.labels[..], data.class_names.len()), (&[3, 0, 1][..], 4));
    assert_eq!(data.class_names[3], "3");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(message(empty.path()).contains("holds no files"));
    let only = folder(&[("test.parquet", "test.parquet")]);
    assert!(message(only.path()).contains("no files of the split `train`"));
    let only = folder(&[("test.parquet", "training.parquet")]);
    assert!(message(only.path()).contains("training.parquet"));
    let only = folder(&[("test.parquet", "train.parquet")]);
    assert!(message(only.path()).contains("`validation`"));
    let cases = [
        ("no-image.parquet", "0 columns that could be images"),
        ("no-label.parquet", "no column of whole numbers"),
        ("by-path.parquet", "row 1: `image` holds no bytes"),
        ("broken-image.parquet", "row 2`: no PNG"),
        ("odd-size.parquet", "data.image_size"),
        ("bad-label.parquet", "label -1 is no class"),
    ];
    for (file, expected) in cases {
        let folder = folder(&[(file, "train.parquet"), ("test.parquet", "test.parquet")]);
        let message = message(folder.path());
        assert!(message.contains("train.parquet") && message.contains(expected), "{file}: {message}");
    }
    let folder = folder(&[("train-a.parquet", "train.parquet"), ("many.parquet", "test.parquet")]);
    assert!(message(folder.path()).contains("label 7 is none of the 3 classes"));
}

/// Whatever is in a file, the answer is a data set or an error.
#[test]
fn damaged_files_are_refused() {
    let folder = folder(&[("train-a.parquet", "train.parquet"), ("test.parquet", "test.parquet")]);
    let path = folder.path().join("train.parquet");
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for i in 0..400 {
        let mut bytes = whole.clone();
        let at = i * 7919 % bytes.len();
        match i % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (i % 8),
            _ => bytes[at] = 0xff,
        }
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(read(folder.path(), None).is_err());
    }
    assert!(refused > 200, "{refused}");
}
