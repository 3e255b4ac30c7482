//! Networks from outside of this workspace, by name.

use super::Network;
use crate::{Error, Result};
use std::sync::{PoisonError, RwLock};

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Length of the logits.
    pub num_classes: usize,
    /// Channels, height and width of the images.
    pub image: (usize, usize, usize),
    /// For the initial weights.
    pub seed: u64,
}

/// Builds a network with initial weights.
pub type BuildNetwork = fn(&NetworkOptions) -> Result<Box<dyn Network>>;

/// Networks of this process.
static REGISTERED: RwLock<Vec<(&'static str, BuildNetwork)>> = RwLock::new(Vec::new());

/// Makes what `build` builds the model `name`, of students and teachers: a configuration then says `student.model = "name"`. Any candle
/// module is a network by [`super::CandleNetwork`]. Losses on feature maps cannot be used with it, since it has no taps, and estimates
/// of memory do not count it.
///
/// # Errors
/// There is a model or a registered network of this name.
pub fn register_network(name: &'static str, build: BuildNetwork) -> Result<()> {
    let mut all = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if dkd_models::find(name).is_ok() || all.iter().any(|(other, _)| *other == name) {
        return Err(Error::Invalid(format!(
            "there is a network `{name}` already: register yours under another name"
        )));
    }
    all.push((name, build));
    Ok(())
}

/// The registered network called `name`.
pub(crate) fn registered(name: &str) -> Option<BuildNetwork> {
    let all = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    all.iter().find(|(other, _)| *other == name).map(|(_, build)| *build)
}
