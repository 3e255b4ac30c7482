//! Which folders are runs.

use crate::args::RUNS;
use crate::output;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Files that runs leave. One of them may be anywhere: two together make a run.
const FILES: [&str; 9] = [
    "config.toml",
    "host.json",
    "data.json",
    "invocation.json",
    "events.jsonl",
    "summary.json",
    "times.json",
    "report.html",
    ".dkd.lock",
];

/// How far below a folder runs are looked for.
const DEPTH: usize = 4;

/// Whether a folder is a run's or a table's.
pub fn is_run(folder: &Path) -> bool {
    FILES.iter().filter(|file| folder.join(file).exists()).count() >= 2
}

/// Refuses a folder that is none.
pub fn check(folder: &Path) -> Result<()> {
    if is_run(folder) {
        return Ok(());
    }
    let shown = folder.display();
    if !folder.exists() {
        bail!("there is no folder `{shown}`; `dkd runs list DIR` lists the runs below a folder");
    }
    bail!("`{shown}` is no folder of a run or table; `dkd runs list {shown}` lists those below it");
}

/// The run folders among `folders` and below them, in the order of their names.
pub fn find(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        if !folder.is_dir() {
            if folder == Path::new(RUNS) {
                continue;
            }
            bail!("there is no folder `{}`", folder.display());
        }
        search(folder, DEPTH, &mut found);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if is_run(folder) {
        return found.push(folder.to_owned());
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) if depth > 0 => entries,
        Ok(_) => return,
        Err(e) => return output::note(&format!("`{}` was not searched: {e}", folder.display())),
    };
    for entry in entries.flatten() {
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_dir() {
            search(&entry.path(), depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_make_a_run() {
        let root = tempfile::tempdir().unwrap();
        let add = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        };
        for path in
            ["b/config.toml", "b/.dkd.lock", "b/deep/config.toml", "b/deep/host.json", "data/.dkd.lock"]
        {
            add(path);
        }
        for path in [
            "a/x/summary.json",
            "a/x/times.json",
            ".hidden/config.toml",
            ".hidden/host.json",
            "c/config.toml",
        ] {
            add(path);
        }
        let all = find(&[root.path().to_owned(), root.path().join("a")]).unwrap();
        assert_eq!(all, ["a/x", "b"].map(|p| root.path().join(p)));
        assert!(check(&root.path().join("c")).unwrap_err().to_string().contains("no folder of a run"));
        let missing = root.path().join("none");
        assert!(find(std::slice::from_ref(&missing)).is_err() && check(&missing).is_err());
    }
}
