//! The container before PyTorch 1.6: five pickles, then the memory of all tensors.

use super::super::import::shown;
use super::super::pickle::{self, Pickle, Value};
use super::Storages;
use std::borrow::Cow;
use std::collections::HashMap;

/// What the first pickle holds.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// What the second pickle holds.
const PROTOCOL: u64 = 1001;

/// Reads the pickles and finds the memory.
///
/// # Errors
/// What is wrong with the file.
pub fn open(bytes: &[u8]) -> Result<(Pickle, Storages<'_>), String> {
    let mut rest = bytes;
    let mut next = |what: &str| -> Result<Pickle, String> {
        let (pickle, length) = pickle::read(rest).map_err(|e| format!("its {what}, {e}"))?;
        rest = &rest[length..];
        Ok(pickle)
    };
    let magic = next("magic number")?;
    if !matches!(magic.values.get(magic.root), Value::Int(MAGIC)) {
        let kind = magic.values.kind(magic.root);
        return Err(format!(
            "a pickle of {kind} that `torch.save` did not write; in Python: load it as it was written, then \
             `torch.save(state_dict, \"weights.pth\")`"
        ));
    }
    let version = next("version")?;
    if version.values.count(version.root) != Some(PROTOCOL) {
        return Err(format!("its version is not {PROTOCOL}; load it in Python and save it again"));
    }
    let system = next("system")?;
    let entries = system.values.entries(system.root).unwrap_or_default();
    let little = entries.iter().find(|(key, _)| system.values.text(*key) == Some("little_endian"));
    if !little.is_some_and(|(_, value)| matches!(system.values.get(*value), Value::Bool(true))) {
        return Err("its numbers have their highest byte first; load it in Python on a usual machine and \
                    save it again"
            .to_owned());
    }
    let object = next("object")?;
    let keys = next("list of storages")?;
    let storages = memory(&object, &keys, bytes, bytes.len() - rest.len())?;
    Ok((object, storages))
}

/// The memory that begins at byte `at`.
fn memory<'a>(
    object: &Pickle,
    keys: &Pickle,
    bytes: &'a [u8],
    mut at: usize,
) -> Result<Storages<'a>, String> {
    let mut units = HashMap::new();
    for value in object.values.iter() {
        let Value::Storage(storage) = value else { continue };
        let Some(key) = object.values.text(storage.key) else { continue };
        let unit = storage.element.size as u64;
        if *units.entry(key).or_insert(unit) != unit {
            return Err(format!("storage `{}` has elements of two types", shown(key)));
        }
    }
    let mut ready = HashMap::new();
    for id in keys.values.items(keys.root) {
        let key = keys.values.text(*id).ok_or("the name of a storage is no text")?;
        let unit = units.get(key).ok_or_else(|| format!("nothing uses storage `{}`", shown(key)))?;
        let short = || {
            format!(
                "the file is cut short: storage `{}` does not end within its {} bytes",
                shown(key),
                bytes.len()
            )
        };
        let (count, rest) = bytes[at..].split_first_chunk().ok_or_else(short)?;
        let length = u64::from_le_bytes(*count).checked_mul(*unit);
        let length = length.filter(|n| *n <= rest.len() as u64).ok_or_else(short)? as usize;
        ready.insert(key.to_owned(), Cow::Borrowed(&rest[..length]));
        at += size_of::<u64>() + length;
    }
    if at != bytes.len() {
        return Err(format!("{} bytes follow the last storage, at byte {at}", bytes.len() - at));
    }
    Ok(Storages::plain(ready))
}
