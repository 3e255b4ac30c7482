//! Rules that every source file keeps.

use crate::run::root;
use std::path::{Path, PathBuf};

/// Longest source file.
const MAX_LINES: usize = 500;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["crates", "xtask"] {
        sources(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50);
    found
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{}: the first line says what the file is", path.display());
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines; split it", path.display());
    }
}

#[test]
fn unsafe_code_is_in_one_crate() {
    let kernels = root().join("crates/dkd-kernels");
    // A counting allocator is an unsafe trait; these tests forward to the system's.
    let allowed = |p: &Path| p.starts_with(&kernels) || p.ends_with("dkd-engine/tests/allocations.rs");
    let word = ["uns", "afe "].concat();
    for path in all_sources().into_iter().filter(|p| !allowed(p)) {
        let text = std::fs::read_to_string(&path).unwrap();
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            assert!(!code.contains(&word), "{}:{}: {line}", path.display(), i + 1);
        }
    }
}
