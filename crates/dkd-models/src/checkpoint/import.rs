//! Weights that others saved.

use super::{MAX_FILE, Metadata, pytorch, safetensors};
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which weights of a file are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// Where they are, if the file has several: the keys of the dictionaries that lead there and the beginning of the tensors'
    /// names, all with dots (`model_ema`, `model.module.student`). `.` is the whole file. What is named here is removed from the
    /// names.
    pub key: Option<String>,
}

/// How a file keeps its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// safetensors.
    Safetensors,
    /// A zip file of PyTorch (since 1.6).
    PytorchZip,
    /// A run of pickles of PyTorch (before 1.6).
    PytorchLegacy,
}

/// Tensors of a file, by the names that they have there.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The file.
    pub path: PathBuf,
    /// How it keeps them.
    pub container: Container,
    /// Where in the file they were: keys of dictionaries and the beginning of names, with dots; empty if nowhere special.
    pub key: String,
    /// The tensors, on the CPU, in the element types of the file; 8-bit integers with a sign are widened to 16 bits, truth
    /// values are bytes.
    pub tensors: BTreeMap<String, Tensor>,
    /// Texts and numbers beside them (`epoch`, `best_acc`), as text; the metadata of a safetensors file.
    pub metadata: Metadata,
}

/// What a container holds.
pub(super) struct Contents {
    pub container: Container,
    pub key: String,
    /// What is still to be removed from the names, and must be there.
    pub rest: String,
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: Metadata,
}

/// Reads weights from a safetensors file or a file of `torch.save`, whatever it is called.
///
/// A file of PyTorch is read as data: nothing that it names is ever run. Its state dictionary may lie at the top or within
/// other dictionaries.
///
/// # Errors
/// A file that cannot be read, is of another kind (the message says of which, as far as it can be recognised), is damaged, asks
/// for more memory than it can mean, or holds a pickled module; several state dictionaries, or none, where
/// [`Select::key`] says.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dkd_models::checkpoint::{Metadata, Select, read_weights, save_pth};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("teacher.pth");
/// let weights = [("fc.bias".to_owned(), Tensor::zeros(10, DType::F32, &Device::Cpu)?)];
/// save_pth(&path, &weights, &Metadata::default().with("epoch", "240"))?;
/// let foreign = read_weights(&path, &Select::default())?;
/// assert_eq!(foreign.tensors["fc.bias"].dims(), [10]);
/// assert_eq!((foreign.key.as_str(), foreign.metadata.get("epoch")), ("state_dict", Some("240")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_weights(path: &Path, select: &Select) -> Result<Foreign> {
    weights_from_bytes(&dkd_files::read_limited(path, MAX_FILE)?, path, select)
}

/// The same from the bytes of a file; `path` names it in messages.
///
/// # Errors
/// As [`read_weights`], but for reading the file.
pub fn weights_from_bytes(bytes: &[u8], path: &Path, select: &Select) -> Result<Foreign> {
    let foreign = |problem: String| Error::Foreign { path: path.to_owned(), problem };
    let key = select.key.as_deref().filter(|key| !key.is_empty());
    let contents = match recognise(bytes).map_err(foreign)? {
        Container::PytorchZip => pytorch::read_zip(bytes, key).map_err(foreign)?,
        Container::PytorchLegacy => pytorch::read_legacy(bytes, key).map_err(foreign)?,
        Container::Safetensors => {
            let (tensors, metadata) = safetensors::from_bytes(bytes, path)?;
            Contents {
                container: Container::Safetensors,
                key: String::new(),
                rest: key.filter(|key| *key != ".").unwrap_or_default().to_owned(),
                tensors: tensors.into_iter().collect(),
                metadata,
            }
        }
    };
    narrow(contents, path).map_err(foreign)
}

/// Keeps the tensors whose names begin with what is left of the key, and removes it from them.
fn narrow(contents: Contents, path: &Path) -> Result<Foreign, String> {
    let Contents { container, key, rest, tensors, metadata } = contents;
    let path = path.to_owned();
    if rest.is_empty() {
        return Ok(Foreign { path, container, key, tensors, metadata });
    }
    let prefix = format!("{}.", rest.trim_end_matches('.'));
    let begin = |name: &String| {
        let end = name.match_indices('.').nth(1).or_else(|| name.match_indices('.').next());
        end.map(|(at, _)| format!("`{}`", shown(&name[..at])))
    };
    let beginnings: BTreeSet<String> = tensors.keys().filter_map(begin).take(1000).collect();
    let kept = tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?.to_owned(), t)));
    let kept: BTreeMap<String, Tensor> = kept.collect();
    if kept.is_empty() {
        let list: Vec<String> = beginnings.into_iter().take(6).collect();
        let list = if list.is_empty() { "nothing that could be chosen".to_owned() } else { list.join(", ") };
        return Err(format!("no tensor's name begins with `{}`, but with {list}", shown(&prefix)));
    }
    let dot = if key.is_empty() { "" } else { "." };
    let key = format!("{key}{dot}{}", rest.trim_end_matches('.'));
    Ok(Foreign { path, container, key, tensors: kept, metadata })
}

/// Tells from the first bytes what a file is.
fn recognise(bytes: &[u8]) -> Result<Container, String> {
    const SAVE: &str = "expected a safetensors file or one of torch.save";
    let trimmed = bytes.trim_ascii_start();
    let text = |start: &str| {
        trimmed.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes()))
    };
    if let [_, _, _, _, _, _, 0, 0, b'{', ..] = bytes {
        return Ok(Container::Safetensors);
    }
    let found = match bytes {
        [] => "an empty file",
        [b'P', b'K', 3 | 5, 4 | 6, ..] => return Ok(Container::PytorchZip),
        [0x80, 2..=5, ..] => return Ok(Container::PytorchLegacy),
        [0x1f, 0x8b, ..]
        | [b'B', b'Z', b'h', ..]
        | [0xfd, b'7', b'z', b'X', b'Z', ..]
        | [0x28, 0xb5, 0x2f, 0xfd, ..] => "a compressed file (unpack it first)",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file, of Keras perhaps",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "an array of NumPy",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file",
        _ if bytes.get(257..262) == Some(b"ustar") || old_tar(bytes) => {
            "a tar archive (unpack it and name the file inside; if PyTorch itself wrote it, before version 0.2, load it in \
             Python and save it again)"
        }
        _ if text("version https://git-lfs") => {
            "a pointer of Git LFS in place of the file (fetch it: git lfs pull)"
        }
        _ if text("<!doctype") || text("<html") || text("<?xml") => "an HTML page (did the download fail?)",
        _ if text("{") || text("[") => "a JSON text",
        _ => "a file of an unknown kind",
    };
    Err(format!("{found}, but {SAVE}"))
}

/// A tar archive from before there was a mark for it: the sum of its first header is right.
fn old_tar(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..512) else { return false };
    let digits = std::str::from_utf8(&header[148..156]).unwrap_or_default();
    let stored = u32::from_str_radix(digits.trim_matches(['\0', ' ']), 8);
    let sum = |range: std::ops::Range<usize>| header[range].iter().map(|b| u32::from(*b)).sum::<u32>();
    stored == Ok(sum(0..148) + sum(156..512) + 8 * u32::from(b' '))
}

/// A name from a file as it can be shown: without control characters, and not too long.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 60;
    let safe: Vec<char> = name.chars().take(4 * LONGEST).flat_map(char::escape_debug).collect();
    if safe.len() <= LONGEST {
        return safe.into_iter().collect();
    }
    let half = LONGEST / 2;
    let (first, last) = (&safe[..half], &safe[safe.len() - half + 1..]);
    first.iter().chain(['…'].iter()).chain(last).collect()
}
