//! A download on the terminal: a bar, or plain lines where there is none.

use crate::output;
use anyhow::{Context, Result};
use dkd_datasets::fetch::{Checked, Event, FetchOptions, fetch};
use dkd_datasets::{Dataset, DatasetSpec};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Without a terminal, a line about the progress comes no sooner than this after the last line.
const EVERY: Duration = Duration::from_secs(10);

/// Fetches a data set and shows how far it is, until `stop` is set.
pub fn download(
    spec: &'static DatasetSpec,
    to: &Path,
    options: &FetchOptions,
    stop: &AtomicBool,
) -> Result<Dataset> {
    let mut shown = Shown::new(spec)?;
    let result = fetch(spec, to, options, stop, &mut |event| shown.event(event));
    shown.bar.finish_and_clear();
    let (data, checked) = result?;
    if checked == Checked::ContentOnly {
        output::note("no checksum was given for this server: sizes and labels were checked, nothing else");
    }
    Ok(data)
}

/// What is shown of a download.
struct Shown {
    /// Hidden if standard error is no terminal.
    bar: ProgressBar,
    name: &'static str,
    /// When this try's first bytes came, and how many were here before.
    begun: Option<(Instant, u64)>,
    /// Bytes that are here.
    received: u64,
    /// When the last line was printed.
    said: Instant,
}

impl Shown {
    fn new(spec: &'static DatasetSpec) -> Result<Self> {
        let bar = ProgressBar::new(spec.archive_bytes);
        let template =
            "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} {wide_msg}";
        bar.set_style(ProgressStyle::with_template(template).context("the progress bar's template")?);
        Ok(Self { bar, name: spec.name, begun: None, received: 0, said: Instant::now() })
    }

    fn say(&mut self, line: &str) {
        self.said = Instant::now();
        if self.bar.is_hidden() {
            output::note(line);
        } else {
            self.bar.println(line);
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Progress { received, total } => self.progress(*received, *total),
            Event::Resumed { from, .. } => {
                self.received = *from;
                self.say(&format!("{}: going on after {} that are here", self.name, megabytes(*from)));
            }
            Event::Restarted { reason } => {
                self.received = 0;
                self.say(&format!("{}: from the beginning, since {reason}", self.name));
            }
            Event::Retry { number, of, delay, reason } => {
                self.begun = None;
                let delay = delay.as_secs_f64();
                self.say(&format!("{}: {reason}; retry {number} of {of} in {delay:.0} s", self.name));
            }
            Event::Unpacking => {
                self.bar.set_message("checking and unpacking");
                if self.bar.is_hidden() {
                    self.say(&format!("{}: checking and unpacking", self.name));
                }
            }
        }
    }

    fn progress(&mut self, received: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        // After a restart there are fewer than before.
        let (begin, before) = *self.begun.get_or_insert_with(|| {
            let before = self.received.min(received);
            self.bar.set_position(before);
            // What was here before says nothing about the rate.
            self.bar.reset_eta();
            (Instant::now(), before)
        });
        self.received = received;
        self.bar.set_position(received);
        if self.bar.is_hidden() && self.said.elapsed() >= EVERY {
            let rate = (received - before) as f64 / begin.elapsed().as_secs_f64().max(1e-9);
            let line = line(received, total, rate);
            self.say(&format!("{}: {line}", self.name));
        }
    }
}

/// How far it is, at `rate` bytes per second.
fn line(received: u64, total: Option<u64>, rate: f64) -> String {
    let speed = rate / 1e6;
    match total {
        Some(total) => {
            let left = total.saturating_sub(received) as f64 / rate.max(1.0);
            format!("{} of {}, {speed:.1} MB/s, {left:.0} s left", megabytes(received), megabytes(total))
        }
        None => format!("{}, {speed:.1} MB/s", megabytes(received)),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_bytes_rate_and_time_left() {
        let text = line(17_000_000, Some(170_052_171), 2_100_000.0);
        assert_eq!(text, "17.0 MB of 170.1 MB, 2.1 MB/s, 73 s left");
        assert_eq!(line(500_000, None, 250_000.0), "0.5 MB, 0.2 MB/s");
    }

    #[test]
    fn the_rate_counts_what_came_since_the_last_try() {
        let mut shown = Shown::new(dkd_datasets::spec("cifar10").unwrap()).unwrap();
        let total = Some(1_000);
        let before = |shown: &Shown| shown.begun.map(|(_, before)| before);
        for event in [
            Event::Resumed { from: 400, total },
            Event::Progress { received: 410, total },
            Event::Progress { received: 500, total },
        ] {
            shown.event(&event);
        }
        assert_eq!((before(&shown), shown.received), (Some(400), 500));
        let retry = Event::Retry { number: 1, of: 5, delay: Duration::ZERO, reason: "it broke".to_owned() };
        shown.event(&retry);
        assert_eq!(before(&shown), None);
        // The server begins anew.
        for event in
            [Event::Restarted { reason: "it can".to_owned() }, Event::Progress { received: 10, total }]
        {
            shown.event(&event);
        }
        assert_eq!((before(&shown), shown.received), (Some(0), 10));
    }
}
