//! Folders with files that are carried.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// What one trip may weigh.
const LIMIT: u64 = 60_000_000;

/// Makes a folder.
pub fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies the files of a folder into another.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Prints what each trip weighs; fails if one is too heavy.
pub fn check(folder: &Path) -> Result<()> {
    let mut trips: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    trips.sort();
    let mut heavy = Vec::new();
    for trip in &trips {
        let mut files = Vec::new();
        sizes(trip, &mut files)?;
        let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        println!("{}: {:.1} MB in {} files", trip.display(), total as f64 / 1e6, files.len());
        for (path, bytes) in files.iter().filter(|(_, bytes)| *bytes > 1_000_000) {
            println!("  {:5.1} MB  {}", *bytes as f64 / 1e6, path.display());
        }
        if total > LIMIT {
            heavy.push(trip.display().to_string());
        }
    }
    if !heavy.is_empty() {
        bail!("a trip may weigh {} MB: {} is heavier", LIMIT / 1_000_000, heavy.join(", "));
    }
    println!("{} trips, all into one folder; then run.sh there", trips.len());
    Ok(())
}

/// All files below a folder, and their sizes.
fn sizes(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sizes(&entry.path(), found)?;
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_trip_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let trip = folder.path().join("trip-1/inner");
        make(&trip).unwrap();
        fs::File::create(trip.join("a")).unwrap().set_len(LIMIT).unwrap();
        check(folder.path()).unwrap();
        fs::write(trip.join("b"), "1").unwrap();
        assert!(check(folder.path()).unwrap_err().to_string().contains("trip-1 is heavier"));
    }
}
