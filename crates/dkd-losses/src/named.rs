//! Access to a network's parameters by name.
use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{Error, Result, listed};

/// Parameters by their PyTorch state-dict name, for objectives that reuse the teacher's (its classifier, say).
pub trait NamedTensors {
    /// The parameter `name`.
    ///
    /// # Errors
    /// [`Error::MissingParameter`] when there is none of that name.
    fn get(&self, name: &str) -> Result<Tensor>;
    /// All names, sorted.
    fn names(&self) -> Vec<String>;
}

impl NamedTensors for BTreeMap<String, Tensor> {
    fn get(&self, name: &str) -> Result<Tensor> {
        BTreeMap::get(self, name).cloned().ok_or_else(|| Error::MissingParameter {
            name: name.into(),
            available: listed(self.keys().map(String::as_str)),
        })
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// No parameters: for batches without a teacher, or with one whose parameters nobody needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoParameters;

impl NamedTensors for NoParameters {
    fn get(&self, name: &str) -> Result<Tensor> {
        Err(Error::MissingParameter { name: name.into(), available: listed([]) })
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
