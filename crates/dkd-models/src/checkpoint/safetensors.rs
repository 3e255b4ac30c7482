//! Weights in safetensors files.
//!
//! A checkpoint holds the tensors of a state dictionary in PyTorch's names and layouts, and text about them
//! ([`Metadata`]). The same tensors and metadata always give the same bytes: entries are sorted, and neither the time nor
//! the machine is recorded. Any safetensors file can be read, whoever wrote it.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use dkd_models::checkpoint::{Metadata, load, save};
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("last.safetensors");
//! let weights = [("fc.bias".to_owned(), Tensor::zeros(10, DType::F32, &Device::Cpu)?)];
//! save(&path, &weights, &Metadata::new("resnet20", 10))?;
//! let (tensors, metadata) = load(&path)?;
//! assert_eq!(tensors["fc.bias"].dims(), [10]);
//! assert_eq!(metadata.model(), Some("resnet20"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::Metadata;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensorError, SafeTensors};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Version of the metadata's keys, under `dkd_format`.
const FORMAT: u32 = 1;

/// Largest file that is read, in bytes: a limit for files that never end.
pub const MAX_FILE: u64 = 4 << 30;

/// Largest header that is read: it is parsed into several times as much memory. One line of it describes one tensor.
const MAX_HEADER: u64 = 16 << 20;

/// One entry of a safetensors header.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(&'a BTreeMap<String, String>),
    Tensor { dtype: &'static str, shape: &'a [usize], data_offsets: (usize, usize) },
}

/// Writes `tensors` and `metadata` to `path`, all or nothing: a reader sees the old file or the whole new one.
///
/// # Errors
/// A name that occurs twice, an element type that safetensors or this crate does not know, a file that cannot be
/// written.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &Metadata) -> Result<()> {
    Ok(dkd_files::atomic_write_bytes(path, &to_bytes(tensors, metadata)?)?)
}

/// The bytes that [`save`] writes.
///
/// # Errors
/// As [`save`], but for the file.
pub fn to_bytes(tensors: &[(String, Tensor)], metadata: &Metadata) -> Result<Vec<u8>> {
    let mut sorted = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        sorted.push((element_type(name, tensor)?, name, tensor));
    }
    // Wide elements first, so that every tensor is aligned to its element.
    sorted.sort_by(|(a, x, _), (b, y, _)| b.1.cmp(&a.1).then_with(|| x.cmp(y)));

    let mut text: BTreeMap<String, String> = metadata.iter().map(owned).collect();
    text.insert("dkd_format".to_owned(), FORMAT.to_string());
    let mut header = BTreeMap::from([("__metadata__", Entry::Metadata(&text))]);
    let mut data = Vec::new();
    for ((dtype, _), name, tensor) in sorted {
        let start = data.len();
        let failed = |e: candle_core::Error| tensor_error(name, e.to_string());
        tensor.write_bytes(&mut data).map_err(failed)?;
        let entry = Entry::Tensor { dtype, shape: tensor.dims(), data_offsets: (start, data.len()) };
        if header.insert(name, entry).is_some() {
            return Err(tensor_error(name, "there are two entries of this name".to_owned()));
        }
    }
    let mut json = serde_json::to_vec(&header).expect("names and numbers are JSON");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes.append(&mut data);
    Ok(bytes)
}

fn owned((key, text): (&str, &str)) -> (String, String) {
    (key.to_owned(), text.to_owned())
}

fn tensor_error(name: &str, problem: String) -> Error {
    Error::Tensor { name: name.to_owned(), problem }
}

/// Name of the element type in a header, and its size.
fn element_type(name: &str, tensor: &Tensor) -> Result<(&'static str, usize)> {
    let text = match tensor.dtype() {
        DType::F64 => "F64",
        DType::I64 => "I64",
        DType::F32 => "F32",
        DType::U32 => "U32",
        DType::I32 => "I32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I16 => "I16",
        DType::F8E4M3 => "F8_E4M3",
        DType::U8 => "U8",
        other => return Err(tensor_error(name, format!("elements of type {other:?} cannot be stored"))),
    };
    Ok((text, tensor.dtype().size_in_bytes()))
}

/// Reads a safetensors file: its tensors, on the CPU, by name, and its metadata (empty if there is none).
///
/// # Errors
/// A file that cannot be read or has more than [`MAX_FILE`] bytes, is no safetensors file or is cut short, has elements of
/// another type than [`save`] knows, or was written by a later version of this crate.
pub fn load(path: &Path) -> Result<(HashMap<String, Tensor>, Metadata)> {
    from_bytes(&dkd_files::read_limited(path, MAX_FILE)?, path)
}

/// The same from the bytes of a file; `path` names it in messages.
///
/// # Errors
/// As [`load`], but for reading the file.
pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<(HashMap<String, Tensor>, Metadata)> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let header = check_sizes(bytes).and_then(|()| SafeTensors::read_metadata(bytes));
    let (_, header) = header.map_err(|e| format(explain(&e, bytes.len())))?;
    let metadata: Metadata = header.metadata().iter().flatten().map(|(k, v)| owned((k, v))).collect();
    if let Some(found) = metadata.get("dkd_format")
        && !found.parse().is_ok_and(|version: u32| version <= FORMAT)
    {
        let found = found.to_owned();
        return Err(Error::Version { path: path.to_owned(), found, supported: FORMAT });
    }
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu);
    let tensors = tensors.map_err(|e| format(e.to_string()))?;
    // candle has types that it can name and nothing else.
    if let Some((name, tensor)) = tensors.iter().find(|(name, tensor)| element_type(name, tensor).is_err()) {
        return Err(format(format!("tensor `{name}` has elements of type {:?}", tensor.dtype())));
    }
    Ok((tensors, metadata))
}

/// Refuses sizes and positions that cannot be, before other crates compute with them: sums and products beyond what a number
/// holds. What is wrong otherwise, they say themselves.
fn check_sizes(bytes: &[u8]) -> std::result::Result<(), SafeTensorError> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(()) };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let Some(header) = rest.get(..length as usize) else { return Ok(()) };
    let Ok(Value::Object(entries)) = serde_json::from_slice(header) else { return Ok(()) };
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        // A list of three things would do for others.
        if !entry.is_object() {
            return Err(SafeTensorError::InvalidOffset(name.clone()));
        }
        let end = entry["data_offsets"][1].as_u64();
        if end.is_some_and(|end| end > bytes.len() as u64) {
            return Err(SafeTensorError::MetadataIncompleteBuffer);
        }
        // Distances between elements are products of all but the first, and a 0 among them hides nothing.
        let shape = entry["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let elements = shape.filter(|size| *size > 0).try_fold(1_u64, u64::checked_mul);
        if elements.is_none_or(|n| n > isize::MAX as u64) {
            return Err(SafeTensorError::ValidationOverflow);
        }
    }
    Ok(())
}

fn explain(error: &SafeTensorError, len: usize) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("the file's {len} bytes are not what its header describes; it is cut short or damaged")
        }
        SafeTensorError::HeaderTooSmall => format!("{len} bytes are too few; the file is empty or cut short"),
        SafeTensorError::InvalidHeaderLength => {
            format!(
                "the header does not end within the file's {len} bytes; it is cut short or of another kind"
            )
        }
        other => format!("the header cannot be read ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Normalization;

    fn weights() -> Vec<(String, Tensor)> {
        let device = &Device::Cpu;
        let matrix = Tensor::arange(0_f32, 6.0, device).unwrap().reshape((2, 3)).unwrap();
        vec![
            ("z.weight".to_owned(), matrix.t().unwrap()),
            ("count".to_owned(), Tensor::new(7_i64, device).unwrap()),
            ("bytes".to_owned(), Tensor::new(&[1_u8, 2, 3], device).unwrap()),
            ("a.bias".to_owned(), Tensor::new(&[f32::NAN, -0.0, f32::INFINITY], device).unwrap()),
            ("half".to_owned(), Tensor::new(&[1.5_f32], device).unwrap().to_dtype(DType::F16).unwrap()),
            ("short".to_owned(), Tensor::new(&[-3_i16, 4], device).unwrap()),
        ]
    }

    fn metadata() -> Metadata {
        let n = Normalization { mean: vec![0.5, 0.1, 0.2], std: vec![0.25; 3] };
        Metadata::new("seed_teacher", 10).with_normalization(&n).with("note", "line\n\"quoted\"")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        save(&path, &weights(), &metadata()).unwrap();
        let (tensors, text) = load(&path).unwrap();
        assert_eq!(tensors.len(), 6);
        for (name, want) in weights() {
            let got = &tensors[&name];
            assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{name}");
            let raw = |t: &Tensor| {
                let mut bytes = Vec::new();
                t.write_bytes(&mut bytes).unwrap();
                bytes
            };
            assert_eq!(raw(got), raw(&want), "{name}");
        }
        assert_eq!((text.model(), text.num_classes()), (Some("seed_teacher"), Some(10)));
        assert_eq!(text.normalization().unwrap().mean, [0.5, 0.1, 0.2]);
        assert_eq!(text.get("note"), Some("line\n\"quoted\""));
        assert_eq!(text.get("dkd_format"), Some("1"));
        assert_eq!(text.iter().count(), 5);
    }

    #[test]
    fn bytes_do_not_depend_on_the_order() {
        let forward = to_bytes(&weights(), &metadata()).unwrap();
        let mut reversed = weights();
        reversed.reverse();
        assert_eq!(forward, to_bytes(&reversed, &metadata()).unwrap());
        assert_eq!(u64::from_le_bytes(forward[..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.safetensors");
        let whole = to_bytes(&weights(), &metadata()).unwrap();
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            load(&path).unwrap_err().to_string()
        };
        for len in 0..whole.len() {
            let text = message(&whole[..len]);
            assert!(text.contains("broken.safetensors") && text.contains("cut short"), "{len}: {text}");
        }
        assert!(message(b"PK\x03\x04 something else entirely").contains("expected a safetensors file"));
        assert!(message(b"\x02\0\0\0\0\0\0\0{]").contains("header cannot be read"));
        // Sizes with which nobody should compute.
        let with = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let huge = (1_u64 << 61) - 1;
        let entry = |i: u64| {
            let (start, end) = (huge * i, huge * (i + 1));
            format!(r#""t{i}":{{"dtype":"U8","shape":[{huge}],"data_offsets":[{start},{end}]}}"#)
        };
        let sums = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
        assert!(message(&with(&sums)).contains("cut short"));
        let products = r#"{"t":{"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]}}"#;
        assert!(message(&with(products)).contains("header cannot be read"));
        assert!(message(&with(r#"{"t":["U8",[0,9223372036854775807,4],[0,0]]}"#)).contains("`t`"));
        let packed = r#"{"t":{"dtype":"F4","shape":[0],"data_offsets":[0,0]}}"#;
        assert!(message(&with(packed)).contains("tensor `t` has elements of type F4"));
        assert!(message(&u64::MAX.to_le_bytes()).contains("header cannot be read"));
        assert!(load(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn other_formats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let newer = String::from_utf8_lossy(&to_bytes(&[], &Metadata::default()).unwrap())
            .replace("\"dkd_format\":\"1\"", "\"dkd_format\":\"2\"");
        std::fs::write(&path, newer).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("checkpoint format 2"));
        candle_core::safetensors::save(&HashMap::from(weights_map()), &path).unwrap();
        let (tensors, text) = load(&path).unwrap();
        assert!(tensors.contains_key("x") && text.model().is_none());
    }

    fn weights_map() -> [(String, Tensor); 1] {
        [("x".to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap())]
    }

    #[test]
    fn names_are_unique() {
        for name in ["x", "__metadata__"] {
            let twice = [weights_map(), weights_map()].concat();
            let twice: Vec<_> = twice.into_iter().map(|(_, t)| (name.to_owned(), t)).collect();
            let message = to_bytes(&twice, &Metadata::default()).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
