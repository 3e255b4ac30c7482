//! Small data sets in CIFAR's layout, there and back.

use super::*;
use dkd_datasets::{CIFAR10, CIFAR100, DataFile};
use dkd_kernels::rng::{Purpose, Stream};

fn tiny(base: DatasetSpec) -> DatasetSpec {
    const TRAIN: &[DataFile] =
        &[DataFile { name: "a.bin", records: 700 }, DataFile { name: "b.bin", records: 650 }];
    const TEST: &[DataFile] = &[DataFile { name: "t.bin", records: 70 }];
    DatasetSpec { train: TRAIN, test: TEST, ..base }
}

/// Noise of few levels, with classes in no order, and a file of names.
fn write(spec: &DatasetSpec, folder: &Path) {
    for (k, file) in spec.files().enumerate() {
        let stream = Stream::new(k as u64, Purpose::Other, 0, 0);
        let mut bytes = Vec::new();
        for r in 0..file.records as u64 {
            bytes.extend((0..spec.label_bytes as u64).map(|l| stream.below(r * 7 + l, 10) as u8));
            bytes.extend((0..3072).map(|i| (i / 16 + stream.below(r * 3072 + i, 4) as u64) as u8));
        }
        std::fs::write(folder.join(file.name), bytes).unwrap();
    }
    std::fs::write(folder.join(spec.names_file), "some\nnames\n").unwrap();
}

#[test]
fn everything_comes_back() {
    for base in [CIFAR10, CIFAR100] {
        let spec = tiny(base);
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join(spec.folder);
        std::fs::create_dir(&inner).unwrap();
        write(&spec, &inner);
        let out = folder.path().join("packed");
        let whole = pack(&spec, folder.path(), &out, 55_000_000).unwrap();
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].0, out);
        let limit = whole[0].1 * 3 / 4 + 256 * 1024;
        let written = pack(&spec, &inner, &out, limit).unwrap();
        assert_eq!(written.len(), 2);
        assert!(written.iter().all(|(_, size)| *size <= limit), "{written:?}");
        let mut parts: Vec<Part> = written
            .iter()
            .map(|(path, _)| Part::from_bytes(&std::fs::read(path).unwrap()).unwrap())
            .collect();
        let message = restore(&spec, &parts[1..]).err().unwrap().to_string();
        assert!(message.contains("part 1 of 2 is missing"), "{message}");
        for _ in 0..2 {
            let files = restore(&spec, &parts).unwrap();
            assert_eq!(files.len(), 4);
            for (name, bytes) in files {
                assert!(std::fs::read(inner.join(&name)).unwrap() == bytes, "{name}");
            }
            parts.reverse();
        }
    }
}

#[test]
fn damage_is_named() {
    let spec = tiny(CIFAR10);
    let folder = tempfile::tempdir().unwrap();
    write(&spec, folder.path());
    let file = folder.path().join("data.pack");
    pack(&spec, folder.path(), &file, 55_000_000).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let part = Part::from_bytes(&whole).unwrap();
    let message = restore(&CIFAR100, &[part]).err().unwrap().to_string();
    assert!(message.contains("`cifar10`") && message.contains("`cifar100`"), "{message}");
    let out = folder.path().join("out");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&file, bytes).unwrap();
        let message = format!("{:#}", unpack(std::slice::from_ref(&file), &out).unwrap_err());
        assert!(message.contains("data.pack: ") && message.contains(what), "{what}: {message}");
        assert!(!out.exists());
    };
    refused(&[], "no `pack.json`");
    refused(&[0; 1024], "no `pack.json`");
    refused(b"something else", "damaged");
    refused(&whole[..whole.len() / 2], "damaged");
    // One bit of a header, of the labels, and of the last sheet.
    let place = |name: &[u8]| whole.windows(name.len()).rposition(|w| w == name).unwrap();
    for (at, what) in [
        (place(b"labels"), "it is damaged"),
        (place(b"labels") + 512 + 5, "`labels` is damaged"),
        (place(b"sheet-001.webp") + 512 + 5000, "`sheet-001.webp` is damaged"),
    ] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        refused(&damaged, what);
    }
}

#[test]
fn files_of_other_sizes_are_not_packed() {
    let spec = tiny(CIFAR10);
    let folder = tempfile::tempdir().unwrap();
    write(&spec, folder.path());
    std::fs::write(folder.path().join("t.bin"), [0; 5]).unwrap();
    let message = pack(&spec, folder.path(), &folder.path().join("out"), 55_000_000).unwrap_err().to_string();
    assert!(message.contains("t.bin: 5 bytes, expected 215110"), "{message}");
}

/// What a damaged file makes of a picture is an error at most.
#[test]
fn pictures_that_are_none_are_refused() {
    let image: Vec<u8> = (0..3072).map(|i| (i * 7 % 251) as u8).collect();
    let whole = sheet::encode(&[&image, &image]).unwrap();
    assert!(sheet::decode(&whole, 2).unwrap().iter().all(|found| *found == image));
    assert!(sheet::decode(&whole, 41).is_err());
    for length in [0, 12, whole.len() / 2] {
        assert!(sheet::decode(&whole[..length], 2).is_err());
    }
}
