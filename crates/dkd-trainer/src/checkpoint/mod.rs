//! Checkpoints: everything that a run needs to go on with the same bits.
//!
//! One file is one moment of a run: tensors in safetensors, and beside them, in the file's metadata, a [`Header`] as JSON:
//! position, counters and results so far, what identifies the run (configuration, data), and a SHA-256 of every tensor and
//! of the header itself, so that a damaged file is noticed and an older one taken. Files are written whole or not at all, by
//! a thread of their own ([`Writer`]); a [`Policy`] says when, and which old ones go.

mod file;
mod policy;
mod snapshot;
mod store;
mod writer;

pub use file::{FORMAT, decode, decode_bytes, encode};
pub use policy::{Entry, Policy, Since};
pub use snapshot::{Header, Identity, Place, RowState, Snapshot};
pub use store::{Found, Store};
pub use writer::{LogMark, Writer};
