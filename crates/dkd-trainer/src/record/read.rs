//! Reading event logs, whatever has become of them.

use super::jsonl::FORMAT;
use crate::{Error, Event, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest line that is read, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// Longest part of a parser's message that is shown: it may quote the line.
const MAX_REASON: usize = 200;

/// All kinds of events of this format. Lines of other kinds are skipped.
pub(super) const KINDS: [&str; 11] = [
    "started",
    "resumed",
    "step",
    "batch",
    "epoch",
    "evaluation",
    "diverged",
    "skipped",
    "rewound",
    "checkpoint",
    "finished",
];

/// Events of a log, one by one, in bounded memory: no more than a line is held.
///
/// Lines of unknown kinds are skipped: a later program of the same format may have written them. A last line without its
/// end is what a crash leaves: it is no event, and [`EventReader::torn`] tells it. Numbers that JSON has no name for are
/// `null` in a log and come back as NaN. After an error there are no more events.
///
/// ```
/// use dkd_trainer::{Event, record::EventReader};
/// let log = b"{\"event\":\"log\",\"format\":1}\n{\"event\":\"finished\",\"rows\":[\"kd\"]}\n{\"event\":\"st";
/// let mut reader = EventReader::new(&log[..], std::path::Path::new("events.jsonl"));
/// assert_eq!(reader.next().transpose()?, Some(Event::Finished { rows: vec!["kd".to_owned()] }));
/// assert!(reader.next().is_none());
/// assert_eq!(reader.torn(), Some(3));
/// # Ok::<(), dkd_trainer::Error>(())
/// ```
#[derive(Debug)]
pub struct EventReader<R> {
    input: R,
    /// Names the log in messages.
    path: PathBuf,
    line: Vec<u8>,
    /// Lines read.
    number: u64,
    /// Whether the version line has been seen.
    versioned: bool,
    torn: Option<u64>,
    ended: bool,
}

/// Reads the events of a file.
///
/// # Errors
/// It cannot be opened. Everything else is told while reading, with file and line: [`Error::Record`] if a line is damaged or
/// too long, or the log's format is newer.
pub fn read_events(path: &Path) -> Result<EventReader<BufReader<File>>> {
    let io = |source| dkd_files::Error::Io { action: "read", path: path.to_owned(), source };
    Ok(EventReader::new(BufReader::new(File::open(path).map_err(io)?), path))
}

impl<R: BufRead> EventReader<R> {
    /// Reads from anything; `path` names it in messages.
    pub fn new(input: R, path: &Path) -> Self {
        Self {
            input,
            path: path.to_owned(),
            line: Vec::new(),
            number: 0,
            versioned: false,
            torn: None,
            ended: false,
        }
    }

    /// Once all events have been read: the number of a last line that was cut off, if there is one.
    pub fn torn(&self) -> Option<u64> {
        self.torn
    }

    /// Reads the first line and refuses a log that this program cannot go on with.
    pub(super) fn check_version(&mut self) -> Result<()> {
        if self.read_line()? {
            self.parse()?;
        }
        Ok(())
    }

    fn fail(&self, message: &str) -> Error {
        Error::Record { path: self.path.clone(), message: format!("line {}: {message}", self.number) }
    }

    /// Takes the next line without its end; `false` if there is none.
    fn read_line(&mut self) -> Result<bool> {
        self.line.clear();
        let mut limited = (&mut self.input).take(MAX_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.line).map_err(|source| dkd_files::Error::Io {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        if read == 0 {
            self.ended = true;
            return Ok(false);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(true);
        }
        if read > MAX_LINE {
            return Err(self.fail(&format!("is longer than {MAX_LINE} bytes: this is no event log")));
        }
        self.torn = Some(self.number);
        self.ended = true;
        Ok(false)
    }

    /// The event in the line; `None` if it is of an unknown kind, or the version line.
    fn parse(&mut self) -> Result<Option<Event>> {
        let Kind { event } = self.json()?;
        if event == "log" {
            let Version { format } = self.json()?;
            if format != u64::from(FORMAT) {
                let known = format!("has format {format}; this program reads {FORMAT}");
                let newer = if format > u64::from(FORMAT) { ": a newer program wrote it" } else { "" };
                return Err(self.fail(&format!("{known}{newer}")));
            }
            self.versioned = true;
            return Ok(None);
        }
        if !self.versioned {
            return Err(self.fail(
                "is not the version line with which an event log begins: an earlier program wrote it, or it is something else",
            ));
        }
        if !KINDS.contains(&event.as_str()) {
            return Ok(None);
        }
        self.json().map(Some)
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.line).map_err(|e| {
            let text = e.to_string();
            // The parser sees a single line.
            let reason = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
            let reason: String = reason.chars().take(MAX_REASON).collect();
            self.fail(&format!("is damaged: {reason}"))
        })
    }
}

#[derive(Deserialize)]
struct Kind {
    event: String,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl<R: BufRead> Iterator for EventReader<R> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let event = self.read_line().and_then(|there| if there { self.parse() } else { Ok(None) });
            match event {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}
