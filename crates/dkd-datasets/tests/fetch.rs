//! Fetching from a server, good and bad.
#![allow(clippy::unwrap_used)]

use dkd_datasets::fetch::{Checked, FetchOptions, fetch};
use dkd_datasets::{CIFAR10, DataFile, DatasetSpec, Error};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

/// CIFAR-10 with a handful of records.
static TINY: DatasetSpec = DatasetSpec {
    train: &[DataFile { name: "data_batch_1.bin", records: 3 }],
    test: &[DataFile { name: "test_batch.bin", records: 2 }],
    archive_bytes: 10_000,
    ..CIFAR10
};

fn records(n: usize, label: u8) -> Vec<u8> {
    (0..n).flat_map(|i| std::iter::once(label).chain((0..3072).map(move |p| (p * 7 + i) as u8))).collect()
}

/// A gzipped tar with these members.
fn archive(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Written as they are: `append_data` would refuse bad names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &content[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn good() -> Vec<u8> {
    archive(&[
        ("cifar-10-batches-bin/data_batch_1.bin", records(3, 1)),
        ("cifar-10-batches-bin/test_batch.bin", records(2, 9)),
        ("cifar-10-batches-bin/readme.html", b"ignored".to_vec()),
    ])
}

/// Answers one request on a port of its own with `head` and `body`; returns the base address.
fn serve(head: String, body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let n = stream.read(&mut request).unwrap();
        assert!(request[..n].starts_with(b"GET /some/where/cifar-10-binary.tar.gz "));
        // The client may hang up on a bad answer.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    });
    format!("http://{address}/some/where/")
}

fn ok(body: Vec<u8>) -> String {
    serve(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()), body)
}

fn get(base: String, sha256: Option<String>, to: &Path) -> Result<(usize, Checked, u64), Error> {
    let mut received = 0;
    let options = FetchOptions { base_url: Some(base), sha256 };
    let (data, checked) = fetch(&TINY, to, &options, &mut |n, _| received = n)?;
    Ok((data.train.len() + data.test.len(), checked, received))
}

#[test]
fn a_good_archive_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let body = good();
    let size = body.len() as u64;
    let sha = dkd_files::sha256_bytes(&body);
    let result = get(ok(body.clone()), Some(sha), folder.path()).unwrap();
    assert_eq!(result, (5, Checked::Sha256, size));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["cifar-10-batches-bin"], "nothing else is left behind");
    assert!(!folder.path().join("cifar-10-batches-bin/readme.html").exists());
    // Once more, over what is there, damaged and with a file that is not ours.
    let inner = folder.path().join("cifar-10-batches-bin");
    std::fs::write(inner.join("data_batch_1.bin"), "damaged").unwrap();
    std::fs::write(inner.join("notes.txt"), "mine").unwrap();
    assert_eq!(get(ok(body), None, folder.path()).unwrap().1, Checked::ContentOnly);
    assert_eq!(std::fs::read(inner.join("data_batch_1.bin")).unwrap(), records(3, 1));
    assert_eq!(std::fs::read(inner.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_bad_archive_is_named_and_leaves_old_data_alone() {
    let member = |name: &'static str, n: usize, label: u8| (name, records(n, label));
    let (train, test) = ("cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/test_batch.bin");
    let cases = [
        (archive(&[member(train, 3, 1)]), "lacks `test_batch.bin`"),
        (archive(&[("readme.html", Vec::new())]), "lacks `data_batch_1.bin`"),
        (archive(&[member(train, 2, 1), member(test, 2, 1)]), "has `data_batch_1.bin` with 6146 bytes"),
        (
            archive(&[member(train, 3, 1), member(test, 2, 77)]),
            "has `test_batch.bin` whose record 0 has label 77",
        ),
    ];
    for (body, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("cifar-10-batches-bin");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("data_batch_1.bin"), "old").unwrap();
        let base = ok(body);
        let message = get(base.clone(), None, folder.path()).unwrap_err().to_string();
        let start = format!("the archive from `{base}cifar-10-binary.tar.gz` {expected}");
        assert!(message.starts_with(&start), "{message}");
        assert!(!message.contains(".fetch-") && !message.contains("data fetch"), "{message}");
        assert_eq!(std::fs::read(inner.join("data_batch_1.bin")).unwrap(), b"old");
        let left = |path: &Path| std::fs::read_dir(path).unwrap().count();
        assert_eq!((left(folder.path()), left(&inner)), (1, 1), "{expected}");
    }
}

#[test]
fn a_file_in_the_place_of_the_data_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cifar-10-batches-bin");
    std::fs::write(&file, "mine").unwrap();
    // No server is asked.
    let message = get("http://127.0.0.1:9/".to_owned(), None, folder.path()).unwrap_err().to_string();
    assert!(message.contains("cifar-10-batches-bin") && message.contains("not a folder"), "{message}");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn bad_servers_leave_nothing() {
    let member = |name: &str| archive(&[(name, records(3, 1))]);
    let huge = archive(&[("cifar-10-batches-bin/data_batch_1.bin", records(4, 1))]);
    let wrong_label = archive(&[
        ("cifar-10-batches-bin/data_batch_1.bin", records(3, 77)),
        ("cifar-10-batches-bin/test_batch.bin", records(2, 1)),
    ]);
    let head = |status: &str, n: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n")
    };
    let half = good()[..good().len() / 2].to_vec();
    let cases: Vec<(&str, String, Option<String>)> = vec![
        ("checksum", ok(good()), Some("00".repeat(32))),
        ("404", serve(head("404 Not Found", 0), Vec::new()), None),
        ("500", serve(head("500 Oops", 0), Vec::new()), None),
        ("cannot fetch", serve(head("200 OK", good().len()), half.clone()), None),
        ("archive", ok(half), None),
        ("archive", ok(b"<html>sorry</html>".to_vec()), None),
        ("leaves its folder", ok(member("../../evil/data_batch_1.bin")), None),
        ("leaves its folder", ok(member("/etc/data_batch_1.bin")), None),
        ("more than", ok(huge), None),
        ("label 77", ok(wrong_label), None),
        ("lacks `test_batch.bin`", ok(member("cifar-10-batches-bin/data_batch_1.bin")), None),
    ];
    for (expected, base, sha256) in cases {
        let folder = tempfile::tempdir().unwrap();
        let message = get(base, sha256, folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{expected}: something is left");
    }
}

#[test]
fn without_a_server_the_way_by_hand_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    let message = get(closed, None, folder.path()).unwrap_err().to_string();
    let expected =
        ["By hand", "cifar-10-binary.tar.gz", "data/cifar-10-batches-bin/data_batch_1.bin", "synthetic"];
    assert!(expected.iter().all(|e| message.contains(e)), "{message}");
}

#[test]
fn an_endless_answer_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let base = serve("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(), vec![7; 3 << 20]);
    let message = get(base, None, folder.path()).unwrap_err().to_string();
    assert!(message.contains("longer than"), "{message}");
}
