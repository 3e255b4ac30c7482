//! Students that share data stream and teacher, trained side by side.

mod batch;
mod epoch;
mod keeper;
mod loaders;
mod networks;
mod obtain;
mod recorded;
mod rewind;
mod row;
mod teacher;
mod train;

pub use keeper::Checkpoints;
pub(crate) use networks::{Architecture, Shapes, Told};
pub(crate) use obtain::teacher_row;
pub use train::{Context, run};
