//! What happens in a run, told to whoever listens.

use crate::checkpoint::LogMark;
use crate::{Metrics, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Value of one loss term, unweighted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermValue {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(deserialize_with = "crate::record::or_nan")]
    pub value: f64,
}

/// One thing that happened. Rows are named by their ids, the teacher's own training is row `teacher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A cohort starts.
    Started {
        /// Its rows.
        rows: Vec<String>,
        /// Epochs.
        epochs: usize,
        /// Batches in an epoch.
        batches: usize,
        /// Training images.
        images: usize,
        /// Seed.
        seed: u64,
    },
    /// A cohort goes on where a checkpoint left it: told in the place of `Started`, and not kept in logs, which read as if
    /// nothing had happened.
    Resumed {
        /// Its rows.
        rows: Vec<String>,
        /// Epochs.
        epochs: usize,
        /// Batches in an epoch.
        batches: usize,
        /// Seed.
        seed: u64,
        /// Epoch, from 1.
        epoch: usize,
        /// Batch that comes next, from 0.
        batch: usize,
    },
    /// A step of one row is done.
    Step {
        /// Row.
        row: String,
        /// Epoch, from 1.
        epoch: usize,
        /// Step over all epochs, from 0.
        step: u64,
        /// Images of the batch.
        images: usize,
        /// Learning rate.
        #[serde(deserialize_with = "crate::record::or_nan")]
        lr: f64,
        /// Weighted sum of the terms.
        #[serde(deserialize_with = "crate::record::or_nan")]
        loss: f64,
        /// The terms.
        terms: Vec<TermValue>,
        /// Euclidean norm of all gradients before clipping; only where gradients are clipped.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "crate::record::some_or_nan"
        )]
        gradient_norm: Option<f64>,
    },
    /// A batch is done for all rows.
    Batch {
        /// Epoch, from 1.
        epoch: usize,
        /// Batch in the epoch, from 0.
        batch: usize,
        /// Its images.
        images: usize,
        /// Seconds that the trainer waited for data.
        #[serde(deserialize_with = "crate::record::or_nan")]
        wait_s: f64,
    },
    /// An epoch's training is done for one row: means over the epoch, before the evaluation.
    Epoch {
        /// Row.
        row: String,
        /// Epoch, from 1.
        epoch: usize,
        /// Mean loss.
        #[serde(deserialize_with = "crate::record::or_nan")]
        loss: f64,
        /// Training accuracy in percent, of the outputs seen while training.
        #[serde(deserialize_with = "crate::record::or_nan")]
        top1: f64,
    },
    /// A split was evaluated.
    Evaluation {
        /// Row.
        row: String,
        /// Epoch, from 1.
        epoch: usize,
        /// `test` or `validation`.
        split: String,
        /// Results.
        metrics: Metrics,
    },
    /// A row's loss is not finite for the first time.
    Diverged {
        /// Row.
        row: String,
        /// Epoch, from 1.
        epoch: usize,
        /// Step over all epochs, from 0.
        step: u64,
        /// Term.
        term: String,
        /// Whether the row goes on nevertheless.
        goes_on: bool,
    },
    /// A row left a batch out, since its loss or a gradient was not finite.
    Skipped {
        /// Row.
        row: String,
        /// Epoch, from 1.
        epoch: usize,
        /// Step over all epochs, from 0.
        step: u64,
        /// Term, or `gradient of NAME`.
        term: String,
    },
    /// A cohort went back to the beginning of an epoch, since a row's loss or gradient was not finite; the log's lines of what
    /// is taken back are gone.
    Rewound {
        /// The row.
        row: String,
        /// Epoch that begins again, from 1.
        epoch: usize,
        /// Step at which it happened.
        step: u64,
        /// Term, or `gradient of NAME`.
        term: String,
        /// Factor of the row's learning rate from now on.
        #[serde(deserialize_with = "crate::record::or_nan")]
        lr_factor: f64,
    },
    /// A checkpoint is on the disk, or could not be written; not kept in logs.
    Checkpoint {
        /// The file.
        path: Option<PathBuf>,
        /// What went wrong.
        error: Option<String>,
    },
    /// A cohort is done.
    Finished {
        /// Its rows.
        rows: Vec<String>,
    },
}

/// Somebody who listens: a progress bar, a file, a test.
pub trait Sink {
    /// Takes notice.
    ///
    /// # Errors
    /// Stops the run.
    fn event(&mut self, event: &Event) -> Result<()>;

    /// How far the log is that a resumed run must go on with, if this keeps one.
    ///
    /// # Errors
    /// It cannot be written.
    fn mark(&mut self) -> Result<Option<LogMark>> {
        Ok(None)
    }

    /// Forgets what came after the first `bytes` bytes of that log: the run goes back to where a checkpoint was made.
    ///
    /// # Errors
    /// It cannot be written.
    fn rewind(&mut self, bytes: u64) -> Result<()> {
        let _ = bytes;
        Ok(())
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Sink for Silent {
    fn event(&mut self, _: &Event) -> Result<()> {
        Ok(())
    }
}
