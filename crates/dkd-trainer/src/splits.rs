//! How a recipe cuts a data set.

use crate::{DataRecipe, Result};
use dkd_datasets::{Dataset, Split, hold_out};

/// The parts of a data set as a run uses them.
#[derive(Clone, Debug)]
pub struct Splits {
    /// To train on.
    pub train: Split,
    /// Held out of training, if any are.
    pub validation: Option<Split>,
    /// To test with.
    pub test: Split,
}

impl DataRecipe {
    /// Cuts `data` for a run with `seed`.
    ///
    /// # Errors
    /// More images are to be held out than there are.
    pub fn splits(&self, data: &Dataset, seed: u64) -> Result<Splits> {
        let limit = |split: &Split, n: Option<usize>| n.map_or_else(|| split.clone(), |n| split.first(n));
        let (train, test) = (limit(&data.train, self.train_limit), limit(&data.test, self.test_limit));
        let (train, validation) = match self.validation {
            0 => (train, None),
            n => {
                let (train, held) = hold_out(&train, n, seed)?;
                (train, Some(held))
            }
        };
        Ok(Splits { train, validation, test })
    }
}
