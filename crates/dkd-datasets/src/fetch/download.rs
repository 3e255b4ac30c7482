//! Getting all bytes of a file, in as many tries as it takes.

use super::partial::{Origin, Partial};
use super::transfer::{Failure, Head, POLL, Transfer};
use super::{Event, Listener, Patience};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A try that brings so many bytes more than any before was worth it: retries are counted anew.
const WORTH: u64 = 1 << 20;

/// A download and how it is done.
pub(super) struct Download<'a> {
    pub url: &'a str,
    /// Most bytes that are taken.
    pub limit: u64,
    pub patience: &'a Patience,
    pub stop: &'a AtomicBool,
    pub listener: &'a mut Listener<'a>,
}

impl Download<'_> {
    /// Tries until the file is complete, or until it makes no sense any more; then the failure is not
    /// [`Failure::Passing`].
    pub fn run(&mut self, partial: &mut Partial) -> Result<(), Failure> {
        let of = self.patience.retries;
        let (mut best, mut failed) = (partial.length(), 0);
        loop {
            let (reason, wait) = match self.attempt(partial) {
                Err(Failure::Passing { reason, wait }) => (reason, wait.unwrap_or_default()),
                other => return other,
            };
            if partial.length() >= best.saturating_add(WORTH) {
                (best, failed) = (partial.length(), 0);
            }
            if failed == of {
                return Err(Failure::Lasting(format!("{reason} (try {} of {})", failed + 1, of + 1)));
            }
            if wait > self.patience.longest_wait {
                let wait = wait.as_secs();
                return Err(Failure::Lasting(format!("{reason}, and the server asks to wait for {wait} s")));
            }
            failed += 1;
            let delay = delay(self.patience, failed).max(wait);
            (self.listener)(&Event::Retry { number: failed, of, delay, reason });
            self.pause(delay)?;
        }
    }

    fn attempt(&mut self, partial: &mut Partial) -> Result<(), Failure> {
        if partial.is_complete() {
            return Ok(());
        }
        if partial.length() > 0 && !partial.can_go_on() {
            self.restarted("the server gave nothing by which the file can be recognised");
            partial.forget()?;
        }
        let from = partial.length();
        let mut headers = Vec::new();
        if from > 0 {
            headers.push(("Range", format!("bytes={from}-")));
            if let Some(validator) = partial.origin().validator() {
                headers.push(("If-Range", validator.to_owned()));
            }
        }
        let transfer = Transfer::start(self.url, headers, self.patience)?;
        let head = transfer.head(self.stop)?;
        match head.status {
            200 => self.begin(head, partial)?,
            206 if from > 0 => self.go_on(&head, partial)?,
            416 if from > 0 => return self.past_the_end(&head, partial),
            404 | 410 => {
                return Err(Failure::Lasting(format!(
                    "the server answered {}: it lacks the file",
                    head.answer
                )));
            }
            408 | 429 | 500..=599 => {
                let reason = format!("the server answered {}", head.answer);
                return Err(Failure::Passing { reason, wait: head.retry_after });
            }
            _ => return Err(Failure::Lasting(format!("the server answered {}", head.answer))),
        }
        self.receive(&transfer, partial)
    }

    /// The whole file comes.
    fn begin(&mut self, head: Head, partial: &mut Partial) -> Result<(), Failure> {
        if head.length.is_some_and(|length| length > self.limit) {
            return Err(self.too_long());
        }
        if partial.length() > 0 {
            self.restarted(
                "the server sends the whole file: it is another one now, or parts cannot be asked for",
            );
        }
        let url = self.url.to_owned();
        Ok(partial.begin(Origin { url, etag: head.etag, modified: head.modified, size: head.length })?)
    }

    /// A part comes: is it the one that was asked for, of the same file?
    fn go_on(&mut self, head: &Head, partial: &mut Partial) -> Result<(), Failure> {
        let (from, origin) = (partial.length(), partial.origin());
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        let range = head.range.as_deref().unwrap_or("none");
        let wrong = match Range::parse(range) {
            Some(Range { first: Some(first), .. }) if first != from => Some("begins elsewhere"),
            Some(Range { first: None, .. }) | None => Some("makes no sense"),
            Some(Range { total, .. }) if origin.size.is_some() && total.is_some() && total != origin.size => {
                Some("is of a file of another size")
            }
            Some(_) if differ(&head.etag, &origin.etag) || differ(&head.modified, &origin.modified) => {
                Some("is of another version of the file")
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let reason = format!(
                "the server's part ({range}, asked for from {from}) {wrong}; from the beginning then"
            );
            partial.forget()?;
            return Err(Failure::passing(reason));
        }
        partial.go_on()?;
        (self.listener)(&Event::Resumed { from, total: partial.size() });
        Ok(())
    }

    /// The server has nothing more to send: the file is complete, or it is another one.
    fn past_the_end(&self, head: &Head, partial: &mut Partial) -> Result<(), Failure> {
        let total = head.range.as_deref().and_then(Range::parse).and_then(|range| range.total);
        // With a known size it would not have been asked.
        if partial.size().is_none() && total == Some(partial.length()) {
            return Ok(partial.complete()?);
        }
        let from = partial.length();
        let reason = format!("the server has no part of the file from {from} on; from the beginning then");
        partial.forget()?;
        Err(Failure::passing(reason))
    }

    fn receive(&mut self, transfer: &Transfer, partial: &mut Partial) -> Result<(), Failure> {
        loop {
            let piece = transfer.piece(self.stop).map_err(|failure| match failure {
                Failure::Passing { reason, wait } => {
                    let reason = format!("the connection broke after {} bytes: {reason}", partial.length());
                    Failure::Passing { reason, wait }
                }
                other => other,
            })?;
            let Some(bytes) = piece else { break };
            if partial.length() + bytes.len() as u64 > self.limit {
                // The beginning of something endless is of no use.
                partial.forget()?;
                return Err(self.too_long());
            }
            partial.append(&bytes)?;
            (self.listener)(&Event::Progress { received: partial.length(), total: partial.size() });
        }
        match partial.size() {
            Some(size) if size > partial.length() => {
                Err(Failure::passing(format!("only {} of {size} bytes arrived", partial.length())))
            }
            Some(size) if size < partial.length() => {
                let reason = format!("{} bytes arrived, more than the {size} announced", partial.length());
                partial.forget()?;
                Err(Failure::passing(reason))
            }
            _ => Ok(partial.complete()?),
        }
    }

    fn too_long(&self) -> Failure {
        Failure::Lasting(format!("the answer is longer than {} bytes, so it is something else", self.limit))
    }

    fn restarted(&mut self, reason: &str) {
        (self.listener)(&Event::Restarted { reason: reason.to_owned() });
    }

    /// Waits, unless it is asked to stop.
    fn pause(&self, time: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}

/// Time before the retry `number`, from 1: it doubles each time.
fn delay(patience: &Patience, number: u32) -> Duration {
    let factor = 2_u32.saturating_pow(number.saturating_sub(1));
    patience.first_delay.saturating_mul(factor).min(patience.longest_delay)
}

/// `Content-Range: bytes FIRST-LAST/TOTAL`, where either half may be unknown (`*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: Option<u64>,
    total: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (part, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        if part == "*" {
            return Some(Self { first: None, total });
        }
        let (first, last) = part.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && total.is_none_or(|total| last < total))
            .then_some(Self { first: Some(first), total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        let range = |first, total| Some(Range { first, total });
        let cases = [
            ("bytes 3-9/10", range(Some(3), Some(10))),
            ("bytes 0-0/*", range(Some(0), None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes 3-10/10", None),
            ("bytes 4-3/10", None),
            ("bytes 3-/10", None),
            ("bytes -3/10", None),
            ("items 3-9/10", None),
            ("bytes 3-9", None),
            ("bytes 3-99999999999999999999/*", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Range::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn delays_double_up_to_a_limit() {
        let patience = Patience::default();
        let delays: Vec<u64> = (1..=7).map(|n| delay(&patience, n).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(delay(&patience, u32::MAX).as_secs(), 30);
        let eager = Patience { first_delay: Duration::ZERO, ..patience };
        assert_eq!(delay(&eager, 40), Duration::ZERO);
    }
}
