//! Folders of files: copies, fingerprints, and what a run leaves.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A fingerprint for each file, by its path in the folder.
pub type Prints = BTreeMap<String, String>;

/// Files of a run that say when, where and how it ran, and not what came out.
const ABOUT: [&str; 4] = ["config.toml", "invocation.json", "host.json", "times.json"];

/// Reports print minutes: that they are there is all that can be compared.
const WITH_TIMES: [&str; 2] = ["report.html", "report.md"];

/// Keys of results that say how long and where.
const TIMES: [&str; 3] = ["seconds", "waited_seconds", "host"];

/// All files at and below a folder, sorted.
pub fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = || format!("cannot list {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Every file as it is, but for the lock, which says who used the folder last.
pub fn exact(folder: &Path) -> Result<Prints> {
    let mut prints = Prints::new();
    for path in walk(folder)? {
        let name = name_in(folder, &path);
        if name != ".dkd.lock" {
            prints.insert(name, dkd_files::sha256_file(&path)?);
        }
    }
    Ok(prints)
}

/// What came out of a run: weights, results, event logs and what is derived from them; times and the machine aside.
pub fn outcome(folder: &Path) -> Result<Prints> {
    let mut prints = Prints::new();
    for path in walk(folder)? {
        let name = name_in(folder, &path);
        // TensorBoard's files hold wall times.
        let aside = ABOUT.contains(&&*name) || name.starts_with("tensorboard/") || name == ".dkd.lock";
        if aside || dkd_files::is_unfinished(&path) {
            continue;
        }
        let print = if WITH_TIMES.contains(&&*name) {
            "there".to_owned()
        } else if name.ends_with(".json") {
            let bytes = read(&path)?;
            let value = serde_json::from_slice(&bytes);
            let mut value: Value = value.with_context(|| format!("{} is no JSON", path.display()))?;
            strip(&mut value);
            dkd_files::sha256_bytes(value.to_string().as_bytes())
        } else {
            dkd_files::sha256_file(&path)?
        };
        prints.insert(name, print);
    }
    Ok(prints)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !TIMES.contains(&&**key));
            map.values_mut().for_each(strip);
        }
        Value::Array(all) => all.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Whether two sets of fingerprints are the same.
pub fn same(expected: &Prints, found: &Prints) -> Result<()> {
    let mut differing: Vec<String> = Vec::new();
    for (name, print) in expected {
        match found.get(name) {
            None => differing.push(format!("{name} is missing")),
            Some(other) if other != print => differing.push(format!("{name} differs")),
            Some(_) => {}
        }
    }
    differing.extend(found.keys().filter(|n| !expected.contains_key(*n)).map(|n| format!("{n} is too many")));
    if differing.is_empty() { Ok(()) } else { bail!("{}", differing.join(", ")) }
}

/// What a write that was cut off has left in a folder and below it.
pub fn unfinished(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = if folder.is_dir() { walk(folder)? } else { Vec::new() };
    found.retain(|path| dkd_files::is_unfinished(path));
    Ok(found)
}

/// Checkpoints in the folder of a run, the newest first.
pub fn checkpoints(out: &Path) -> Result<Vec<PathBuf>> {
    let folder = out.join("checkpoints");
    let mut found = if folder.is_dir() { walk(&folder)? } else { Vec::new() };
    found.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    // The students' (`s`) are newer than their teacher's (`t`), and the numbers have leading zeros.
    let of_students = |path: &PathBuf| name_in(&folder, path).contains("-s-");
    found.sort_by_key(|path| std::cmp::Reverse((of_students(path), path.clone())));
    Ok(found)
}

/// Copies all files.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    transfer(from, to, |a, b| std::fs::copy(a, b).map(drop))
}

/// Gives all files a second name: for what is only read.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    transfer(from, to, |a, b| std::fs::hard_link(a, b))
}

fn transfer(from: &Path, to: &Path, each: impl Fn(&Path, &Path) -> std::io::Result<()>) -> Result<()> {
    for path in walk(from)? {
        let place = to.join(name_in(from, &path));
        let failed = || format!("cannot make {}", place.display());
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).with_context(failed)?;
        }
        each(&path, &place).with_context(failed)?;
    }
    Ok(())
}

/// Puts bytes in the place of a file, whose other names keep the old ones.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// All bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Bytes of a file.
pub fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.len())
}

/// A path's name within a folder.
pub fn name_in(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_differ_in_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let (a, b) = (root.join("a"), root.join("b"));
        let write = |folder: &Path, name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(&a, "results/t/kd-0.json", r#"{"last":1.5,"seconds":3,"host":{"cpu":"x"}}"#);
        write(&a, "events-0.jsonl", "{}\n");
        write(&a, "report.md", "0.1 min");
        write(&a, "invocation.json", "how");
        copy(&a, &b).unwrap();
        write(&b, "results/t/kd-0.json", r#"{"last":1.5,"seconds":4,"host":null}"#);
        write(&b, "report.md", "0.2 min");
        write(&b, "invocation.json", "otherwise");
        write(&b, "checkpoints/.dkd-1.tmp", "half");
        let expected = outcome(&a).unwrap();
        same(&expected, &outcome(&b).unwrap()).unwrap();
        assert_eq!(unfinished(&b).unwrap().len(), 1);
        assert!(same(&exact(&a).unwrap(), &exact(&b).unwrap()).is_err());
        write(&b, "events-0.jsonl", "{}\n{}\n");
        write(&b, "checkpoints/0-s-0000000001.safetensors", "");
        write(&b, "checkpoints/0-t-0000000009.safetensors", "");
        let message = same(&expected, &outcome(&b).unwrap()).unwrap_err().to_string();
        assert!(message.contains("events-0.jsonl differs") && message.contains("too many"), "{message}");
        assert!(checkpoints(&b).unwrap()[0].ends_with("0-s-0000000001.safetensors"));
        link(&a, &root.join("c")).unwrap();
        replace(&root.join("c/events-0.jsonl"), b"other").unwrap();
        assert_eq!(std::fs::read(a.join("events-0.jsonl")).unwrap(), b"{}\n");
    }
}
