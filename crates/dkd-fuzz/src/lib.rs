//! What must hold for any bytes from outside.
//!
//! Each target is a function on bytes that panics if a reader does something that it must not: it panics itself, writes outside
//! of its folder, accepts what it cannot write again, or tells an error without the file. The binaries in `fuzz/`, which need
//! nightly and libFuzzer, call nothing else; `tests/corpus.rs` runs every file of `fuzz/corpus` through the same functions on
//! stable.
//!
//! ```
//! let config = dkd_fuzz::TARGETS.iter().find(|t| t.name == "config").ok_or("there is one")?;
//! assert!((config.run)(b"student.model = 'resnet8'"));
//! assert!(!(config.run)(b"student.model = 'resnet9'"));
//! # Ok::<(), &str>(())
//! ```

mod archive;
mod checkpoint;
mod cifar;
mod config;
mod events;
mod pytorch;
mod result;
mod seeds;
mod weights;

pub use archive::archive;
pub use checkpoint::checkpoint;
pub use cifar::cifar;
pub use config::config;
pub use events::events;
pub use pytorch::pytorch;
pub use result::result;
pub use weights::weights;

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of its binary and of its folder in the corpus.
    pub name: &'static str,
    /// Reads the bytes and tells whether they were accepted.
    pub run: fn(&[u8]) -> bool,
    /// The inputs to begin with.
    pub seeds: fn() -> Vec<Seed>,
}

/// An input to begin with. What is called `ok-…` must be accepted, what is called `bad-…` must be refused; all others must
/// only do no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Name of its file.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "archive", run: archive, seeds: seeds::archive },
    Target { name: "checkpoint", run: checkpoint, seeds: seeds::checkpoint },
    Target { name: "cifar", run: cifar, seeds: seeds::cifar },
    Target { name: "config", run: config, seeds: seeds::config },
    Target { name: "events", run: events, seeds: seeds::events },
    Target { name: "pytorch", run: pytorch, seeds: seeds::pytorch },
    Target { name: "result", run: result, seeds: seeds::result },
    Target { name: "weights", run: weights, seeds: seeds::weights },
];

/// Makes sure that an error says which file it is about.
fn assert_names(error: &dyn std::error::Error, file: &str) {
    let message = error.to_string();
    assert!(message.contains(file), "no word about {file}: {message}");
}
