//! Files of images in the binary layout of CIFAR.

use crate::assert_names;
use dkd_datasets::{CIFAR10, CIFAR100, DataFile, DatasetSpec, Split, decode_file};
use std::path::Path;

/// Small files of both layouts.
static SPECS: [DatasetSpec; 2] = [
    DatasetSpec { train: &[DataFile { name: "train.bin", records: 2 }], ..CIFAR10 },
    DatasetSpec { train: &[DataFile { name: "train.bin", records: 1 }], ..CIFAR100 },
];

/// What is accepted has every byte in its place.
pub fn cifar(bytes: &[u8]) -> bool {
    SPECS.each_ref().map(|spec| reads(spec, bytes)).contains(&true)
}

fn reads(spec: &DatasetSpec, bytes: &[u8]) -> bool {
    let (file, path) = (&spec.train[0], Path::new("train.bin"));
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    if let Err(e) = decode_file(spec, file, bytes, path, &mut images, &mut labels) {
        assert_names(&e, "train.bin");
        return false;
    }
    let split = Split::new(images, labels, 32, 32, spec.num_classes).expect("classes were checked");
    assert_eq!(split.len(), file.records);
    for (i, record) in bytes.chunks_exact(spec.record_bytes()).enumerate() {
        let (labels, pixels) = record.split_at(spec.label_bytes);
        assert_eq!(split.labels[i], labels.last().map_or(0, |label| u32::from(*label)));
        for (at, value) in pixels.iter().enumerate() {
            assert_eq!(split.image(i)[3 * (at % 1024) + at / 1024], *value);
        }
    }
    true
}
