//! Fetching with the real program, from a server in the test.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "../../dkd-datasets/tests/fetch/server.rs"]
#[allow(dead_code, reason = "the library's tests need more of it")]
mod server;

use server::{Server, begin, good, respond, stall};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PART: &str = "data/cifar-10-binary.tar.gz.part";

/// `dkd` with no proxy but `proxy`.
fn dkd(folder: &Path, proxy: Option<&str>, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dkd"));
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(proxy.map(|p| ("HTTP_PROXY", p)));
    command.current_dir(folder).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for an end; its code (`None` after a signal) and what it said.
fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All of CIFAR-10, with images that compress well.
fn cifar10() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let file: Vec<u8> = (0..10_000_u32).flat_map(|i| [(i % 10) as u8; 3_073]).collect();
    let batches = (1..=5).map(|b| format!("data_batch_{b}.bin"));
    for name in batches.chain(["test_batch.bin".to_owned()]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("cifar-10-batches-bin/{name}"), &file[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_stopped_download_goes_on_with_the_same_command_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let body = cifar10();
    let (size, half) = (body.len(), body.len() / 2);
    let sha = dkd_files::sha256_bytes(&body);
    let server = Server::start(move |n, request, out| match n {
        0 => {
            begin(out, "ETag: \"1\"\r\n", &body, half);
            stall(out);
        }
        _ => good(request, out, "\"1\"", &body),
    });
    let proxy = server.address();
    // No name server knows this one: it is the proxy that is asked.
    let args = ["data", "fetch", "cifar10", "--url", "http://mirror.invalid/base", "--sha256", &sha];
    let child = dkd(folder.path(), Some(&proxy), &args).spawn().unwrap();
    let part = folder.path().join(PART);
    wait_until("half of it comes", || std::fs::metadata(&part).is_ok_and(|m| m.len() == half as u64));
    signal(&child, "-INT");
    let start = Instant::now();
    let (code, out, err) = end(child);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!((code, out.as_str()), (Some(130), ""), "{err}");
    let kept =
        format!("error: stopped; {half} of {size} bytes are kept in `{PART}`, and the same command goes on");
    assert!(err.contains(&kept), "{err}");
    let (code, out, err) = end(dkd(folder.path(), Some(&proxy), &args).spawn().unwrap());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("50000 training and 10000 test images"), "{out}");
    assert!(err.contains("going on after") && !err.contains("no checksum"), "{err}");
    let asked: Vec<_> = server.requests().iter().map(|r| (r.line.clone(), r.first())).collect();
    let get = |first| ("GET /base/cifar-10-binary.tar.gz".to_owned(), first);
    let connect = || ("CONNECT mirror.invalid:80".to_owned(), None);
    assert_eq!(asked, [connect(), get(None), connect(), get(Some(half))]);
    assert!(!part.exists());
    let (code, out, _) = end(dkd(folder.path(), Some(&proxy), &args).spawn().unwrap());
    assert!(code == Some(0) && out.contains("already complete") && server.requests().len() == 4, "{out}");
}

#[test]
fn failures_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _, out| respond(out, "404 Not Found", "", b""));
    let base = server.base();
    let args = ["data", "fetch", "cifar100", "--url", &base];
    let (code, out, err) = end(dkd(folder.path(), None, &args).spawn().unwrap());
    assert_eq!((code, out.as_str(), server.requests().len()), (Some(4), "", 1), "{err}");
    assert!(["404", "By hand", "--data synthetic"].iter().all(|e| err.contains(e)), "{err}");
    // A proxy is not asked for what it is not for.
    let proxy = Server::start(|_, _, _| {});
    let child =
        dkd(folder.path(), Some(&proxy.address()), &args).env("NO_PROXY", "127.0.0.1").spawn().unwrap();
    assert!(end(child).2.contains("404") && proxy.requests().is_empty());
    // A retry is told, and a stop ends the time between two.
    let busy = Server::start(|_, _, out| respond(out, "503 Busy", "Retry-After: 50\r\n", b""));
    let base = busy.base();
    let said = folder.path().join("said");
    let mut command = dkd(folder.path(), None, &["data", "fetch", "cifar100", "--url", &base]);
    let child = command.stderr(std::fs::File::create(&said).unwrap()).spawn().unwrap();
    let text = || std::fs::read_to_string(&said).unwrap();
    let retry = "cifar100: the server answered 503 Service Unavailable; retry 1 of 5 in 50 s";
    wait_until("a retry is told", || text().contains(retry));
    signal(&child, "-TERM");
    assert_eq!(end(child).0, Some(130));
    assert!(text().ends_with("error: stopped; nothing had arrived that could be kept\n"), "{}", text());
}

#[test]
fn a_file_that_cannot_grow_is_told_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let body = vec![7; 100_000];
    let server = Server::start(move |_, request, out| good(request, out, "\"1\"", &body));
    let base = server.base();
    let args = ["data", "fetch", "cifar10", "--url", &base];
    let mut limited = Command::new("sh");
    limited.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    limited
        .args(["-c", "ulimit -f 16; exec \"$@\"", "sh"])
        .arg(assert_cmd::cargo::cargo_bin!("dkd"))
        .args(args);
    let (code, _, err) = end(limited.spawn().unwrap());
    assert!(code == Some(4) && err.contains(&format!("cannot write `{PART}`")), "{code:?} {err}");
    let here = std::fs::metadata(folder.path().join(PART)).unwrap().len() as usize;
    assert!((8_192..=16_384).contains(&here), "{here}");
    // Now all of it comes, and it is no archive.
    let (code, _, err) = end(dkd(folder.path(), None, &args).spawn().unwrap());
    assert!(code == Some(4) && err.contains("is damaged") && err.contains("nothing of it was kept"), "{err}");
    assert_eq!(server.requests()[1].first(), Some(here));
    assert!(!folder.path().join(PART).exists());
}
