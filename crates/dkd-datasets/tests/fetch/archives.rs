//! Archives that are not what they should be. Nothing of them is kept, and old data stay.

use super::{TEST, TRAIN, archive, get, good_archive, names, ok, records};
use std::path::Path;
use tar::EntryType;

/// A good archive with one more member before the others.
fn with(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    let mut member = |kind: EntryType, name: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    member(kind, name, link, content);
    member(EntryType::Regular, TRAIN, "", &records(3, 1));
    member(EntryType::Regular, TEST, "", &records(2, 9));
    tar.into_inner().unwrap().finish().unwrap()
}

/// Serves the archive; its error must begin with `expected`, and nothing must have changed, inside and outside of `data`.
fn refused(body: Vec<u8>, expected: &str) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("data");
    let inner = folder.join("cifar-10-batches-bin");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("data_batch_1.bin"), "old").unwrap();
    let base = ok(body).base();
    let fetched = get(base.clone(), None, &folder);
    assert_eq!(fetched.retries(), 0, "{expected}");
    let message = fetched.message();
    let start = format!("the archive from `{base}cifar-10-binary.tar.gz` {expected}");
    assert!(message.starts_with(&start), "{expected}: {message}");
    assert!(!message.contains(".fetch-") && !message.contains("data fetch"), "{message}");
    assert_eq!(std::fs::read(inner.join("data_batch_1.bin")).unwrap(), b"old");
    assert_eq!(
        (names(outer.path()), names(&folder), names(&inner)),
        (
            vec!["data".to_owned()],
            vec!["cifar-10-batches-bin".to_owned()],
            vec!["data_batch_1.bin".to_owned()]
        ),
        "{expected}"
    );
}

#[test]
fn wrong_content_is_named() {
    let member = |name: &'static str, n: usize, label: u8| (name, records(n, label));
    let cases = [
        (archive(&[member(TRAIN, 3, 1)]), "lacks `test_batch.bin`"),
        (archive(&[("readme.html", Vec::new())]), "lacks `data_batch_1.bin`"),
        (archive(&[member(TRAIN, 2, 1), member(TEST, 2, 1)]), "has `data_batch_1.bin` with 6146 bytes"),
        (
            archive(&[member(TRAIN, 3, 1), member(TEST, 2, 77)]),
            "has `test_batch.bin` whose record 0 has label 77",
        ),
        (archive(&[member(TRAIN, 4, 1)]), "has a member `data_batch_1.bin` of 12292 bytes, more than 9219"),
        (archive(&[("batches.meta.txt", vec![b'x'; 65_537])]), "has a member `batches.meta.txt` of 65537"),
        (archive(&[member(TRAIN, 3, 1), member(TRAIN, 3, 2)]), "has two members `data_batch_1.bin`"),
    ];
    for (body, expected) in cases {
        refused(body, expected);
    }
}

#[test]
fn members_that_lead_out_of_the_folder_are_refused() {
    for name in
        ["../../evil/data_batch_1.bin", "/tmp/data_batch_1.bin", "cifar-10-batches-bin/../../test_batch.bin"]
    {
        let expected = format!("has a member `{name}` that leaves its folder");
        refused(with(EntryType::Regular, name, "", &records(1, 1)), &expected);
        refused(with(EntryType::Directory, name, "", b""), &expected);
    }
}

#[test]
fn links_and_devices_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("precious");
    std::fs::write(&file, "mine").unwrap();
    let target = file.to_str().unwrap();
    let kinds = [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
    ];
    for kind in kinds {
        let expected = format!("has a member `{TRAIN}` that is no plain file");
        refused(with(kind, TRAIN, target, b""), &expected);
    }
    // A link in the place of the folder, through which the next member would be written.
    let folder = outside.path().to_str().unwrap();
    let expected = "has a member `cifar-10-batches-bin` that is no plain file";
    refused(with(EntryType::Symlink, "cifar-10-batches-bin", folder, b""), expected);
    assert_eq!(
        (names(outside.path()), std::fs::read(&file).unwrap()),
        (vec!["precious".to_owned()], b"mine".into())
    );
}

#[test]
fn bombs_are_refused() {
    // Ignored members count, too. 20 MB of zeros are 90 KB of gzip.
    let bomb = with(EntryType::Regular, "zeros", "", &vec![0; 20_000_000]);
    assert!(bomb.len() < 200_000);
    refused(bomb, "unpacks to more than 167");
    // So does a member's name.
    refused(with(EntryType::GNULongName, "long", "", &vec![b'n'; 20_000_000]), "unpacks to more than 167");
    let many: Vec<_> = (0..1_001).map(|_| ("empty", Vec::new())).collect();
    refused(archive(&many), "has more than 1000 members");
}

#[test]
fn damaged_archives_are_refused() {
    let body = good_archive();
    refused(b"<html>sorry</html>".to_vec(), "is damaged");
    refused(Vec::new(), "");
    refused(body[..body.len() / 2].to_vec(), "is damaged");
    // All members are there, only the end is not.
    refused(body[..body.len() - 4].to_vec(), "is damaged at its end");
    // Its own checksum, when no other is known.
    let mut flipped = body.clone();
    flipped[body.len() - 6] ^= 1;
    refused(flipped, "is damaged at its end");
}

#[test]
fn an_archive_with_long_names_and_folders_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    let deep = "some/more/folders/whose/names/are/so/long/that/an/ordinary/header/does/not/hold/them/at/all/as/one/path";
    for (name, content) in [(TRAIN, records(3, 1)), (TEST, records(2, 9))] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, Path::new(deep).join(name), &content[..]).unwrap();
    }
    let body = tar.into_inner().unwrap().finish().unwrap();
    assert_eq!(get(ok(body).base(), None, folder.path()).result.unwrap().0, 5);
    assert_eq!(names(folder.path()), ["cifar-10-batches-bin"]);
}
