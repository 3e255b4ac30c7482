//! When to write a checkpoint, and which ones to keep: pure functions.

use serde::{Deserialize, Serialize};

/// The settings. Whatever they are, a run that is asked to stop writes one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// After every so many epochs; 0 for never.
    pub every_epochs: usize,
    /// After every so many batches; 0 for never.
    pub every_steps: u64,
    /// When the last one is so many minutes old; 0 for never.
    pub every_minutes: f64,
    /// How many of the newest are kept; at least 1.
    pub keep_last: usize,
    /// Whether the one with the best validation accuracy is kept as well.
    pub keep_best: bool,
}

impl Default for Policy {
    /// After every epoch and every ten minutes; the last two.
    fn default() -> Self {
        Self { every_epochs: 1, every_steps: 0, every_minutes: 10.0, keep_last: 2, keep_best: false }
    }
}

/// What happened since the last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Since {
    /// The epoch whose evaluation is just done, from 1; `None` inside an epoch.
    pub epoch_done: Option<usize>,
    /// Batches.
    pub steps: u64,
    /// Seconds.
    pub seconds: f64,
}

/// A checkpoint on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Batches that were done.
    pub done: u64,
    /// Validation accuracy of its last evaluated epoch.
    pub score: Option<f64>,
}

impl Policy {
    /// Whether a checkpoint is due.
    pub fn due(&self, since: &Since) -> bool {
        let epochs =
            since.epoch_done.is_some_and(|e| self.every_epochs > 0 && e.is_multiple_of(self.every_epochs));
        let steps = self.every_steps > 0 && since.steps >= self.every_steps;
        let seconds = self.every_minutes > 0.0 && since.seconds >= 60.0 * self.every_minutes;
        epochs || steps || seconds
    }

    /// Which of `entries` may go, in any order; never the newest, nor the one with `pinned` batches done.
    pub fn superfluous(&self, entries: &[Entry], pinned: Option<u64>) -> Vec<u64> {
        let mut sorted = entries.to_vec();
        sorted.sort_by_key(|e| std::cmp::Reverse(e.done));
        let scored = sorted.iter().filter_map(|e| Some((e.score?, e.done)));
        // Of equally good ones the earlier counts, as for the chosen epoch.
        let best = scored
            .reduce(|best, e| if e.0 >= best.0 { e } else { best })
            .filter(|_| self.keep_best)
            .map(|(_, done)| done);
        let old = sorted.iter().skip(self.keep_last.max(1)).map(|e| e.done);
        old.filter(|done| Some(*done) != best && Some(*done) != pinned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Policy =
        Policy { every_epochs: 0, every_steps: 0, every_minutes: 0.0, keep_last: 1, keep_best: false };

    #[test]
    fn due_when_any_setting_says_so() {
        let since = Since { epoch_done: Some(6), steps: 10, seconds: 5.0 };
        assert!(!NEVER.due(&since));
        assert!(Policy { every_epochs: 3, ..NEVER }.due(&since));
        assert!(!Policy { every_epochs: 4, ..NEVER }.due(&since));
        assert!(!Policy { every_epochs: 3, ..NEVER }.due(&Since { epoch_done: None, ..since }));
        assert!(Policy { every_steps: 10, ..NEVER }.due(&since));
        assert!(!Policy { every_steps: 11, ..NEVER }.due(&since));
        assert!(Policy { every_minutes: 5.0 / 60.0, ..NEVER }.due(&since));
        assert!(!Policy { every_minutes: 5.1 / 60.0, ..NEVER }.due(&since));
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let entries: Vec<Entry> = [(10, Some(50.0)), (20, Some(70.0)), (30, Some(70.0)), (40, None)]
            .map(|(done, score)| Entry { done, score })
            .to_vec();
        assert_eq!(NEVER.superfluous(&entries, None), [30, 20, 10]);
        assert_eq!(Policy { keep_last: 0, ..NEVER }.superfluous(&entries, None), [30, 20, 10]);
        assert_eq!(Policy { keep_last: 3, ..NEVER }.superfluous(&entries, None), [10]);
        assert_eq!(NEVER.superfluous(&entries, Some(20)), [30, 10]);
        assert_eq!(Policy { keep_best: true, ..NEVER }.superfluous(&entries, None), [30, 10]);
        assert!(NEVER.superfluous(&entries[..1], None).is_empty());
    }
}
