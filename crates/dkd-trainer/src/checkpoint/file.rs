//! From a snapshot to bytes, and back with every check.

use super::snapshot::{Header, Snapshot};
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_models::checkpoint::{self, Metadata};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Version of the format. A file of another version is refused by name.
pub const FORMAT: u32 = 1;

const VERSION_KEY: &str = "dkd_checkpoint";
const HEADER_KEY: &str = "dkd_header";
const SUM_KEY: &str = "dkd_header_sha256";

/// The header with a checksum for every tensor.
#[derive(Serialize, Deserialize)]
struct Sealed {
    header: Header,
    /// SHA-256 of name, type, shape and bytes.
    tensors: BTreeMap<String, String>,
}

/// The bytes of a checkpoint file.
///
/// # Errors
/// Two tensors of one name; a type that cannot be stored.
pub fn encode(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let sums = snapshot.tensors.iter().map(|(name, tensor)| Ok((name.clone(), sum(name, tensor)?)));
    let sealed = Sealed { header: snapshot.header.clone(), tensors: sums.collect::<Result<_>>()? };
    let text = serde_json::to_string(&sealed).expect("a header is JSON");
    let metadata = Metadata::default()
        .with(VERSION_KEY, &FORMAT.to_string())
        .with(SUM_KEY, &dkd_files::sha256_bytes(text.as_bytes()))
        .with(HEADER_KEY, &text);
    Ok(checkpoint::to_bytes(&snapshot.tensors, &metadata)?)
}

/// Reads a checkpoint file and checks all of it.
///
/// # Errors
/// [`Error::Record`] with the reason: cut short, changed, another version, something else entirely.
pub fn decode(path: &Path) -> Result<Snapshot> {
    decode_bytes(&dkd_files::read_limited(path, checkpoint::MAX_FILE)?, path)
}

/// The same from the bytes of a file; `path` names it in messages.
///
/// # Errors
/// As [`decode`], but for reading the file.
pub fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Snapshot> {
    let fail = |message: String| Error::Record { path: path.to_owned(), message };
    let (tensors, metadata) = checkpoint::from_bytes(bytes, path)?;
    match metadata.get(VERSION_KEY).map(str::parse::<u32>) {
        Some(Ok(FORMAT)) => {}
        Some(Ok(other)) => {
            return Err(fail(format!("is a checkpoint of format {other}; this program reads {FORMAT}")));
        }
        _ => return Err(fail("is no checkpoint of a run: it has no `dkd_checkpoint`".to_owned())),
    }
    let damaged = |what: &str| fail(format!("is damaged: {what}"));
    let text = metadata.get(HEADER_KEY).ok_or_else(|| damaged("its header is missing"))?;
    if metadata.get(SUM_KEY) != Some(&dkd_files::sha256_bytes(text.as_bytes())) {
        return Err(damaged("its header's checksum is wrong"));
    }
    let sealed: Sealed =
        serde_json::from_str(text).map_err(|e| damaged(&format!("its header is not readable ({e})")))?;
    let found = check(&sealed.tensors, tensors).map_err(|what| damaged(&what))?;
    Ok(Snapshot { header: sealed.header, tensors: found })
}

/// All tensors that the checksums name, and no others, each as it was.
fn check(
    sums: &BTreeMap<String, String>,
    mut tensors: HashMap<String, Tensor>,
) -> std::result::Result<Vec<(String, Tensor)>, String> {
    let mut found = Vec::with_capacity(sums.len());
    for (name, expected) in sums {
        let tensor = tensors.remove(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        if sum(name, &tensor).map_err(|e| e.to_string())? != *expected {
            return Err(format!("the checksum of tensor `{name}` is wrong"));
        }
        found.push((name.clone(), tensor));
    }
    match tensors.keys().min() {
        Some(unknown) => Err(format!("tensor `{unknown}` does not belong to it")),
        None => Ok(found),
    }
}

fn sum(name: &str, tensor: &Tensor) -> Result<String> {
    let mut bytes = format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims()).into_bytes();
    tensor.write_bytes(&mut bytes)?;
    Ok(dkd_files::sha256_bytes(&bytes))
}
