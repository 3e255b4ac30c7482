//! The terms of every row's loss over time, from an event log.

use super::weights::{TermWeight, weight_of};
use crate::record::read_events;
use crate::{Error, Event, Result, TermValue};
use serde::Serialize;
use std::path::Path;

/// Points of a curve, if its epochs are long enough to be divided: more is not seen in a picture.
const POINTS: usize = 200;

/// The terms of one row's loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermCurve {
    /// Row.
    pub row: String,
    /// Epochs that were asked for.
    pub planned_epochs: usize,
    /// Names of the terms.
    pub terms: Vec<String>,
    /// Their weights in the last epoch there is; `null` in JSON where they are not known.
    pub weights: Vec<f64>,
    /// Means over consecutive steps, of which none crosses the end of an epoch.
    pub points: Vec<TermPoint>,
}

/// Means over some steps. A number is `null` in JSON if none of them has a finite one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermPoint {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Epochs done after the last of the steps.
    pub at: f64,
    /// Steps.
    pub steps: usize,
    /// Learning rate of the last step.
    pub lr: f64,
    /// The loss.
    pub loss: f64,
    /// Every term without its weight.
    pub values: Vec<f64>,
    /// Every term's share of the sum of all terms with their weights, signs aside, in percent.
    pub shares: Vec<f64>,
}

/// Reads the log at `path`. `weights` gives the terms' weights of a row in an epoch, nothing for a row that it does not know.
///
/// A row that started again is as if it never had, as in all that is made of logs.
///
/// # Errors
/// The log cannot be read or is damaged; a step belongs to no row that started or has other terms than the one before.
pub fn term_curves(
    path: &Path,
    weights: &mut dyn FnMut(&str, usize) -> Vec<TermWeight>,
) -> Result<Vec<TermCurve>> {
    let mut rows: Vec<Gather> = Vec::new();
    for event in read_events(path)? {
        match event? {
            Event::Started { rows: names, epochs, batches, .. } => {
                for row in names {
                    rows.retain(|r| r.row != row);
                    rows.push(Gather::new(row, epochs, batches));
                }
            }
            Event::Step { row, epoch, step, lr, loss, terms, .. } => {
                let damaged = |message: String| Error::Record { path: path.to_owned(), message };
                let Some(gather) = rows.iter_mut().find(|r| r.row == row) else {
                    return Err(damaged(format!("row `{row}` has not started")));
                };
                gather.epoch(epoch, weights);
                if !gather.step(epoch, step, lr, loss, &terms) {
                    return Err(damaged(format!("step {step} of `{row}` has other terms than those before")));
                }
            }
            _ => {}
        }
    }
    Ok(rows.into_iter().map(Gather::curve).collect())
}

impl TermCurve {
    /// Means over an epoch: of the terms without their weights, and of the shares. `None` if the log has no step of it.
    pub fn epoch(&self, epoch: usize) -> Option<(Vec<f64>, Vec<f64>)> {
        let own: Vec<&TermPoint> = self.points.iter().filter(|p| p.epoch == epoch).collect();
        let mean = |term: usize, of: fn(&TermPoint) -> &Vec<f64>| {
            let mut sum = Sum::default();
            own.iter().for_each(|p| sum.add(of(p)[term], p.steps));
            sum.mean()
        };
        let all = |of: fn(&TermPoint) -> &Vec<f64>| (0..self.terms.len()).map(|t| mean(t, of)).collect();
        (!own.is_empty()).then(|| (all(|p| &p.values), all(|p| &p.shares)))
    }

    /// The last epoch of which there is a step.
    pub fn last_epoch(&self) -> Option<usize> {
        self.points.last().map(|p| p.epoch)
    }
}

/// A mean over finite numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sum: f64,
    count: usize,
}

impl Sum {
    fn add(&mut self, value: f64, times: usize) {
        if value.is_finite() {
            self.sum += value * times as f64;
            self.count += times;
        }
    }

    fn mean(self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / self.count as f64 }
    }
}

/// Steps of one point.
struct Window {
    epoch: usize,
    number: usize,
    at: f64,
    steps: usize,
    lr: f64,
    loss: Sum,
    values: Vec<Sum>,
    weighted: Vec<Sum>,
}

/// What is known of a row so far.
struct Gather {
    row: String,
    epochs: usize,
    batches: usize,
    terms: Vec<String>,
    /// Weights by name in `weighed`, the epoch that was looked at last.
    known: Vec<TermWeight>,
    weighed: usize,
    windows: Vec<Window>,
}

impl Gather {
    fn new(row: String, epochs: usize, batches: usize) -> Self {
        let (terms, known, windows) = (Vec::new(), Vec::new(), Vec::new());
        Self { row, epochs, batches: batches.max(1), terms, known, weighed: 0, windows }
    }

    /// Looks up the weights if the epoch is another.
    fn epoch(&mut self, epoch: usize, weights: &mut dyn FnMut(&str, usize) -> Vec<TermWeight>) {
        if self.weighed != epoch {
            (self.known, self.weighed) = (weights(&self.row, epoch), epoch);
        }
    }

    fn weight(&self, term: &str) -> f64 {
        weight_of(term, &self.known).unwrap_or(f64::NAN)
    }

    /// Adds a step; whether its terms are those of the steps before.
    fn step(&mut self, epoch: usize, step: u64, lr: f64, loss: f64, terms: &[TermValue]) -> bool {
        if self.windows.is_empty() {
            self.terms = terms.iter().map(|t| t.name.clone()).collect();
        }
        if !self.terms.iter().eq(terms.iter().map(|t| &t.name)) {
            return false;
        }
        let before = (epoch.saturating_sub(1) as u64).saturating_mul(self.batches as u64);
        let within = usize::try_from(step.saturating_sub(before)).unwrap_or(usize::MAX).min(self.batches - 1);
        let pieces = (POINTS / self.epochs.max(1)).clamp(1, self.batches);
        let number = within * pieces / self.batches;
        if self.windows.last().is_none_or(|w| (w.epoch, w.number) != (epoch, number)) {
            let empty = vec![Sum::default(); terms.len()];
            let (values, weighted) = (empty.clone(), empty);
            let loss = Sum::default();
            self.windows.push(Window { epoch, number, at: 0.0, steps: 0, lr, loss, values, weighted });
        }
        let weights: Vec<f64> = terms.iter().map(|t| self.weight(&t.name)).collect();
        let Some(window) = self.windows.last_mut() else { return true };
        window.at = epoch.saturating_sub(1) as f64 + (within + 1) as f64 / self.batches as f64;
        window.steps += 1;
        window.lr = lr;
        window.loss.add(loss, 1);
        for (k, (term, weight)) in terms.iter().zip(weights).enumerate() {
            window.values[k].add(term.value, 1);
            window.weighted[k].add((weight * term.value).abs(), 1);
        }
        true
    }

    fn curve(self) -> TermCurve {
        let weights = self.terms.iter().map(|t| self.weight(t)).collect();
        let point = |w: Window| {
            let parts: Vec<f64> = w.weighted.iter().map(|s| s.mean()).collect();
            let total: f64 = parts.iter().sum();
            TermPoint {
                epoch: w.epoch,
                at: w.at,
                steps: w.steps,
                lr: w.lr,
                loss: w.loss.mean(),
                values: w.values.iter().map(|s| s.mean()).collect(),
                // Nothing of nothing is no share: NaN.
                shares: parts.iter().map(|p| 100.0 * p / total).collect(),
            }
        };
        TermCurve {
            row: self.row,
            planned_epochs: self.epochs,
            terms: self.terms,
            weights,
            points: self.windows.into_iter().map(point).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sink;
    use crate::record::JsonLines;

    fn started(epochs: usize, batches: usize) -> Event {
        Event::Started { rows: vec!["a".to_owned()], epochs, batches, images: 4, seed: 0 }
    }

    fn step(epoch: usize, step: u64, values: &[(&str, f64)]) -> Event {
        let term = |(name, value): &(&str, f64)| TermValue { name: (*name).to_owned(), value: *value };
        let terms = values.iter().map(term).collect();
        let (row, images, lr, loss) = ("a".to_owned(), 4, 0.1, step as f64);
        Event::Step { row, epoch, step, images, lr, loss, terms, gradient_norm: None }
    }

    fn curves(events: &[Event]) -> Result<Vec<TermCurve>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut log = JsonLines::append(&path).unwrap();
        events.iter().for_each(|e| log.event(e).unwrap());
        drop(log);
        let weight = |name: &str, weight| TermWeight { name: name.to_owned(), weight };
        term_curves(&path, &mut |_, epoch| vec![weight("ce", 1.0), weight("dkd", epoch as f64)])
    }

    #[test]
    fn shares_follow_the_weights_of_each_epoch() {
        let steps = |epoch, first| {
            [
                step(epoch, first, &[("ce", 3.0), ("dkd.nckd", 0.5)]),
                step(epoch, first + 1, &[("ce", 1.0), ("dkd.nckd", 1.5)]),
            ]
        };
        let events: Vec<Event> = [started(2, 2)].into_iter().chain(steps(1, 0)).chain(steps(2, 2)).collect();
        let curve = curves(&events).unwrap().remove(0);
        assert_eq!((curve.terms.join(" "), &curve.weights[..]), ("ce dkd.nckd".to_owned(), &[1.0, 2.0][..]));
        // Epochs of two steps: every step is a point.
        assert_eq!(curve.points.iter().map(|p| p.at).collect::<Vec<_>>(), [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(curve.points[1].shares, [40.0, 60.0]);
        assert_eq!(curve.points[3].shares, [25.0, 75.0]);
        let (values, _) = curve.epoch(2).unwrap();
        assert_eq!((values, curve.last_epoch(), curve.epoch(3)), (vec![2.0, 1.0], Some(2), None));
    }

    #[test]
    fn long_epochs_become_few_points_and_bad_numbers_count_for_nothing() {
        let mut events = vec![started(400, 8)];
        for i in 0..8 {
            events.push(step(1, i, &[("ce", if i == 3 { f64::NAN } else { 2.0 })]));
        }
        let curve = curves(&events).unwrap().remove(0);
        let [point] = &curve.points[..] else { panic!("{:?}", curve.points) };
        assert_eq!((point.steps, point.values[0], point.loss, point.at), (8, 2.0, 3.5, 1.0));
        assert_eq!(point.shares, [100.0]);
    }

    #[test]
    fn a_row_that_starts_again_forgets_and_strangers_are_refused() {
        let one = step(1, 0, &[("ce", 1.0)]);
        let again = [started(1, 2), one.clone(), started(1, 2), step(1, 0, &[("kd", 5.0)])];
        let curve = curves(&again).unwrap().remove(0);
        assert_eq!((curve.terms[0].as_str(), curve.points.len(), curve.weights[0].is_nan()), ("kd", 1, true));
        assert!(curves(&[started(1, 2)]).unwrap()[0].points.is_empty());
        assert!(curves(std::slice::from_ref(&one)).unwrap_err().to_string().contains("has not started"));
        let message = curves(&[started(1, 2), one, step(1, 1, &[("kd", 1.0)])]).unwrap_err().to_string();
        assert!(message.contains("other terms"), "{message}");
    }
}
