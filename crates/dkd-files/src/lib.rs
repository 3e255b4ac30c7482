//! Files that survive: atomic writes, checksums, locks and size-limited reads
