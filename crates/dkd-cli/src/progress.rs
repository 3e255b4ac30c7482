//! Progress on the terminal: bars, or plain lines where there is none.

use crate::output;
use dkd_trainer::{Event, Result, Sink};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

/// Shows events to a person.
pub struct Progress {
    bar: ProgressBar,
    /// Rows that have not ended.
    living: usize,
    epochs: usize,
    batches: usize,
    start: Instant,
    /// Trained on so far, by all rows together.
    images: usize,
    waited: f64,
    /// Last loss of each row, in one line.
    losses: BTreeMap<String, String>,
    /// Test accuracies of the epoch.
    tests: Vec<(String, f64)>,
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
        Self {
            bar,
            living: 0,
            epochs: 0,
            batches: 0,
            start: Instant::now(),
            images: 0,
            waited: 0.0,
            losses: BTreeMap::new(),
            tests: Vec::new(),
        }
    }

    fn say(&self, line: &str) {
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
}

impl Sink for Progress {
    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started { rows, epochs, batches, images, seed } => {
                (self.living, self.epochs, self.batches) = (rows.len(), *epochs, *batches);
                (self.start, self.images, self.waited) = (Instant::now(), 0, 0.0);
                self.losses.clear();
                self.bar.reset();
                self.bar.set_length((epochs * batches) as u64);
                self.say(&format!("{}: {epochs} epochs of {images} images, seed {seed}", rows.join(", ")));
            }
            Event::Step { row, loss, terms, images, .. } => {
                self.images += images;
                let parts: Vec<String> = terms.iter().map(|t| format!("{} {:.3}", t.name, t.value)).collect();
                let text = if terms.len() > 1 {
                    format!("{loss:.3} ({})", parts.join(", "))
                } else {
                    parts.join("")
                };
                self.losses.insert(row.clone(), text);
            }
            Event::Batch { epoch, batch, wait_s, .. } => {
                self.waited += wait_s;
                self.bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
                self.bar.set_position(((epoch - 1) * self.batches + batch + 1) as u64);
                let loss =
                    self.losses.iter().next_back().map_or_else(String::new, |(row, l)| format!("{row}: {l}"));
                self.bar.set_message(format!("{:.0} img/s  {loss}", self.rate()));
            }
            Event::Evaluation { row, split, metrics, .. } if split == "test" => {
                self.tests.push((row.clone(), metrics.top1));
            }
            Event::Diverged { row, epoch, step, term, goes_on } => {
                self.living -= usize::from(!goes_on);
                let rest = if *goes_on { "it goes on, as its table asks" } else { "it ends here" };
                self.say(&format!("{row}: `{term}` is not finite in epoch {epoch}, step {step}; {rest}"));
            }
            _ => {}
        }
        if let Event::Evaluation { epoch, .. } = event
            && self.tests.len() == self.living
        {
            let tests: Vec<String> =
                self.tests.drain(..).map(|(row, top1)| format!("{row} {top1:.2}")).collect();
            let seconds = self.start.elapsed().as_secs_f64();
            let left = seconds / *epoch as f64 * (self.epochs - epoch) as f64;
            self.say(&format!(
                "epoch {epoch}/{}: test {} % | {:.0} img/s, {seconds:.0} s, {left:.0} s left, waited {:.1} s for data",
                self.epochs,
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
}
