//! Files that survive: atomic writes, checksums, size-limited reads and folder locks.
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("summary.json");
//! dkd_files::atomic_write_bytes(&path, b"{}")?;
//! assert_eq!(dkd_files::read_limited(&path, 1024)?, b"{}");
//! assert_eq!(dkd_files::sha256_file(&path)?.len(), 64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod atomic;
mod digest;
mod error;
mod limited;
mod lock;

pub use atomic::{atomic_write, atomic_write_bytes, is_unfinished};
pub use digest::{md5_file, sha256_bytes, sha256_file};
pub use error::{Error, Result};
pub use limited::{read_limited, read_text_limited};
pub use lock::FolderLock;
