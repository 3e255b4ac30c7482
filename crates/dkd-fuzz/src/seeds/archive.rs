//! Archives. Those that are not compressed are the inside of one.

use super::{damaged, seed};
use crate::Seed;
use crate::archive::{SPEC, compress};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use tar::{EntryType, Header};

/// A member: header as it is given, content padded to whole blocks.
fn member(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    // Not through the header's own function, which refuses some of these names.
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut all = [header.as_bytes(), content].concat();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// The same with something else in the header.
fn changed(name: &str, content: &[u8], change: impl Fn(&mut Header)) -> Vec<u8> {
    let all = member(EntryType::Regular, name, content);
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&all[..512]);
    change(&mut header);
    header.set_cksum();
    [header.as_bytes(), &all[512..]].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(EntryType::Regular, &format!("{}/{name}", SPEC.folder), content)
}

/// An extension, as PAX writes it: a length, which counts itself, a key and a value.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|n| n - rest == n.to_string().len()).unwrap_or(rest);
    member(EntryType::XHeader, "pax", format!("{length} {key}={value}\n").as_bytes())
}

/// The members that make up the data set, then its end.
fn data_set() -> Vec<u8> {
    let record: Vec<u8> = std::iter::once(3).chain((0..3072).map(|i| (i % 16) as u8)).collect();
    let names = (0..10).map(|i| format!("class {i}\n")).collect::<String>();
    [
        member(EntryType::Directory, &format!("{}/", SPEC.folder), &[]),
        file(SPEC.train[0].name, &record),
        file(SPEC.test[0].name, &[]),
        file(SPEC.names_file, names.as_bytes()),
        vec![0; 1024],
    ]
    .concat()
}

/// Archives: whole ones, members that lead away or are no files, sizes that are not true, and damages.
pub fn archive() -> Vec<Seed> {
    let good = data_set();
    let gz = compress(&good);
    let after = |first: Vec<u8>| [first, good.clone()].concat();
    let (train, folder) = (SPEC.train[0].name, SPEC.folder);
    let named = |name: &str| member(EntryType::Regular, name, b"x");
    let link = |kind: EntryType, to: &str| {
        let name = format!("{folder}/{train}");
        let mut all = changed(&name, &[], |header| {
            header.set_entry_type(kind);
            header.as_mut_bytes()[157..157 + to.len()].copy_from_slice(to.as_bytes());
        });
        all.extend(&good);
        all
    };
    let large = |size: u64| changed(&format!("{folder}/{train}"), &[], |header| header.set_size(size));
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    let written = (0..20).try_for_each(|_| bomb.write_all(&zeros)).and_then(|()| bomb.finish());
    let bomb = written.expect("memory takes everything");
    let wrong_sum = [&gz[..gz.len() - 8], &[1, 2, 3, 4], &gz[gz.len() - 4..]].concat();

    let whole = seed("ok-gz", gz.clone());
    let mut all = damaged(&whole);
    all.extend([
        whole,
        seed("ok-inside", good.clone()),
        seed("ok-other-files", after(named("readme.html"))),
        seed("ok-pax-time", after(pax("mtime", "1234567890.5"))),
        seed("ok-long-name", after([member(EntryType::GNULongName, "L", b"a/b/\0c"), named("x")].concat())),
        seed("bad-global-pax", after(member(EntryType::XGlobalHeader, "pax", b"11 a=bcdef\n"))),
        seed("bad-empty", []),
        seed("bad-empty-gz", compress(&[])),
        seed("bad-gz-sum", wrong_sum),
        seed("ok-something-behind-the-end", [gz.clone(), gz].concat()),
        seed("bad-bomb-gz", bomb),
        seed("bad-parent", after(named("../x"))),
        seed("bad-parent-inside", after(named("a/../../x"))),
        seed("bad-root", after(named("/tmp/x"))),
        seed(
            "bad-parent-by-long-name",
            after([member(EntryType::GNULongName, "L", b"../x"), named("x")].concat()),
        ),
        seed("bad-parent-by-pax", after([pax("path", "../x"), named("x")].concat())),
        seed(
            "bad-two-long-names",
            after(
                [member(EntryType::GNULongName, "L", b"x"), member(EntryType::GNULongName, "L", b"y")]
                    .concat(),
            ),
        ),
        seed("bad-link", link(EntryType::Symlink, "/etc/passwd")),
        seed("bad-hard-link", link(EntryType::Link, "../../x")),
        seed("bad-device", link(EntryType::Char, "")),
        seed("bad-pipe", link(EntryType::Fifo, "")),
        seed("bad-sparse", link(EntryType::GNUSparse, "")),
        seed("bad-unknown-kind", link(EntryType::new(b'!'), "")),
        seed("bad-twice", after(file(train, &[0; 3073]))),
        seed("bad-too-large", large(3074)),
        seed("bad-much-too-large", large(1 << 40)),
        seed("bad-largest", large(u64::MAX)),
        seed("bad-size-by-pax", [pax("size", "18446744073709551615"), large(1)].concat()),
        seed(
            "bad-size-of-a-long-name",
            changed("L", &[], |h| {
                h.set_entry_type(EntryType::GNULongName);
                h.set_size(1 << 50);
            }),
        ),
        seed("bad-size-that-is-no-number", changed(train, b"x", |h| h.as_mut_bytes()[124..136].fill(b'z'))),
        seed("bad-extension-of-nothing", [pax("path", "x"), vec![0; 1024]].concat()),
    ]);
    all
}
