//! A small HTTP server that does what a test tells it, good or bad.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method and target, as they stand in the first line.
    pub line: String,
    /// Headers; names are in small letters.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// Up to the empty line; `None` if the client hangs up before.
    fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut lines = from.lines().map_while(Result::ok);
        let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
        let mut headers = BTreeMap::new();
        for header in lines.take_while(|l| !l.is_empty()) {
            let (name, value) = header.split_once(':').unwrap();
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        Some(Self { line, headers })
    }

    /// A header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first byte asked for, of `Range: bytes=FIRST-`.
    pub fn first(&self) -> Option<usize> {
        Some(self.header("range").strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap())
    }
}

/// Answers on a port of its own as long as the program runs. It also takes itself for a proxy: after `CONNECT` it answers
/// what comes through the tunnel.
pub struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<Mutex<usize>>,
}

impl Server {
    /// `answer` gets the number of the request, `CONNECT` not counted, the request, and where to write.
    pub fn start(answer: impl Fn(usize, &Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, ended) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<usize>>::default());
        let server = Self { port, requests: Arc::clone(&requests), ended: Arc::clone(&ended) };
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (requests, ended, answer) =
                    (Arc::clone(&requests), Arc::clone(&ended), Arc::clone(&answer));
                std::thread::spawn(move || {
                    handle(stream.unwrap(), &requests, &*answer);
                    *ended.lock().unwrap() += 1;
                });
            }
        });
        server
    }

    /// Base address of everything.
    pub fn base(&self) -> String {
        format!("{}/some/where/", self.address())
    }

    /// The server's own address.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until so many connections have ended.
    pub fn wait_for_end_of(&self, connections: usize) {
        let start = Instant::now();
        while *self.ended.lock().unwrap() < connections {
            assert!(start.elapsed() < Duration::from_secs(20), "a connection stays open");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn handle(
    mut stream: TcpStream,
    requests: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request, &mut TcpStream),
) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = Request::read(&mut input) {
        let number = {
            let mut all = requests.lock().unwrap();
            all.push(request.clone());
            all.iter().filter(|r| !r.line.starts_with("CONNECT ")).count().saturating_sub(1)
        };
        if !request.line.starts_with("CONNECT ") {
            return answer(number, &request, &mut stream);
        }
        stream.write_all(b"HTTP/1.1 200 go ahead\r\n\r\n").unwrap();
    }
}

/// The client may hang up on a bad answer.
fn send(out: &mut TcpStream, head: &str, body: &[u8]) {
    let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
}

/// A whole answer with `headers`, each ended by `\r\n`, after which the connection closes.
pub fn respond(out: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    send(out, &head, body);
}

/// The beginning of an answer that announces `body` but sends only `sent` bytes of it.
pub fn begin(out: &mut TcpStream, headers: &str, body: &[u8], sent: usize) {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    send(out, &head, &body[..sent]);
}

/// What a good server answers: the part that was asked for, if its file is still the one with `etag`.
pub fn good(request: &Request, out: &mut TcpStream, etag: &str, body: &[u8]) {
    let own = format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\n");
    let same = ["", etag].contains(&request.header("if-range"));
    match request.first().filter(|_| same) {
        Some(first) if first < body.len() => {
            let range = format!("Content-Range: bytes {first}-{}/{}\r\n", body.len() - 1, body.len());
            respond(out, "206 Partial Content", &format!("{own}{range}"), &body[first..]);
        }
        Some(_) => {
            let range = format!("Content-Range: bytes */{}\r\n", body.len());
            respond(out, "416 Range Not Satisfiable", &range, b"");
        }
        None => respond(out, "200 OK", &own, body),
    }
}

/// Does nothing until the client hangs up.
pub fn stall(out: &mut TcpStream) {
    let _ = out.flush();
    let _ = out.read(&mut [0]);
}
