//! Files of `torch.save`: both containers, and the state dictionary in them.

mod archive;
mod legacy;
mod storages;
mod tensor;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use write::{pth_bytes, save_pth};

use super::import::{Container, Contents, shown};
use super::pickle::{Pickle, Value};
use candle_core::DType;
use std::collections::BTreeMap;
use storages::Storages;

/// Most entries beside the weights that are kept, and the longest of their texts in bytes.
const MAX_EXTRAS: usize = 256;
const MAX_EXTRA: usize = 4096;

/// Beyond the file's size, tensors may take this much: views of the same memory count every time.
const SLACK: u64 = 16 << 20;

/// Reads a zip file (since PyTorch 1.6).
///
/// # Errors
/// What is wrong with it, without the file's name.
pub(super) fn read_zip(bytes: &[u8], key: Option<&str>) -> Result<Contents, String> {
    let (pickle, storages) = archive::open(bytes)?;
    contents(&pickle, storages, key, Container::PytorchZip, bytes.len())
}

/// Reads a run of pickles with the memory behind it (before PyTorch 1.6).
///
/// # Errors
/// What is wrong with it, without the file's name.
pub(super) fn read_legacy(bytes: &[u8], key: Option<&str>) -> Result<Contents, String> {
    let (pickle, storages) = legacy::open(bytes)?;
    contents(&pickle, storages, key, Container::PytorchLegacy, bytes.len())
}

fn contents(
    pickle: &Pickle,
    mut storages: Storages<'_>,
    key: Option<&str>,
    container: Container,
    length: usize,
) -> Result<Contents, String> {
    let values = &pickle.values;
    let chosen = tree::choose(pickle, key)?;
    let mut budget = 4 * length as u64 + SLACK;
    let mut tensors = BTreeMap::new();
    for (name, id) in chosen.tensors {
        let Value::Tensor(view) = values.get(id) else { continue };
        let failed = |problem: String| format!("tensor `{}`: {problem}", shown(&name));
        let tensor = tensor::read(values, view, &mut storages, &mut budget).map_err(failed)?;
        if tensors.contains_key(&name) {
            return Err(failed("there are two entries of this name".to_owned()));
        }
        tensors.insert(name, tensor);
    }
    let mut metadata = super::Metadata::default();
    for (name, id) in chosen.extras.into_iter().take(MAX_EXTRAS) {
        let text = match values.get(id) {
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Text(text) => text.clone(),
            // A single number, `best_acc` for example. Nothing is lost if it cannot be read.
            Value::Tensor(view) if view.size.iter().all(|n| *n == 1) => {
                let tensor = tensor::read(values, view, &mut storages, &mut budget).ok();
                let number =
                    tensor.and_then(|t| t.to_dtype(DType::F64).ok()?.flatten_all().ok()?.to_vec1().ok());
                let Some(number) = number else { continue };
                number.iter().map(f64::to_string).collect()
            }
            _ => continue,
        };
        if text.len() <= MAX_EXTRA {
            metadata = metadata.with(&name, &text);
        }
    }
    Ok(Contents { container, key: chosen.key, rest: chosen.rest, tensors, metadata })
}
