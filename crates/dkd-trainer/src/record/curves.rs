//! Curves put together from events.

use super::result::{Diverged, EpochPoint, Rewind};
use crate::{Event, Metrics};
use std::collections::BTreeMap;

/// What the events so far say about each row.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    rows: BTreeMap<String, Curve>,
    started: usize,
}

/// One row.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    pub seed: u64,
    /// Epochs that were asked for.
    pub planned_epochs: usize,
    /// Batches in an epoch.
    pub batches: usize,
    pub epochs: Vec<EpochPoint>,
    pub diverged: Option<Diverged>,
    pub skipped: u64,
    pub rewinds: Vec<Rewind>,
    /// Nothing more comes: its cohort is done, or it was taken out.
    pub ended: bool,
    /// Which row this was to start, from 0.
    place: usize,
    /// Of the epoch that is not evaluated yet: loss and accuracy in training.
    train: Option<(f64, f64)>,
    validation: Option<Metrics>,
}

/// The last step of an epoch, over all epochs, from 0.
pub(super) fn last_step(epoch: usize, batches: usize) -> u64 {
    (epoch as u64).saturating_mul(batches as u64).saturating_sub(1)
}

impl Curves {
    /// Takes notice of an event; a row whose epoch is now complete. A row that starts again is as if it never had.
    ///
    /// An event that does not fit those before it is refused with a reason.
    pub fn event<'a>(&'a mut self, event: &'a Event) -> Result<Option<(&'a str, &'a Curve)>, String> {
        match event {
            Event::Started { rows, epochs, batches, seed, .. } => {
                for row in rows {
                    let curve = Curve {
                        seed: *seed,
                        planned_epochs: *epochs,
                        batches: *batches,
                        place: self.started,
                        ..Curve::default()
                    };
                    self.rows.insert(row.clone(), curve);
                    self.started += 1;
                }
            }
            Event::Step { row, .. } => {
                self.row(row)?;
            }
            Event::Epoch { row, loss, top1, .. } => self.row(row)?.train = Some((*loss, *top1)),
            Event::Evaluation { row, split, metrics, .. } if split == "validation" => {
                self.row(row)?.validation = Some(*metrics);
            }
            Event::Evaluation { row, epoch, split, metrics } if split == "test" => {
                let curve = self.row(row)?;
                let (train_loss, train_top1) = curve
                    .train
                    .take()
                    .ok_or_else(|| format!("epoch {epoch} of `{row}` has no training loss"))?;
                if *epoch != curve.epochs.len() + 1 {
                    return Err(format!("epoch {epoch} of `{row}` comes after epoch {}", curve.epochs.len()));
                }
                let validation = curve.validation.take();
                curve.epochs.push(EpochPoint { train_loss, train_top1, test: *metrics, validation });
                return Ok(Some((row, curve)));
            }
            Event::Diverged { row, epoch, step, term, goes_on } => {
                let curve = self.row(row)?;
                curve.ended |= !goes_on;
                let new = Diverged { epoch: *epoch, step: *step, term: term.clone(), origin: String::new() };
                curve.diverged.get_or_insert(new);
            }
            Event::Skipped { row, .. } => self.row(row)?.skipped += 1,
            Event::Rewound { row, epoch, step, term, lr_factor } => self.row(row)?.rewinds.push(Rewind {
                epoch: *epoch,
                step: *step,
                term: term.clone(),
                lr_factor: *lr_factor,
            }),
            Event::Finished { rows } => {
                for row in rows {
                    self.row(row)?.ended = true;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn row(&mut self, row: &str) -> Result<&mut Curve, String> {
        self.rows.get_mut(row).ok_or_else(|| format!("row `{row}` has not started"))
    }

    /// Batches in an epoch of a row; 0 if it has not started.
    pub fn batches(&self, row: &str) -> usize {
        self.rows.get(row).map_or(0, |curve| curve.batches)
    }

    /// The rows in the order in which they started.
    pub fn into_rows(self) -> Vec<(String, Curve)> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_by_key(|(_, curve)| curve.place);
        rows
    }
}
