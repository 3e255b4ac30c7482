//! Networks that are only asked.

use super::GpuSession;
use super::forward::Pieces;
use crate::{Mode, Result};
use std::cell::RefCell;

impl GpuSession {
    /// Makes now what every evaluation would make first of weights and running statistics, a launch for each batch normalisation: evaluations
    /// leave it out until one of this session's methods changes weights or statistics, or trains. What has been recorded meanwhile takes them as
    /// they are now.
    ///
    /// # Errors
    /// The device's.
    pub fn freeze(&mut self, n: usize) -> Result<()> {
        self.prepare(Mode::Eval, n)?;
        let (machine, places, weights, key) = (&*self.machine, &self.places, &self.weights, &self.key);
        let executor = Self::of(Mode::Eval, &self.train, &self.infer)?;
        executor.all_running(&Pieces { machine, places, weights, key, n, aside: RefCell::default() })?;
        self.weights.frozen = true;
        Ok(())
    }

    /// Ends that: what was recorded may change weights and statistics from now on, which this session does not see.
    pub fn thaw(&mut self) {
        self.weights.frozen = false;
    }
}
