//! Results and run folders.

mod folder;
mod host;
mod jsonl;
mod result;

pub use folder::RunFolder;
pub use host::Host;
pub use jsonl::JsonLines;
pub(crate) use result::or_nan;
pub use result::{DataInfo, Diverged, EpochPoint, PublishedValue, RowResult, read_results};
