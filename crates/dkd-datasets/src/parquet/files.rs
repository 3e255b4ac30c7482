//! Which files there are, and the splits they belong to.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Folders below the data set's that are looked into.
const DEPTH: usize = 3;

/// The splits that test images are taken from, the first one that is there.
const TEST: [&str; 4] = ["test", "validation", "valid", "val"];

/// The files of both splits, in the order of their names.
#[derive(Debug)]
pub(super) struct Files {
    pub train: Vec<PathBuf>,
    pub test: Vec<PathBuf>,
}

impl Files {
    /// Looks through `folder`.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut all = Vec::new();
        collect(folder, DEPTH, &mut all)?;
        all.sort();
        if all.is_empty() {
            return Err(wrong(folder, "holds no files that end in .parquet".to_owned()));
        }
        let of = |split: &str| -> Vec<PathBuf> {
            all.iter().filter(|file| split_of(folder, file).as_deref() == Some(split)).cloned().collect()
        };
        let train = of("train");
        let test = TEST.map(of).into_iter().find(|files| !files.is_empty());
        let lacking = |split: &str| {
            let names: Vec<String> = all.iter().take(3).map(|file| file.display().to_string()).collect();
            wrong(
                folder,
                format!(
                    "has no files of the split {split}: their names, or their folders', must begin with it. There are {}{}",
                    names.join(", "),
                    if all.len() > 3 { ", …" } else { "" }
                ),
            )
        };
        if train.is_empty() {
            return Err(lacking("`train`"));
        }
        Ok(Self { train, test: test.ok_or_else(|| lacking("`test`, `validation`, `valid` or `val`"))? })
    }
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::Folder { path: path.to_owned(), problem }
}

fn collect(folder: &Path, depth: usize, all: &mut Vec<PathBuf>) -> Result<()> {
    let list = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    for entry in list.map_err(|e| wrong(folder, format!("cannot be listed: {e}")))? {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, all)?;
            }
        } else if path.extension().is_some_and(|e| e == "parquet") {
            all.push(path);
        }
    }
    Ok(())
}

/// The split whose name a file's begins with, or the nearest folder's within the data set.
fn split_of(root: &Path, file: &Path) -> Option<String> {
    let inside = file.strip_prefix(root).unwrap_or(file);
    inside.components().rev().find_map(|part| {
        let name = part.as_os_str().to_string_lossy().to_lowercase();
        let word = name.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        ["train"].into_iter().chain(TEST).find(|split| *split == word).map(str::to_owned)
    })
}
