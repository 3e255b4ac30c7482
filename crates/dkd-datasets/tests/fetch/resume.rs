//! Partial files: when they go on, and when not.

use super::server::{Request, Server, begin, good, respond, stall};
use super::{TINY, fetch_with, get, good_archive, names, ok, options};
use dkd_datasets::fetch::{Checked, Event, FetchOptions, Patience};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PART: &str = "cifar-10-binary.tar.gz.part";
const INFO: &str = "cifar-10-binary.tar.gz.part.info";

/// A server whose first answer, with `headers`, breaks off in the middle; the others are `answer`'s.
fn broken_once(
    headers: &'static str,
    answer: impl Fn(&Request, &mut TcpStream, &[u8]) + Send + Sync + 'static,
) -> (Server, usize) {
    let body = good_archive();
    let half = body.len() / 2;
    let server = Server::start(move |n, request, out| match n {
        0 => begin(out, headers, &body, half),
        _ => answer(request, out, &body),
    });
    (server, half)
}

/// Ranges and conditions that were asked for.
fn asked(server: &Server) -> Vec<(Option<usize>, String)> {
    server.requests().iter().map(|r| (r.first(), r.header("if-range").to_owned())).collect()
}

fn part_length(folder: &Path) -> u64 {
    std::fs::metadata(folder.join(PART)).unwrap().len()
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let folder = tempfile::tempdir().unwrap();
    let (server, half) =
        broken_once("ETag: \"1\"\r\n", |request, out, body| good(request, out, "\"1\"", body));
    let sha = dkd_files::sha256_bytes(&good_archive());
    let fetched = get(server.base(), Some(sha), folder.path());
    assert_eq!(fetched.result.unwrap(), (5, Checked::Sha256));
    assert_eq!(asked(&server), [(None, String::new()), (Some(half), "\"1\"".to_owned())]);
    let total = good_archive().len() as u64;
    assert_eq!(fetched.received, total);
    let [Event::Retry { number: 1, of: 3, reason, .. }, resumed, Event::Unpacking] = &fetched.events[..]
    else {
        panic!("{:?}", fetched.events);
    };
    assert!(reason.contains(&format!("the connection broke after {half} bytes")), "{reason}");
    assert_eq!(*resumed, Event::Resumed { from: half as u64, total: Some(total) });
    assert_eq!(names(folder.path()), ["cifar-10-batches-bin"]);
}

#[test]
fn a_date_recognises_the_file_too_and_without_either_it_begins_anew() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let cases = [
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", date),
        ("ETag: W/\"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", date),
        ("ETag: W/\"1\"\r\n", ""),
        ("", ""),
    ];
    for (headers, condition) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (server, half) = broken_once(headers, move |request, out, body| match request.first() {
            Some(first) => {
                let range = format!("Content-Range: bytes {first}-{}/{}\r\n", body.len() - 1, body.len());
                respond(out, "206 Partial Content", &range, &body[first..]);
            }
            None => respond(out, "200 OK", "", body),
        });
        let fetched = get(server.base(), None, folder.path());
        assert_eq!(fetched.result.unwrap(), (5, Checked::ContentOnly), "{headers}");
        let first = (!condition.is_empty()).then_some(half);
        assert_eq!(asked(&server)[1], (first, condition.to_owned()), "{headers}");
        let restarted = fetched.events.iter().any(|e| matches!(e, Event::Restarted { .. }));
        assert_eq!(restarted, condition.is_empty(), "{headers}");
    }
}

#[test]
fn with_a_checksum_a_file_without_marks_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (server, half) = broken_once("", |request, out, body| good(request, out, "\"1\"", body));
    let sha = dkd_files::sha256_bytes(&good_archive());
    assert_eq!(get(server.base(), Some(sha), folder.path()).result.unwrap().1, Checked::Sha256);
    assert_eq!(asked(&server)[1], (Some(half), String::new()));
}

#[test]
fn a_server_without_ranges_sends_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let (server, half) =
        broken_once("ETag: \"1\"\r\n", |_, out, body| respond(out, "200 OK", "ETag: \"1\"\r\n", body));
    let fetched = get(server.base(), None, folder.path());
    assert_eq!(fetched.result.unwrap().0, 5);
    assert_eq!(asked(&server)[1].0, Some(half));
    assert_eq!(fetched.received, good_archive().len() as u64, "nothing is put twice");
    assert!(fetched.events.iter().any(|e| matches!(e, Event::Restarted { .. })));
}

#[test]
fn a_file_that_changed_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let changed = |request: &Request, out: &mut TcpStream, body: &[u8]| good(request, out, "\"2\"", body);
    let (server, half) = broken_once("ETag: \"1\"\r\n", changed);
    assert_eq!(get(server.base(), None, folder.path()).result.unwrap().0, 5);
    assert_eq!(asked(&server), [(None, String::new()), (Some(half), "\"1\"".to_owned())]);
}

#[test]
fn a_wrong_part_is_not_put_to_the_others() {
    // What the server says about the part that it sends, and what it then sends.
    let cases = [
        ("ETag: \"1\"\r\nContent-Range: bytes 0-{last}/{total}\r\n", 0, "begins elsewhere"),
        ("ETag: \"1\"\r\nContent-Range: bytes {next}-{last}/{total}\r\n", 1, "begins elsewhere"),
        ("ETag: \"2\"\r\nContent-Range: bytes {first}-{last}/{total}\r\n", 0, "another version"),
        ("ETag: \"1\"\r\nContent-Range: bytes {first}-{last}/999999\r\n", 0, "another size"),
        ("ETag: \"1\"\r\nContent-Range: bytes */{total}\r\n", 0, "makes no sense"),
        ("ETag: \"1\"\r\nContent-Range: parts\r\n", 0, "makes no sense"),
        ("ETag: \"1\"\r\n", 0, "makes no sense"),
    ];
    for (headers, skipped, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (server, _) = broken_once("ETag: \"1\"\r\n", move |request, out, body| match request.first() {
            Some(first) => {
                let values = [
                    ("{first}", first),
                    ("{next}", first + 1),
                    ("{last}", body.len() - 1),
                    ("{total}", body.len()),
                ];
                let headers = values
                    .iter()
                    .fold(headers.to_owned(), |text, (name, value)| text.replace(name, &value.to_string()));
                respond(out, "206 Partial Content", &headers, &body[first + skipped..]);
            }
            None => good(request, out, "\"1\"", body),
        });
        let fetched = get(server.base(), None, folder.path());
        assert_eq!((fetched.retries(), asked(&server)[2].0), (2, None), "{headers}");
        let said = |e: &Event| matches!(e, Event::Retry { reason, .. } if reason.contains(expected));
        assert!(fetched.events.iter().any(said), "{expected}: {:?}", fetched.events);
        assert_eq!(fetched.result.unwrap().0, 5, "{headers}");
    }
}

#[test]
fn a_short_part_is_one_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let (server, half) = broken_once("ETag: \"1\"\r\n", |request, out, body| {
        let first = request.first().unwrap();
        let end = (first + 100).min(body.len());
        let headers = format!("Content-Range: bytes {first}-{}/{}\r\n", end - 1, body.len());
        respond(out, "206 Partial Content", &headers, &body[first..end]);
    });
    let mut patient = options(server.base(), None);
    patient.patience.retries = 1_000;
    assert_eq!(fetch_with(&patient, folder.path(), &AtomicBool::new(false)).result.unwrap().0, 5);
    let firsts: Vec<_> = asked(&server).iter().skip(1).map(|(first, _)| first.unwrap()).collect();
    assert!(firsts.len() > 1 && firsts.iter().enumerate().all(|(i, f)| *f == half + 100 * i), "{firsts:?}");
}

#[test]
fn a_later_call_goes_on_and_a_complete_file_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let half = body.len() / 2;
    let down = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&down);
    let server =
        Server::start(move |_, request, out| match (broken.load(Ordering::Relaxed), request.first()) {
            (true, None) => begin(out, "ETag: \"1\"\r\n", &body, half),
            (true, Some(_)) => respond(out, "503 Sorry", "", b""),
            (false, _) => good(request, out, "\"1\"", &body),
        });
    let fetched = get(server.base(), None, folder.path());
    assert_eq!(fetched.retries(), 3);
    let message = fetched.message();
    let part = folder.path().join(PART);
    let kept = format!("{half} of {} bytes are kept in `{}`", good_archive().len(), part.display());
    assert!(
        message.contains(&kept) && message.contains("By hand") && message.contains("try 4 of 4"),
        "{message}"
    );
    assert_eq!(std::fs::read(&part).unwrap(), good_archive()[..half]);
    assert_eq!(names(folder.path()), [PART, INFO]);
    // Another address has nothing to do with it.
    let other = ok(b"something else".to_vec());
    get(other.base(), Some("0".repeat(64)), folder.path()).result.unwrap_err();
    assert_eq!((asked(&other)[0].0, names(folder.path()).len()), (None, 0), "a wrong file is removed");
    // As it was, and the server is well again.
    get(server.base(), None, folder.path()).result.unwrap_err();
    down.store(false, Ordering::Relaxed);
    let before = server.requests().len();
    let fetched = get(server.base(), None, folder.path());
    assert_eq!(
        fetched.events[0],
        Event::Resumed { from: half as u64, total: Some(good_archive().len() as u64) }
    );
    assert_eq!(fetched.result.unwrap().0, 5);
    assert_eq!(server.requests().len(), before + 1);
}

#[test]
fn what_is_complete_is_not_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let server = ok(body.clone());
    let info =
        |size: &str| format!("dkd partial file 1\nurl {}{}\netag \"1\"\n{size}", server.base(), TINY.archive);
    std::fs::write(folder.path().join(PART), &body).unwrap();
    std::fs::write(folder.path().join(INFO), info(&format!("size {}\n", body.len()))).unwrap();
    assert_eq!(get(server.base(), None, folder.path()).result.unwrap().0, 5);
    assert_eq!(server.requests().len(), 0);
    // Its size was never told: the server is asked for the rest, and there is none.
    let whole = good_archive();
    let server = Server::start(move |_, request, out| good(request, out, "\"1\"", &whole));
    let info = format!("dkd partial file 1\nurl {}{}\netag \"1\"\n", server.base(), TINY.archive);
    std::fs::write(folder.path().join(PART), &body).unwrap();
    std::fs::write(folder.path().join(INFO), &info).unwrap();
    assert_eq!(get(server.base(), None, folder.path()).result.unwrap().0, 5);
    assert_eq!(asked(&server), [(Some(body.len()), "\"1\"".to_owned())]);
    // More than the server has: it is another file.
    std::fs::write(folder.path().join(PART), [&body[..], b"more"].concat()).unwrap();
    std::fs::write(folder.path().join(INFO), &info).unwrap();
    let fetched = get(server.base(), None, folder.path());
    assert_eq!((fetched.retries(), fetched.result.unwrap().0), (1, 5));
    assert_eq!(asked(&server)[2], (None, String::new()));
}

#[test]
fn a_damaged_part_is_found_by_its_checksum_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let sha = dkd_files::sha256_bytes(&body);
    let server = Server::start(move |_, request, out| good(request, out, "\"1\"", &body));
    let info = format!("dkd partial file 1\nurl {}{}\netag \"1\"\n", server.base(), TINY.archive);
    std::fs::write(folder.path().join(PART), vec![0; 50]).unwrap();
    std::fs::write(folder.path().join(INFO), info).unwrap();
    let message = get(server.base(), Some(sha.clone()), folder.path()).message();
    assert!(message.contains(&format!("expected {sha}")), "{message}");
    assert_eq!(names(folder.path()).len(), 0);
    assert_eq!(get(server.base(), Some(sha), folder.path()).result.unwrap().0, 5);
}

#[test]
fn two_at_once_are_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let server = Server::start(|_, _, out| stall(out));
    let first = {
        let (stop, folder) = (Arc::clone(&stop), folder.path().to_owned());
        let options = options(server.base(), None);
        std::thread::spawn(move || fetch_with(&options, &folder, &stop).message())
    };
    let start = Instant::now();
    while server.requests().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    let message = get(server.base(), None, folder.path()).message();
    assert!(message.contains("in use by process") && message.contains("fetching cifar10"), "{message}");
    assert_eq!(server.requests().len(), 1);
    stop.store(true, Ordering::Relaxed);
    let message = first.join().unwrap();
    assert!(message.starts_with("stopped; nothing had arrived"), "{message}");
}

#[test]
fn a_stop_ends_the_wait_and_keeps_what_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let body = good_archive();
    let half = body.len() / 2;
    let (stop, set) = (Arc::new(AtomicBool::new(false)), Arc::<std::sync::Mutex<Option<Instant>>>::default());
    let (stopper, when) = (Arc::clone(&stop), Arc::clone(&set));
    let server = Server::start(move |n, request, out| match n {
        0 => {
            begin(out, "ETag: \"1\"\r\n", &body, half);
            std::thread::sleep(Duration::from_millis(200));
            *when.lock().unwrap() = Some(Instant::now());
            stopper.store(true, Ordering::Relaxed);
            stall(out);
        }
        _ => good(request, out, "\"1\"", &body),
    });
    let message = fetch_with(&options(server.base(), None), folder.path(), &stop).message();
    let waited = set.lock().unwrap().unwrap().elapsed();
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    assert!(message.starts_with(&format!("stopped; {half} of ")) && message.contains("goes on"), "{message}");
    // The connection is not left open either.
    server.wait_for_end_of(1);
    assert_eq!(part_length(folder.path()), half as u64);
    assert_eq!(get(server.base(), None, folder.path()).result.unwrap().0, 5);
    assert_eq!(asked(&server)[1], (Some(half), "\"1\"".to_owned()));
    // Between two tries.
    let server = Server::start(|_, _, out| respond(out, "500 Oops", "", b""));
    let slow = Patience {
        first_delay: Duration::from_secs(60),
        longest_delay: Duration::from_secs(60),
        ..Patience::default()
    };
    let options = FetchOptions { patience: slow, ..options(server.base(), None) };
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = Arc::clone(&stop);
    let start = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stopper.store(true, Ordering::Relaxed);
    });
    let message = fetch_with(&options, folder.path(), &stop).message();
    assert!(message.starts_with("stopped") && start.elapsed() < Duration::from_secs(5), "{message}");
}
