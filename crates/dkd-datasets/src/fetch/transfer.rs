//! One exchange with a server, in a thread of its own: whoever waits for it can turn away at any moment.

use super::Patience;
use crate::Error;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use ureq::http::Response;

/// How often somebody who waits looks at the stop flag.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// Most bytes in one piece of the body.
const PIECE: usize = 1 << 16;

/// Pieces that may lie ahead of the one who writes them.
const AHEAD: usize = 16;

const MAX_REDIRECTS: u32 = 5;

/// Why something did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// The stop flag was set.
    Stopped,
    /// Another try may succeed, not before the time that the server asked for.
    Passing { reason: String, wait: Option<Duration> },
    /// Another try would end the same way.
    Lasting(String),
    /// It is this machine's fault.
    Local(Error),
}

impl Failure {
    pub fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), wait: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        use ureq::Error::{ConnectionFailed, HostNotFound, Io, Timeout};
        match error {
            // Refused certificates and other lasting faults; everything else may be a network that is just coming up.
            Io(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput) => {
                Self::Lasting(e.to_string())
            }
            Io(e) => Self::passing(e.to_string()),
            Timeout(e) => Self::passing(format!("the server takes too long ({e})")),
            HostNotFound | ConnectionFailed => Self::passing(error.to_string()),
            _ => Self::Lasting(error.to_string()),
        }
    }
}

/// The head of an answer, as far as it matters.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    /// The status in words.
    pub answer: String,
    pub etag: Option<String>,
    pub modified: Option<String>,
    /// Bytes of the body.
    pub length: Option<u64>,
    /// The header `Content-Range`.
    pub range: Option<String>,
    /// The header `Retry-After`, if it is in seconds.
    pub retry_after: Option<Duration>,
}

impl Head {
    fn new<T>(response: &Response<T>) -> Self {
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let number = |name: &str| header(name)?.trim().parse().ok();
        Self {
            status: response.status().as_u16(),
            answer: response.status().to_string(),
            etag: header("etag"),
            modified: header("last-modified"),
            length: number("content-length"),
            range: header("content-range"),
            retry_after: number("retry-after").map(Duration::from_secs),
        }
    }
}

/// What the thread says.
enum Message {
    Head(Head),
    Piece(Vec<u8>),
    End,
    Failed(Failure),
}

/// An exchange that goes on. Dropping it closes its connection.
///
/// The order matters: the thread must not go on reading once the connection is shut. If it empties what has arrived, the
/// connection closes in peace, and a server that waits for room is told nothing for minutes; bytes left unread are a reset.
pub(super) struct Transfer {
    messages: Receiver<Message>,
    patience: Patience,
    _connection: Connection,
}

/// Shuts all connections of its agent when it is dropped.
struct Connection(ureq::Agent);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.clone().shutdown();
    }
}

impl Transfer {
    /// Asks for `url`.
    pub fn start(
        url: &str,
        headers: Vec<(&'static str, String)>,
        patience: &Patience,
    ) -> Result<Self, Failure> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            .timeout_resolve(Some(patience.connect_timeout))
            .timeout_connect(Some(patience.connect_timeout))
            // The archive's bytes as they are: ranges and checksums are about them.
            .accept_encoding("identity")
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let (sender, messages) = sync_channel(AHEAD);
        let (url, asker) = (url.to_owned(), agent.clone());
        let work = move || {
            if let Err(failure) = exchange(&asker, &url, &headers, &sender) {
                // Nobody waits any more: then nobody wants to know.
                let _ = sender.send(Message::Failed(failure));
            }
        };
        let spawned = std::thread::Builder::new().name("fetch".to_owned()).spawn(work);
        spawned.map_err(|e| Failure::Lasting(format!("cannot start a thread: {e}")))?;
        Ok(Self { messages, patience: patience.clone(), _connection: Connection(agent) })
    }

    /// Waits for the head of the answer, that of the last redirection.
    pub fn head(&self, stop: &AtomicBool) -> Result<Head, Failure> {
        let limit = self.patience.connect_timeout.saturating_add(self.patience.idle_timeout);
        match self.receive("no answer", limit, stop)? {
            Message::Head(head) => Ok(head),
            Message::Failed(failure) => Err(failure),
            Message::Piece(_) | Message::End => Err(Failure::passing("the answer has no head")),
        }
    }

    /// Waits for the next piece of the body; `None` at its end.
    pub fn piece(&self, stop: &AtomicBool) -> Result<Option<Vec<u8>>, Failure> {
        match self.receive("no byte", self.patience.idle_timeout, stop)? {
            Message::Piece(bytes) => Ok(Some(bytes)),
            Message::End => Ok(None),
            Message::Failed(failure) => Err(failure),
            Message::Head(_) => Err(Failure::passing("the answer has two heads")),
        }
    }

    fn receive(&self, missing: &str, limit: Duration, stop: &AtomicBool) -> Result<Message, Failure> {
        let start = Instant::now();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            let left = limit.saturating_sub(start.elapsed());
            match self.messages.recv_timeout(POLL.min(left)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(Failure::passing(format!("{missing} for {limit:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::passing("the answer broke off")),
            }
        }
    }
}

/// The thread's work: ends early when nobody listens.
fn exchange(
    agent: &ureq::Agent,
    url: &str,
    headers: &[(&'static str, String)],
    to: &SyncSender<Message>,
) -> Result<(), Failure> {
    let asked = headers.iter().fold(agent.get(url), |request, (name, value)| request.header(*name, value));
    let response = asked.call()?;
    if to.send(Message::Head(Head::new(&response))).is_err() {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; PIECE];
    loop {
        let n = body.read(&mut buffer).map_err(ureq::Error::from)?;
        let message = if n == 0 { Message::End } else { Message::Piece(buffer[..n].to_vec()) };
        if to.send(message).is_err() || n == 0 {
            return Ok(());
        }
    }
}
