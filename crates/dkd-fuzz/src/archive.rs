//! Archives of data sets.

use crate::assert_names;
use dkd_datasets::{CIFAR10, DataFile, DatasetSpec, fetch, read};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A data set of one image.
pub(crate) static SPEC: DatasetSpec = DatasetSpec {
    train: &[DataFile { name: "data_batch_1.bin", records: 1 }],
    test: &[DataFile { name: "test_batch.bin", records: 0 }],
    ..CIFAR10
};

const URL: &str = "http://fuzz/a.tar.gz";

/// Bytes of a tar file's header and of its blocks.
const BLOCK: usize = 512;

/// How a compressed archive begins.
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Whatever is in an archive, only the data set's files are written, none larger than it should be, and only where they belong.
///
/// Bytes that are not compressed are taken as the inside of an archive, with the sums of its headers put right: changes made by
/// chance get no further than the first checksum otherwise.
pub fn archive(bytes: &[u8]) -> bool {
    if bytes.starts_with(&GZIP) {
        return unpacks(bytes);
    }
    let mut inside = bytes.to_vec();
    mend(&mut inside);
    unpacks(&compress(&inside))
}

pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    let written = gz.write_all(bytes).and_then(|()| gz.finish());
    written.expect("memory takes everything")
}

/// Puts the sum into every header, as far as one can be found after the other.
fn mend(tar: &mut [u8]) {
    let mut rest = tar;
    while let Some((block, after)) = rest.split_at_mut_checked(BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        if block.iter().any(|b| *b != 0) {
            block.copy_from_slice(header.as_bytes());
        }
        let content = header.entry_size().ok().and_then(|size| usize::try_from(size).ok());
        let Some(length) = content.and_then(|n| n.checked_next_multiple_of(BLOCK)) else { return };
        let Some((_, next)) = after.split_at_mut_checked(length) else { return };
        rest = next;
    }
}

fn unpacks(archive: &[u8]) -> bool {
    let outer = tempfile::tempdir().expect("there is space for a folder");
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).expect("there is space for a folder");
    let unpacked = fetch::unpack(&SPEC, URL, archive, &inner, &AtomicBool::new(false));
    if let Err(e) = &unpacked {
        assert_names(e, URL);
    }
    assert_eq!(names(outer.path()), ["inner"]);
    let found = names(&inner);
    assert!(found.is_empty() || found == [SPEC.folder], "{found:?}");
    if found.is_empty() {
        return false;
    }
    let folder = inner.join(SPEC.folder);
    for name in names(&folder) {
        let known = SPEC.files().find(|f| f.name == name).map(|f| f.records * SPEC.record_bytes());
        let limit = known.or((name == SPEC.names_file).then_some(64 * 1024));
        let limit = limit.unwrap_or_else(|| panic!("`{name}` is no file of the data set"));
        let file = folder.join(&name).symlink_metadata().expect("it was listed");
        assert!(file.is_file() && file.len() <= limit as u64, "`{name}`: {file:?}");
    }
    unpacked.is_ok() && read(&SPEC, &inner).is_ok()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("it was made here");
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}
