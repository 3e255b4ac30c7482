//! Servers that fail: what is tried again, and what is told.

use super::server::{Server, begin, good, respond, stall};
use super::{Fetched, fetch_with, get, good_archive, impatient, names, options};
use dkd_datasets::fetch::{Event, FetchOptions, Patience};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A server that answers so many times with this status, and then well.
fn failing(times: usize, status: &'static str, headers: &'static str) -> Server {
    let body = good_archive();
    Server::start(move |n, request, out| {
        if n < times { respond(out, status, headers, b"sorry") } else { good(request, out, "\"1\"", &body) }
    })
}

fn fetch_patiently(server: &Server, patience: Patience) -> Fetched {
    let folder = tempfile::tempdir().unwrap();
    let options = FetchOptions { patience, ..options(server.base(), None) };
    let fetched = fetch_with(&options, folder.path(), &AtomicBool::new(false));
    if fetched.result.is_err() {
        assert_eq!(names(folder.path()).len(), 0, "something is left");
    }
    fetched
}

fn delays(fetched: &Fetched) -> Vec<u128> {
    let delay = |e: &Event| match e {
        Event::Retry { delay, .. } => Some(delay.as_millis()),
        _ => None,
    };
    fetched.events.iter().filter_map(delay).collect()
}

#[test]
fn passing_faults_are_tried_again() {
    for status in ["500 Oops", "502 Bad Gateway", "503 Busy", "504 Late", "429 Too Many", "408 Timeout"] {
        let server = failing(2, status, "");
        let fetched = fetch_patiently(&server, impatient());
        assert_eq!(delays(&fetched), [2, 4], "{status}");
        let code = &status[..3];
        assert!(
            matches!(&fetched.events[0], Event::Retry { number: 1, of: 3, reason, .. } if reason.contains(code)),
            "{:?}",
            fetched.events
        );
        assert_eq!((fetched.result.unwrap().0, server.requests().len()), (5, 3), "{status}");
    }
}

#[test]
fn after_some_tries_it_gives_up() {
    let server = failing(usize::MAX, "500 Oops", "");
    let fetched = fetch_patiently(&server, impatient());
    assert_eq!((delays(&fetched), server.requests().len()), (vec![2, 4, 5], 4));
    let message = fetched.message();
    let expected = ["500", "try 4 of 4", "By hand", "cifar-10-binary.tar.gz", "synthetic"];
    assert!(expected.iter().all(|e| message.contains(e)), "{message}");
    let none = Patience { retries: 0, ..impatient() };
    assert!(fetch_patiently(&server, none).message().contains("try 1 of 1"));
}

#[test]
fn lasting_faults_are_told_at_once() {
    for status in
        ["404 Not Found", "403 Forbidden", "401 Who", "410 Gone", "400 What", "204 Empty", "206 Part"]
    {
        let server = failing(usize::MAX, status, "");
        let fetched = fetch_patiently(&server, impatient());
        assert_eq!((fetched.retries(), server.requests().len()), (0, 1), "{status}");
        let message = fetched.message();
        assert!(
            message.contains(&format!("answered {}", &status[..3])) && message.contains("By hand"),
            "{message}"
        );
    }
    let around = Server::start(|_, request, out| {
        let path = request.line.strip_prefix("GET ").unwrap();
        respond(out, "302 Found", &format!("Location: {path}\r\n"), b"");
    });
    let fetched = fetch_patiently(&around, impatient());
    assert_eq!(fetched.retries(), 0);
    assert!(fetched.message().contains("redirects"));
    let babble = Server::start(|_, _, out| out.write_all(b"220 mail.example.org ESMTP\r\n\r\n").unwrap());
    let fetched = fetch_patiently(&babble, impatient());
    assert!(fetched.retries() == 0 && fetched.message().contains("cannot fetch"));
}

#[test]
fn a_server_may_say_when_to_come_again() {
    let server = failing(1, "429 Too Many", "Retry-After: 1\r\n");
    let start = Instant::now();
    let fetched = fetch_patiently(&server, impatient());
    assert_eq!(delays(&fetched), [1_000]);
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(fetched.result.unwrap().0, 5);
    // Less than the own delay, or not understood.
    for headers in
        ["Retry-After: 0\r\n", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "Retry-After: -1\r\n"]
    {
        assert_eq!(delays(&fetch_patiently(&failing(1, "503 Busy", headers), impatient())), [2], "{headers}");
    }
    let server = failing(1, "503 Busy", "Retry-After: 86400\r\n");
    let fetched = fetch_patiently(&server, impatient());
    assert_eq!((fetched.retries(), server.requests().len()), (0, 1));
    let message = fetched.message();
    assert!(message.contains("503") && message.contains("wait for 86400 s"), "{message}");
}

#[test]
fn a_wrong_file_is_named_with_both_checksums_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let body = b"another file".to_vec();
    let found = dkd_files::sha256_bytes(&body);
    let server = Server::start(move |_, request, out| good(request, out, "\"1\"", &body));
    let wanted = "ab".repeat(32);
    for calls in 1..=2 {
        let fetched = get(server.base(), Some(wanted.clone()), folder.path());
        assert_eq!(fetched.retries(), 0);
        let message = fetched.message();
        assert!(message.contains(&format!("SHA-256 checksum {found}, expected {wanted}")), "{message}");
        assert_eq!((names(folder.path()).len(), server.requests().len()), (0, calls));
        assert_eq!(server.requests()[calls - 1].first(), None, "it is not continued");
    }
}

#[test]
fn without_a_server_the_way_by_hand_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    let fetched = get(closed, None, folder.path());
    assert_eq!(fetched.retries(), 3);
    let message = fetched.message();
    let expected =
        ["By hand", "cifar-10-binary.tar.gz", "data/cifar-10-batches-bin/data_batch_1.bin", "synthetic"];
    assert!(expected.iter().all(|e| message.contains(e)), "{message}");
}

#[test]
fn an_answer_that_always_breaks_is_given_up_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    // Each try brings one more byte.
    let server = Server::start(move |_, request, out| {
        let first = request.first().unwrap_or(0);
        let headers = format!(
            "ETag: \"1\"\r\nContent-Range: bytes {first}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            body.len() - 1,
            body.len(),
            body.len() - first
        );
        let status = if request.first().is_some() { "206 Part" } else { "200 OK" };
        out.write_all(format!("HTTP/1.1 {status}\r\n{headers}").as_bytes()).unwrap();
        out.write_all(&body[first..=first]).unwrap();
    });
    let fetched = get(server.base(), None, folder.path());
    assert_eq!((fetched.retries(), server.requests().len()), (3, 4));
    let message = fetched.message();
    let kept = format!("; 4 of {} bytes are kept", good_archive().len());
    assert!(message.contains("broke after 4 bytes") && message.contains(&kept), "{message}");
    let part = folder.path().join("cifar-10-binary.tar.gz.part");
    assert_eq!(std::fs::read(part).unwrap(), good_archive()[..4]);
}

#[test]
fn retries_are_counted_anew_after_a_good_piece() {
    let total = (1 << 20) + 500_000;
    let server = Server::start(move |n, request, out| {
        let first = request.first().unwrap_or(0);
        let status = if request.first().is_some() { "206 Part" } else { "200 OK" };
        let range = format!("Content-Range: bytes {first}-{}/{total}\r\n", total - 1);
        let head =
            format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\n{range}Content-Length: {}\r\n\r\n", total - first);
        // Two tries with nothing, one with a mebibyte and more, then only faults.
        let sent = if n == 2 { (1 << 20) + 1 } else { usize::from(n == 0) };
        let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&vec![7; sent]));
    });
    let folder = tempfile::tempdir().unwrap();
    let fetched = get(server.base(), None, folder.path());
    let numbers: Vec<u32> = fetched
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Retry { number, .. } => Some(*number),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [1, 2, 1, 2, 3]);
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn endless_answers_are_cut_off() {
    let endless = |out: &mut TcpStream, head: &str| {
        let mut more = out.write_all(head.as_bytes());
        while more.is_ok() {
            more = out.write_all(&[7; 65_536]);
        }
    };
    let heads = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ];
    for head in heads {
        let server = Server::start(move |_, _, out| endless(out, head));
        let fetched = fetch_patiently(&server, impatient());
        assert_eq!(fetched.retries(), 0);
        assert!(fetched.received <= 1 << 21, "{}", fetched.received);
        let message = fetched.message();
        assert!(message.contains("longer than 2097152 bytes"), "{message}");
        // It is hung up on.
        server.wait_for_end_of(1);
    }
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let impatient = Patience {
        idle_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(400),
        ..impatient()
    };
    let body = good_archive();
    let half = body.len() / 2;
    let server = Server::start(move |n, request, out| match n {
        0 => stall(out),
        1 => {
            begin(out, "ETag: \"1\"\r\n", &body, half);
            stall(out);
        }
        _ => good(request, out, "\"1\"", &body),
    });
    let folder = tempfile::tempdir().unwrap();
    let options = FetchOptions { patience: impatient.clone(), ..options(server.base(), None) };
    let fetched = fetch_with(&options, folder.path(), &AtomicBool::new(false));
    let reasons: Vec<_> = fetched
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Retry { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    let expected = ["no answer for 800ms".to_owned(), format!("broke after {half} bytes: no byte for 400ms")];
    assert!(reasons.len() == 2 && reasons.iter().zip(expected).all(|(r, e)| r.contains(&e)), "{reasons:?}");
    assert_eq!(server.requests()[2].first(), Some(half));
    assert_eq!(fetched.result.unwrap().0, 5);
    server.wait_for_end_of(3);
    // Also behind a redirection that never ends. It comes in drops: a sender that has filled the window of a connection
    // which the other side then empties and closes is told nothing by Linux for minutes.
    let endless = Server::start(|_, _, out| {
        let mut more =
            out.write_all(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 9999999999\r\n\r\n");
        while more.is_ok() {
            std::thread::sleep(Duration::from_millis(1));
            more = out.write_all(&[7; 1_024]);
        }
    });
    let fetched = fetch_patiently(&endless, Patience { retries: 0, ..impatient });
    assert!(fetched.message().contains("no answer for 800ms"));
    endless.wait_for_end_of(1);
}
