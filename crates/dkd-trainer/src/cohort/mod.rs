//! Students that share data stream and teacher, trained side by side.

mod loaders;
mod networks;
mod obtain;
mod row;
mod teacher;
mod train;

pub use train::{Context, run};
