//! What a run is at a moment.

use crate::record::RowResult;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// What a run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whether the teacher's own training is meant; its students' otherwise.
    pub teacher: bool,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Batch of the epoch that comes next; as many as there are if the epoch's evaluation comes next.
    pub batch: usize,
    /// Batches of all epochs that are done: names files, and sorts them.
    pub done: u64,
}

/// What must be the same for a checkpoint to be of any use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The resolved configuration, in TOML.
    pub config: String,
    /// SHA-256 of the images and labels.
    pub data: String,
    /// Seed.
    pub seed: u64,
}

/// One row, without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowState {
    /// Row.
    pub id: String,
    /// `alive`, `nan` or `ended`.
    pub life: String,
    /// Updates that its optimizer has made.
    pub updates: u64,
    /// Steps of the epoch so far.
    pub steps: usize,
    /// Sum of their losses, as the bits of an f64: it may be NaN.
    pub loss_sum: u64,
    /// Images seen in the epoch so far, how many of them right, and among the best five.
    pub seen: [usize; 3],
    /// Sum of their cross-entropies, as the bits of an f64.
    pub cross_entropy: u64,
    /// Factor of the learning rate: below 1 after a rewind.
    #[serde(default = "one")]
    pub lr_factor: f64,
    /// Batches left out since the last one that was not.
    #[serde(default)]
    pub skipped_in_a_row: usize,
    /// The result so far.
    pub result: RowResult,
}

fn one() -> f64 {
    1.0
}

/// Everything of a checkpoint but its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// What comes next.
    pub place: Place,
    /// The run.
    pub identity: Identity,
    /// Revision of the program's source, for people.
    pub revision: Option<String>,
    /// Bytes of the event log that belong to what is done.
    pub log_bytes: Option<u64>,
    /// The rows.
    pub rows: Vec<RowState>,
}

impl Header {
    /// The best of the rows' validation accuracies after their last evaluated epoch. The test split never chooses anything.
    pub fn score(&self) -> Option<f64> {
        let last = self.rows.iter().filter_map(|r| r.result.epochs.last()?.validation);
        last.map(|m| m.top1).reduce(f64::max)
    }
}

/// A checkpoint in memory. Tensors are called `<row>/weights/<name>`, `<row>/momentum/<name>`, `<row>/loss/<name>` (a loss's
/// own parameters), `<row>/loss_momentum/<name>` and `<row>/loss_buffer/<name>`, with PyTorch's names and layouts.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The rest.
    pub header: Header,
    /// The tensors.
    pub tensors: Vec<(String, Tensor)>,
}
