//! Takes times while the trainer works.

use anyhow::{Result, bail};
use dkd_trainer::{Event, Sink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Listens to a run, and ends it after some seconds.
///
/// Recorded steps are told many at a time, when the device has been waited for. The first of these times are left out: libraries
/// load their code then, and the step is recorded. What lies between the last step of an epoch and the end of its evaluation is
/// left out as well.
pub struct Meter {
    seconds: f64,
    stop: Arc<AtomicBool>,
    /// Of the first time that counts.
    begin: Option<Instant>,
    /// Since when steps have been running.
    since: Option<Instant>,
    images: usize,
    time: f64,
    /// A loss that is no number.
    lost: Option<f64>,
}

impl Meter {
    /// One that ends the run after so many seconds that count.
    pub fn new(seconds: f64) -> Self {
        Self { seconds, stop: Arc::default(), begin: None, since: None, images: 0, time: 0.0, lost: None }
    }

    /// What ends the run.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Images in a second.
    pub fn rate(&self) -> Result<f64> {
        if self.images == 0 || self.time <= 0.0 {
            bail!("the run ended before anything could be measured");
        }
        Ok(self.images as f64 / self.time)
    }

    /// A loss that was not finite: whatever was computed then was not what was to be measured.
    pub fn lost(&self) -> Option<f64> {
        self.lost
    }
}

impl Sink for Meter {
    fn event(&mut self, event: &Event) -> dkd_trainer::Result<()> {
        let now = Instant::now();
        match event {
            Event::Step { images, loss, .. } => {
                self.lost = self.lost.or(Some(*loss).filter(|loss| !loss.is_finite()));
                if let Some(since) = self.since {
                    self.images += images;
                    self.time += now.duration_since(since).as_secs_f64();
                }
                self.since = Some(now);
                self.begin.get_or_insert(now);
            }
            // The device was waited for.
            Event::Evaluation { .. } => self.since = self.since.map(|_| now),
            Event::Batch { .. } if self.images > 0 => {
                let long = self.begin.is_some_and(|b| now.duration_since(b).as_secs_f64() >= self.seconds);
                self.stop.store(long, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkd_trainer::Metrics;
    use std::time::Duration;

    #[test]
    fn first_steps_and_evaluations_do_not_count() {
        let mut meter = Meter::new(0.0);
        let stop = meter.stop();
        let step = Event::Step {
            row: "row".to_owned(),
            epoch: 1,
            step: 0,
            images: 100,
            lr: 0.1,
            loss: 1.0,
            terms: Vec::new(),
            gradient_norm: None,
        };
        let batch = Event::Batch { epoch: 1, batch: 0, images: 100, wait_s: 0.0 };
        let metrics = Metrics { top1: 0.0, top5: 0.0, loss: 0.0, images: 1 };
        let evaluation =
            Event::Evaluation { row: "row".to_owned(), epoch: 1, split: "test".to_owned(), metrics };
        meter.event(&step).unwrap();
        meter.event(&batch).unwrap();
        assert!(meter.rate().is_err() && !stop.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(300));
        meter.event(&evaluation).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        meter.event(&step).unwrap();
        meter.event(&batch).unwrap();
        assert!(stop.load(Ordering::Relaxed));
        let rate = meter.rate().unwrap();
        assert!(rate < 100.0 / 0.02 && rate > 100.0 / 0.3, "{rate}");
        assert!(meter.lost().is_none());
        let Event::Step { row, epoch, step, images, lr, terms, gradient_norm, .. } = step else { panic!() };
        meter
            .event(&Event::Step { row, epoch, step, images, lr, loss: f64::NAN, terms, gradient_norm })
            .unwrap();
        assert!(meter.lost().unwrap().is_nan());
    }
}
