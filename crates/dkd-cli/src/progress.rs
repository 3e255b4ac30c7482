//! Progress on the terminal: a bar, or plain lines where there is none.

use crate::output;
use dkd_trainer::checkpoint::LogMark;
use dkd_trainer::{Event, Result, Sink, TermValue};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Without a terminal, a line between two epochs comes no sooner than this after the last line.
const EVERY: Duration = Duration::from_secs(30);

/// Rows whose losses are in such a line; a terminal's bar has room for one.
const ROWS_IN_LINE: usize = 3;

/// Shows events to a person.
pub struct Progress {
    bar: ProgressBar,
    epochs: usize,
    batches: usize,
    /// Batches that an earlier part of the run did.
    skipped: usize,
    start: Instant,
    /// When the last line was printed.
    said: Instant,
    /// Trained on so far, by all rows together.
    images: usize,
    waited: f64,
    /// Rows that have not ended, in their order.
    rows: Vec<Latest>,
    /// Test accuracies of the epoch.
    tests: Vec<(String, f64)>,
    /// What is tested with.
    tested: &'static str,
}

/// A row's last step, or the mean of its last steps where a device keeps them together; nothing before the first.
struct Latest {
    row: String,
    loss: Option<f64>,
    terms: Vec<TermValue>,
}

impl Latest {
    fn new(row: &str) -> Self {
        Self { row: row.to_owned(), loss: None, terms: Vec::new() }
    }
}

impl Progress {
    /// A bar if standard error is a terminal.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::new(1)
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:20} {pos}/{len} {eta} {wide_msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self {
            bar,
            epochs: 0,
            batches: 0,
            skipped: 0,
            start: now,
            said: now,
            images: 0,
            waited: 0.0,
            rows: Vec::new(),
            tests: Vec::new(),
            tested: "test",
        }
    }

    /// The same for a run whose test images are others than the data set's.
    pub fn tested_with(self, tested: &'static str) -> Self {
        Self { tested, ..self }
    }

    fn say(&mut self, line: &str) {
        self.said = Instant::now();
        if self.bar.is_hidden() {
            output::note(line);
        } else {
            self.bar.println(line);
        }
    }

    /// Images per second, all rows counted.
    fn rate(&self) -> f64 {
        self.images as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    fn at(&self, epoch: usize, batch: usize) -> At {
        At { epoch, epochs: self.epochs, batch, batches: self.batches, skipped: self.skipped }
    }

    /// After a batch, counted from 0: the bar, or a line if there was none for a while.
    fn show(&mut self, epoch: usize, batch: usize) {
        if self.bar.is_hidden() {
            if self.said.elapsed() >= EVERY {
                let at = self.at(epoch, batch + 1);
                let line = line(
                    at,
                    self.rate(),
                    self.start.elapsed().as_secs_f64(),
                    &losses(&self.rows, ROWS_IN_LINE),
                );
                self.say(&line);
            }
            return;
        }
        self.bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        self.bar.set_position(((epoch - 1) * self.batches + batch + 1) as u64);
        self.bar.set_message(format!("{:.0} img/s  {}", self.rate(), losses(&self.rows, 1)));
    }
}

/// How far a run is.
#[derive(Clone, Copy)]
struct At {
    /// From 1.
    epoch: usize,
    epochs: usize,
    /// Batches done in the epoch.
    batch: usize,
    batches: usize,
    /// Done before `elapsed` began.
    skipped: usize,
}

impl At {
    /// Seconds left after `elapsed` seconds, if batches go on taking as long as they did.
    fn left(self, elapsed: f64) -> f64 {
        let done = (self.epoch - 1) * self.batches + self.batch;
        let all = self.epochs * self.batches;
        elapsed / done.saturating_sub(self.skipped).max(1) as f64 * all.saturating_sub(done) as f64
    }
}

/// The line between two epochs.
fn line(at: At, rate: f64, elapsed: f64, losses: &str) -> String {
    format!(
        "epoch {}/{}, batch {}/{}: {rate:.0} img/s, {:.0} s left | {losses}",
        at.epoch,
        at.epochs,
        at.batch,
        at.batches,
        at.left(elapsed)
    )
}

/// The losses of the first `shown` rows, and how many rows there are besides.
fn losses(rows: &[Latest], shown: usize) -> String {
    let known = |r: &Latest| r.loss.map_or_else(|| "–".to_owned(), |value| loss(value, &r.terms));
    let first = rows.iter().take(shown).map(|r| format!("{}: {}", r.row, known(r)));
    let mut parts: Vec<String> = first.collect();
    match rows.len().saturating_sub(shown) {
        0 => {}
        1 => parts.push("+1 row".to_owned()),
        n => parts.push(format!("+{n} rows")),
    }
    parts.join("; ")
}

/// A loss and the terms that it is the weighted sum of; one term of weight 1 says it all.
fn loss(loss: f64, terms: &[TermValue]) -> String {
    let parts: Vec<String> = terms.iter().map(|t| format!("{} {:.3}", t.name, t.value)).collect();
    match terms {
        [only] if only.value == loss => parts.concat(),
        [] => format!("{loss:.3}"),
        _ => format!("{loss:.3} ({})", parts.join(", ")),
    }
}

impl Sink for Progress {
    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started { rows, epochs, batches, images, seed } => {
                (self.epochs, self.batches) = (*epochs, *batches);
                (self.start, self.images, self.waited) = (Instant::now(), 0, 0.0);
                self.skipped = 0;
                self.rows = rows.iter().map(|row| Latest::new(row)).collect();
                self.bar.reset();
                self.bar.set_length((epochs * batches) as u64);
                self.say(&format!("{}: {epochs} epochs of {images} images, seed {seed}", rows.join(", ")));
            }
            Event::Resumed { rows, epochs, batches, epoch, batch, .. } => {
                (self.epochs, self.batches) = (*epochs, *batches);
                (self.start, self.images, self.waited) = (Instant::now(), 0, 0.0);
                self.skipped = (epoch - 1) * batches + batch;
                self.rows = rows.iter().map(|row| Latest::new(row)).collect();
                self.bar.reset();
                self.bar.set_length((epochs * batches) as u64);
            }
            Event::Checkpoint { error: Some(error), .. } => {
                self.say(&format!("a checkpoint could not be written, an older one stays: {error}"));
            }
            Event::Step { row, loss, terms, images, .. } => {
                self.images += images;
                if let Some(latest) = self.rows.iter_mut().find(|r| r.row == *row) {
                    latest.loss = Some(*loss);
                    latest.terms.clone_from(terms);
                }
            }
            Event::Batch { epoch, batch, wait_s, .. } => {
                self.waited += wait_s;
                self.show(*epoch, *batch);
            }
            Event::Evaluation { row, split, metrics, .. } if split == "test" => {
                self.tests.push((row.clone(), metrics.top1));
            }
            Event::Diverged { row, epoch, step, term, goes_on } => {
                if !goes_on {
                    self.rows.retain(|r| r.row != *row);
                }
                let rest = if *goes_on { "it goes on, as its table asks" } else { "it ends here" };
                self.say(&format!("{row}: `{term}` is not finite in epoch {epoch}, step {step}; {rest}"));
            }
            Event::Skipped { row, epoch, step, term } => {
                self.say(&format!(
                    "{row}: `{term}` is not finite in epoch {epoch}, step {step}; the batch is left out"
                ));
            }
            Event::Rewound { row, epoch, step, term, lr_factor } => {
                self.say(&format!(
                    "{row}: `{term}` is not finite in step {step}; back to the beginning of epoch {epoch}, its learning rate \
                     now times {lr_factor}"
                ));
            }
            _ => {}
        }
        if let Event::Evaluation { epoch, .. } = event
            && self.tests.len() == self.rows.len()
        {
            let tests: Vec<String> =
                self.tests.drain(..).map(|(row, top1)| format!("{row} {top1:.2}")).collect();
            let seconds = self.start.elapsed().as_secs_f64();
            let left = self.at(*epoch, self.batches).left(seconds);
            self.say(&format!(
                "epoch {epoch}/{}: {} {} % | {:.0} img/s, {seconds:.0} s, {left:.0} s left, waited {:.1} s for data",
                self.epochs,
                self.tested,
                tests.join(", "),
                self.rate(),
                self.waited,
            ));
        }
        if let Event::Finished { .. } = event {
            self.bar.finish_and_clear();
        }
        Ok(())
    }
}

/// Several sinks as one.
pub struct Several<'a>(pub Vec<&'a mut dyn Sink>);

impl Sink for Several<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.0.iter_mut().try_for_each(|s| s.event(event))
    }

    fn mark(&mut self) -> Result<Option<LogMark>> {
        for sink in &mut self.0 {
            if let Some(mark) = sink.mark()? {
                return Ok(Some(mark));
            }
        }
        Ok(None)
    }

    fn rewind(&mut self, bytes: u64) -> Result<()> {
        self.0.iter_mut().try_for_each(|s| s.rewind(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(name: &str, value: f64) -> TermValue {
        TermValue { name: name.to_owned(), value }
    }

    fn rows(names: &[&str]) -> Vec<Latest> {
        let terms = || vec![term("ce", 0.5), term("kd", 1.25)];
        names.iter().map(|n| Latest { row: (*n).to_owned(), loss: Some(3.0), terms: terms() }).collect()
    }

    #[test]
    fn a_loss_shows_its_terms() {
        assert_eq!(loss(0.5, &[term("ce", 0.5)]), "ce 0.500");
        assert_eq!(loss(1.0, &[term("ce", 0.5)]), "1.000 (ce 0.500)");
        assert_eq!(loss(1.75, &[term("ce", 0.5), term("kd", 1.25)]), "1.750 (ce 0.500, kd 1.250)");
        assert_eq!(loss(f64::NAN, &[term("ce", f64::NAN)]), "NaN (ce NaN)");
        assert_eq!(loss(2.0, &[]), "2.000");
    }

    #[test]
    fn the_first_rows_are_shown_and_the_others_counted() {
        let one = "z: 3.000 (ce 0.500, kd 1.250)";
        assert_eq!(losses(&rows(&["z"]), 3), one);
        assert_eq!(losses(&rows(&["z", "a"]), 1), format!("{one}; +1 row"));
        assert_eq!(losses(&rows(&["z", "a", "b", "c"]), 1), format!("{one}; +3 rows"));
        let line = losses(&rows(&["z", "a", "b", "c", "d"]), 3);
        assert!(
            line.starts_with(one) && line.contains("; a: 3.000") && line.contains("; b: 3.000"),
            "{line}"
        );
        assert!(!line.contains("c:") && line.ends_with("; +2 rows"), "{line}");
        assert_eq!(losses(&[], 3), "");
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let at = At { epoch: 2, epochs: 4, batch: 50, batches: 100, skipped: 0 };
        assert_eq!(at.left(30.0), 50.0, "150 of 400 batches took 30 s");
        assert_eq!(At { skipped: 100, ..at }.left(30.0), 150.0, "50 of 400 batches took 30 s");
        assert_eq!(
            line(at, 1234.4, 30.0, "none: ce 0.500"),
            "epoch 2/4, batch 50/100: 1234 img/s, 50 s left | none: ce 0.500"
        );
        assert_eq!(At { epoch: 4, batch: 100, ..at }.left(80.0), 0.0);
    }

    #[test]
    fn rows_keep_their_order_and_leave_when_they_end() {
        let mut progress = Progress::new();
        let names = ["z", "a"].map(str::to_owned).to_vec();
        let started = Event::Started { rows: names, epochs: 1, batches: 2, images: 10, seed: 0 };
        let step = |row: &str, loss: f64| Event::Step {
            row: row.to_owned(),
            epoch: 1,
            step: 0,
            images: 5,
            lr: 0.1,
            loss,
            terms: vec![term("ce", loss)],
            gradient_norm: None,
        };
        let ended =
            Event::Diverged { row: "z".to_owned(), epoch: 1, step: 1, term: "ce".to_owned(), goes_on: false };
        progress.event(&started).unwrap();
        assert_eq!(losses(&progress.rows, 3), "z: –; a: –");
        for event in [step("a", 2.0), step("z", 1.0)] {
            progress.event(&event).unwrap();
        }
        assert_eq!((losses(&progress.rows, 3), progress.images), ("z: ce 1.000; a: ce 2.000".to_owned(), 10));
        progress.event(&ended).unwrap();
        assert_eq!(losses(&progress.rows, 3), "a: ce 2.000");
    }
}
