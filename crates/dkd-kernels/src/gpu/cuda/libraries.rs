//! Finding NVIDIA's libraries before anything calls them.
//!
//! A program that is linked with them has them already. One that opens them on first use asks the system's
//! loader by name and panics if that fails, so here each is opened first, by its path if need be: the loader
//! then knows it by its name.

use crate::gpu::error::{GpuError, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The loader's "only if it is there already"; the same on Linux everywhere.
const RTLD_NOLOAD: i32 = 4;

/// A library, as the file names under which it comes, newest first.
struct Wanted {
    name: &'static str,
    files: &'static [&'static str],
    /// Start of the names of files beside it that it opens itself.
    helpers: Option<&'static str>,
}

const fn wanted(name: &'static str, files: &'static [&'static str]) -> Wanted {
    Wanted { name, files, helpers: None }
}

/// In the order in which they need each other.
const WANTED: &[Wanted] = &[
    Wanted {
        name: "libnvrtc",
        files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
        helpers: Some("libnvrtc-builtins.so."),
    },
    wanted("libcublasLt", &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]),
    wanted("libcublas", &["libcublas.so.13", "libcublas.so.12", "libcublas.so"]),
    wanted("libcurand", &["libcurand.so.10", "libcurand.so"]),
    wanted("libcudnn", &["libcudnn.so.9", "libcudnn.so"]),
];

/// Opens the driver's library, which the others and candle need, and keeps it.
pub(super) fn driver() -> Result<Library> {
    open(Path::new("libcuda.so.1"), 0).map_err(|why| {
        GpuError::NoDevice(format!(
            "there is no NVIDIA driver: libcuda.so.1 was looked for by the system's loader ({why})"
        ))
    })
}

/// Opens all others, in a Python environment or a folder first if one is named.
pub(super) fn open_all(named: Option<&Path>) -> Result<()> {
    open_some(named, |_| true)
}

/// Opens those that cuDNN needs.
pub(super) fn open_for_cudnn(named: Option<&Path>) -> Result<()> {
    open_some(named, |name| name != "libcurand")
}

fn open_some(named: Option<&Path>, wants: impl Fn(&str) -> bool) -> Result<()> {
    let mut folders = Vec::new();
    if let Some(named) = named {
        folders = folders_of(named);
        if folders.is_empty() {
            let why = format!("{} has no libraries of NVIDIA's", named.display());
            return Err(GpuError::NoDevice(why));
        }
    }
    let own = folders.len();
    folders.extend(toolkits());
    let mut missing = Vec::new();
    let mut reasons = BTreeSet::new();
    for wanted in WANTED.iter().filter(|wanted| wants(wanted.name)) {
        if let Err(why) = find(wanted, &folders, own) {
            missing.push(wanted.name);
            reasons.extend(why);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(GpuError::NoDevice(sentence(&missing, &folders, &reasons))) }
}

fn sentence(missing: &[&str], folders: &[PathBuf], reasons: &BTreeSet<String>) -> String {
    let mut text = format!("{} cannot be opened; looked for by the system's loader", missing.join(", "));
    for folder in folders {
        text.push_str(&format!(", in {}", folder.display()));
    }
    text.push_str("; a Python environment with PyTorch for CUDA has all of them");
    for reason in reasons {
        text.push_str(&format!("; {reason}"));
    }
    text
}

/// Opens one library: what is open already, what was named, what the loader finds, a toolkit's. Else the
/// reasons, if a file was there.
fn find(wanted: &Wanted, folders: &[PathBuf], own: usize) -> std::result::Result<(), Vec<String>> {
    if wanted.files.iter().any(|file| open(Path::new(file), RTLD_NOLOAD).is_ok_and(keep)) {
        return Ok(());
    }
    let mut reasons = Vec::new();
    let (named, toolkits) = folders.split_at(own);
    let mut at = |folders: &[PathBuf]| folders.iter().any(|folder| open_in(folder, wanted, &mut reasons));
    let by_name = || wanted.files.iter().any(|file| open(Path::new(file), 0).is_ok_and(keep));
    if at(named) || by_name() || at(toolkits) { Ok(()) } else { Err(reasons) }
}

fn open_in(folder: &Path, wanted: &Wanted, reasons: &mut Vec<String>) -> bool {
    let Some(path) = wanted.files.iter().map(|file| folder.join(file)).find(|path| path.exists()) else {
        return false;
    };
    if let Some(start) = wanted.helpers {
        for helper in entries(folder).into_iter().filter(|p| name(p).starts_with(start)) {
            // If this fails, the library says so when it is used.
            let _ = open(&helper, 0).map(keep);
        }
    }
    match open(&path, 0) {
        Ok(library) => keep(library),
        Err(why) => {
            reasons.push(why);
            false
        }
    }
}

/// Leaves a library open for good: others hold pointers into it.
fn keep(library: Library) -> bool {
    std::mem::forget(library);
    true
}

fn open(path: &Path, more: i32) -> std::result::Result<Library, String> {
    // SAFETY: NVIDIA's libraries may be opened by any program, on any thread.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL | more) };
    // What the loader says is the reason behind the error.
    opened.map_err(|e| e.source().map_or_else(|| e.to_string(), ToString::to_string))
}

/// Folders with libraries below a Python environment, its `site-packages`, a toolkit, or that folder itself.
fn folders_of(named: &Path) -> Vec<PathBuf> {
    // The loader takes a path for a name unless it is absolute.
    let named = std::path::absolute(named).unwrap_or_else(|_| named.to_path_buf());
    let mut candidates = vec![named.clone(), named.join("lib"), named.join("lib64")];
    let mut packages = vec![named.join("nvidia")];
    for lib in ["lib", "lib64"] {
        let pythons = entries(&named.join(lib)).into_iter().filter(|p| name(p).starts_with("python"));
        packages.extend(pythons.map(|p| p.join("site-packages/nvidia")));
    }
    for package in packages {
        candidates.extend(entries(&package).into_iter().map(|p| p.join("lib")));
    }
    let has_one = |folder: &PathBuf| {
        let mut files = WANTED.iter().flat_map(|w| w.files);
        files.any(|file| folder.join(file).exists())
    };
    candidates.into_iter().filter(has_one).collect()
}

fn toolkits() -> Vec<PathBuf> {
    let variables = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let mut found: Vec<PathBuf> = Vec::new();
    for root in variables.chain([PathBuf::from("/usr/local/cuda")]) {
        let folder = root.join("lib64");
        if !found.contains(&folder) {
            found.push(folder);
        }
    }
    found
}

/// What is in a folder, in order of names; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_searched_for_its_packages() {
        let root = env::temp_dir().join(format!("dkd-cuda-libraries-{}", std::process::id()));
        let site = root.join("lib/python3.11/site-packages");
        for file in ["cu13/lib/libnvrtc.so.13", "cudnn/lib/libcudnn.so.9", "nccl/lib/libnccl.so.2"] {
            let path = site.join("nvidia").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "not a library").unwrap();
        }
        let want = ["cu13/lib", "cudnn/lib"].map(|p| site.join("nvidia").join(p));
        assert_eq!(folders_of(&root), want);
        assert_eq!(folders_of(&site), want);
        assert_eq!(folders_of(&want[1]), [want[1].clone()]);
        // Other libraries may be on this computer, so it is one file that is tried.
        let mut reasons = Vec::new();
        assert!(!open_in(&want[1], &WANTED[4], &mut reasons));
        let text = sentence(&["libnvrtc", "libcudnn"], &want, &reasons.into_iter().collect());
        for part in ["libnvrtc, libcudnn cannot", "in ", "cudnn/lib/libcudnn.so.9: ", "loader"] {
            assert!(text.contains(part), "{text}");
        }
        let error = open_all(Some(&root.join("lib"))).unwrap_err().to_string();
        assert!(error.contains("has no libraries"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }
}
