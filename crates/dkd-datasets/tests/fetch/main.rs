//! Fetching from servers, good and bad.
#![allow(clippy::unwrap_used)]

mod archives;
mod faults;
mod resume;
mod server;

use dkd_datasets::fetch::{Checked, Event, FetchOptions, Patience, fetch};
use dkd_datasets::{CIFAR10, DataFile, DatasetSpec, Error};
use server::{Server, good, respond};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// CIFAR-10 with a handful of records.
static TINY: DatasetSpec = DatasetSpec {
    train: &[DataFile { name: "data_batch_1.bin", records: 3 }],
    test: &[DataFile { name: "test_batch.bin", records: 2 }],
    archive_bytes: 10_000,
    ..CIFAR10
};

const TRAIN: &str = "cifar-10-batches-bin/data_batch_1.bin";
const TEST: &str = "cifar-10-batches-bin/test_batch.bin";

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

fn good_archive() -> Vec<u8> {
    archive(&[
        (TRAIN, records(3, 1)),
        (TEST, records(2, 9)),
        ("cifar-10-batches-bin/readme.html", b"ignored".to_vec()),
    ])
}

/// A server that answers every request with this.
fn ok(body: Vec<u8>) -> Server {
    Server::start(move |_, _, out| respond(out, "200 OK", "", &body))
}

/// Times of tests: three retries, all of them soon.
fn impatient() -> Patience {
    Patience {
        retries: 3,
        first_delay: Duration::from_millis(2),
        longest_delay: Duration::from_millis(5),
        ..Patience::default()
    }
}

/// A fetch and what was told meanwhile, progress aside.
struct Fetched {
    result: Result<(usize, Checked), Error>,
    events: Vec<Event>,
    /// The last progress.
    received: u64,
}

impl Fetched {
    fn message(self) -> String {
        self.result.unwrap_err().to_string()
    }

    fn retries(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Retry { .. })).count()
    }
}

fn fetch_with(options: &FetchOptions, to: &Path, stop: &AtomicBool) -> Fetched {
    let (mut events, mut received) = (Vec::new(), 0);
    let result = fetch(&TINY, to, options, stop, &mut |event| match event {
        Event::Progress { received: n, .. } => received = *n,
        other => events.push(other.clone()),
    });
    let result = result.map(|(data, checked)| (data.train.len() + data.test.len(), checked));
    Fetched { result, events, received }
}

fn options(base: String, sha256: Option<String>) -> FetchOptions {
    FetchOptions { base_url: Some(base), sha256, patience: impatient() }
}

fn get(base: String, sha256: Option<String>, to: &Path) -> Fetched {
    fetch_with(&options(base, sha256), to, &AtomicBool::new(false))
}

/// What is in the folder, the lock aside.
fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = all.filter(|n| n != ".dkd.lock").collect();
    names.sort();
    names
}

#[test]
fn a_good_archive_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let sha = dkd_files::sha256_bytes(&body);
    let server = ok(body.clone());
    let fetched = get(server.base(), Some(sha.to_uppercase()), folder.path());
    assert_eq!(fetched.result.unwrap(), (5, Checked::Sha256));
    assert_eq!((fetched.received, fetched.events), (body.len() as u64, vec![Event::Unpacking]));
    let asked = &server.requests()[0];
    assert_eq!(asked.line, "GET /some/where/cifar-10-binary.tar.gz");
    assert_eq!((asked.header("accept-encoding"), asked.header("range")), ("identity", ""));
    assert_eq!(names(folder.path()), ["cifar-10-batches-bin"], "nothing else is left behind");
    let inner = folder.path().join("cifar-10-batches-bin");
    assert!(!inner.join("readme.html").exists());
    // Once more, over what is there, damaged and with a file that is not ours.
    std::fs::write(inner.join("data_batch_1.bin"), "damaged").unwrap();
    std::fs::write(inner.join("notes.txt"), "mine").unwrap();
    assert_eq!(get(server.base(), None, folder.path()).result.unwrap().1, Checked::ContentOnly);
    assert_eq!(std::fs::read(inner.join("data_batch_1.bin")).unwrap(), records(3, 1));
    assert_eq!(std::fs::read(inner.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(names(folder.path()), ["cifar-10-batches-bin"]);
}

#[test]
fn an_archive_that_is_called_an_encoding_stays_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let sha = dkd_files::sha256_bytes(&body);
    let server = Server::start(move |_, _, out| respond(out, "200 OK", "Content-Encoding: gzip\r\n", &body));
    assert_eq!(get(server.base(), Some(sha), folder.path()).result.unwrap(), (5, Checked::Sha256));
}

#[test]
fn redirections_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let half = body.len() / 2;
    let server = Server::start(move |n, request, out| match request.line.as_str() {
        "GET /some/where/cifar-10-binary.tar.gz" => {
            respond(out, "302 Found", "Location: /else/where\r\n", b"over there");
        }
        "GET /else/where" if n < 2 => server::begin(out, "ETag: \"1\"\r\n", &body, half),
        _ => good(request, out, "\"1\"", &body),
    });
    let fetched = get(server.base(), None, folder.path());
    assert_eq!((fetched.retries(), fetched.result.unwrap().0), (1, 5));
    let asked = server.requests();
    assert_eq!(asked[3].line, "GET /else/where");
    assert_eq!((asked[3].first(), asked[3].header("if-range")), (Some(half), "\"1\""));
}

#[test]
fn a_file_in_the_place_of_the_data_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cifar-10-batches-bin");
    std::fs::write(&file, "mine").unwrap();
    // No server is asked.
    let message = get("http://127.0.0.1:9/".to_owned(), None, folder.path()).message();
    assert!(message.contains("cifar-10-batches-bin") && message.contains("not a folder"), "{message}");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn options_without_sense_are_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = ok(good_archive());
    for base in ["ftp://example.org/", "example.org", ""] {
        let message = get(base.to_owned(), None, folder.path()).message();
        assert!(message.contains(&format!("`{base}`")) && message.contains("https://"), "{message}");
    }
    for sha in ["", "abc", "x".repeat(64).as_str(), "a".repeat(65).as_str()] {
        let message = get(server.base(), Some(sha.to_owned()), folder.path()).message();
        assert!(message.contains(&format!("`{sha}`")) && message.contains("64"), "{message}");
    }
    assert_eq!((server.requests().len(), names(folder.path()).len()), (0, 0));
}
