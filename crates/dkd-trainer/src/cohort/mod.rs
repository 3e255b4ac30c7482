//! Students that share data stream and teacher, trained side by side.

mod keeper;
mod loaders;
mod networks;
mod obtain;
mod row;
mod teacher;
mod train;

pub use keeper::Checkpoints;
pub use train::{Context, run};
