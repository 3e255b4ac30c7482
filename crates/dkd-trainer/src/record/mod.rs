//! Results, event logs and run folders. `docs/events.md` describes the files.

mod curves;
mod derived;
mod folder;
mod host;
mod jsonl;
mod read;
mod rebuild;
mod result;
mod tensorboard;

#[cfg(test)]
mod tests;

pub use derived::{Derive, Records};
pub use folder::{RunFolder, describe, network_file, read_summary};
pub use host::Host;
pub use jsonl::JsonLines;
pub use read::{EventReader, MAX_LINE, read_events};
pub use rebuild::read_records;
pub use result::{DataInfo, Diverged, EpochPoint, LogValue, PublishedValue, Rewind, RowResult, read_results};
pub(crate) use result::{or_nan, some_or_nan};
pub use tensorboard::ScalarFile;
