//! Searching for settings: which values of some keys are best on images held out of training.
//!
//! [`Plan`] is the search itself: a [`Space`], a [`Strategy`] and what was found so far give the next [`Proposal`]s. It knows
//! nothing of training and can be used for anything that has a number to be made large or small. [`Search`] is a search over
//! settings, read from a TOML file: it makes recipes of proposals, and cuts the data so that no test image is ever looked at.
//! [`State`] is what has been found, as a file that a search goes on from.

mod file;
mod space;
mod state;
mod strategy;
#[cfg(test)]
mod tests;
mod trials;

pub use file::Search;
pub use space::{Domain, Point, Range, Scale, Space, number};
pub use state::{About, Metric, State, Trial, standing};
pub use strategy::{Plan, Proposal, Rung, Strategy};
pub use trials::Cohort;
