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
        let parts: Vec<Vec<u8>> = written.iter().map(|(path, _)| std::fs::read(path).unwrap()).collect();
        let mut backwards = parts.clone();
        backwards.reverse();
        for parts in [&parts, &backwards] {
            for (name, bytes) in restore(&spec, parts).unwrap() {
                assert!(std::fs::read(inner.join(&name)).unwrap() == bytes, "{name}");
            }
        }
        let message = restore(&spec, &parts[1..]).unwrap_err().to_string();
        assert!(message.contains("part 1 of 2 is missing"), "{message}");
    }
}

#[test]
fn damage_is_named() {
    let spec = tiny(CIFAR10);
    let folder = tempfile::tempdir().unwrap();
    write(&spec, folder.path());
    let files = read(&spec, folder.path()).unwrap();
    let [part] = parts(&spec, &files, &[], 55_000_000).unwrap().try_into().unwrap();
    let message = restore(&CIFAR100, std::slice::from_ref(&part)).unwrap_err().to_string();
    assert!(message.contains("`cifar10`") && message.contains("`cifar100`"), "{message}");
    let mut damaged = part.clone();
    // In the labels, which come second: one header and the description, padded, and one more header.
    let labels = part.windows(6).position(|w| w == b"labels").unwrap() + 512;
    damaged[labels] ^= 1;
    assert!(restore(&spec, &[damaged]).is_err());
    assert!(restore(&spec, &[vec![0; 1024]]).unwrap_err().to_string().contains("pack.json"));
    std::fs::write(folder.path().join("t.bin"), [0; 5]).unwrap();
    let message = read(&spec, folder.path()).unwrap_err().to_string();
    assert!(message.contains("t.bin: 5 bytes, expected 215110"), "{message}");
}
