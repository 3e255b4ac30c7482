//! Networks against reference values computed with PyTorch: for tests on the CPU, and for checks on a device.
//!
//! A reference is a `NAME.json` and a `NAME.safetensors`; weights and images are not in it, but made from names ([`fill`]).

mod compare;
pub mod fill;
mod reference;
mod runs;

pub use compare::{Outcome, Tolerances, compare};
pub use reference::{Golden, distance, l2};
pub use runs::Runs;

use std::path::Path;

/// What reading and comparing give: errors are for people only.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The references in a folder, in the order of their names: those of networks of the registry, and the names of the others.
///
/// # Errors
/// The folder or a file cannot be read; there is no reference of a known network.
pub fn read(folder: &Path) -> Result<(Vec<Golden>, Vec<String>)> {
    let list = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names = Vec::new();
    for entry in list {
        let file = entry?.file_name();
        names.extend(file.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
    }
    names.sort();
    let (known, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| crate::find(name).is_ok());
    if known.is_empty() {
        return Err(format!("{}: no reference of a known network", folder.display()).into());
    }
    let known = known.iter().map(|name| Golden::read(folder, name)).collect::<Result<_>>()?;
    Ok((known, others))
}
