//! Writing what `torch.load(..., weights_only=True)` reads.

use super::super::Metadata;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::collections::HashSet;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Where tensors begin: PyTorch can map such files into memory.
const ALIGNMENT: u16 = 64;

/// Writes a state dictionary as a zip file of PyTorch, all or nothing. The same tensors and metadata always give the same
/// bytes.
///
/// Without metadata the file holds the dictionary alone, and `net.load_state_dict(torch.load(path))` is all that Python needs.
/// With metadata it holds a dictionary of the texts and, under `state_dict`, the tensors.
///
/// # Errors
/// A name that occurs twice, or metadata called `state_dict`; an element type that PyTorch's storages do not have; a file that
/// cannot be written.
pub fn save_pth(path: &Path, tensors: &[(String, Tensor)], metadata: &Metadata) -> Result<()> {
    Ok(dkd_files::atomic_write_bytes(path, &pth_bytes(tensors, metadata)?)?)
}

/// The bytes that [`save_pth`] writes.
///
/// # Errors
/// As [`save_pth`], but for the file.
pub fn pth_bytes(tensors: &[(String, Tensor)], metadata: &Metadata) -> Result<Vec<u8>> {
    let pickle = pickle(tensors, metadata)?;
    let mut archive = Archive(ZipWriter::new(Cursor::new(Vec::new())));
    archive.member("data.pkl", &pickle)?;
    archive.member("byteorder", b"little")?;
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let mut bytes = Vec::new();
        tensor.write_bytes(&mut bytes).map_err(|e| problem(name, e.to_string()))?;
        archive.member(&format!("data/{i}"), &bytes)?;
    }
    archive.member("version", b"3\n")?;
    let bytes = archive.0.finish().map_err(|e| problem("archive", e.to_string()))?;
    Ok(bytes.into_inner())
}

fn problem(name: &str, problem: String) -> Error {
    Error::Tensor { name: name.to_owned(), problem }
}

struct Archive(ZipWriter<Cursor<Vec<u8>>>);

impl Archive {
    fn member(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .large_file(content.len() > u32::MAX as usize)
            .with_alignment(ALIGNMENT);
        let written = self.0.start_file(format!("archive/{name}"), options);
        written.map_err(|e| problem(name, e.to_string()))?;
        self.0.write_all(content).map_err(|e| problem(name, e.to_string()))
    }
}

fn storage(name: &str, dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F64 => Ok("DoubleStorage"),
        DType::F32 => Ok("FloatStorage"),
        DType::F16 => Ok("HalfStorage"),
        DType::BF16 => Ok("BFloat16Storage"),
        DType::I64 => Ok("LongStorage"),
        DType::I32 => Ok("IntStorage"),
        DType::I16 => Ok("ShortStorage"),
        DType::U8 => Ok("ByteStorage"),
        other => Err(problem(name, format!("PyTorch has no storage for elements of type {other:?}"))),
    }
}

fn pickle(tensors: &[(String, Tensor)], metadata: &Metadata) -> Result<Vec<u8>> {
    let mut pickle = Pickle(b"\x80\x02".to_vec());
    let texts: Vec<_> = metadata.iter().collect();
    if !texts.is_empty() {
        pickle.put(b"}(");
        for (key, text) in &texts {
            if *key == "state_dict" {
                return Err(problem(key, "metadata cannot be called so: the weights are".to_owned()));
            }
            pickle.text(key);
            pickle.text(text);
        }
        pickle.text("state_dict");
    }
    pickle.put(b"ccollections\nOrderedDict\n)R(");
    let mut names = HashSet::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        if !names.insert(name) {
            return Err(problem(name, "there are two entries of this name".to_owned()));
        }
        pickle.text(name);
        pickle.put(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.text("storage");
        pickle.put(format!("ctorch\n{}\n", storage(name, tensor.dtype())?).as_bytes());
        pickle.text(&i.to_string());
        pickle.text("cpu");
        pickle.number(tensor.elem_count());
        // The storage's description, and the place of the first element in it.
        pickle.put(b"tQK\0(");
        tensor.dims().iter().for_each(|n| pickle.number(*n));
        pickle.put(b"t(");
        // As after `contiguous()`: a dimension of 0 elements counts as 1.
        for (dimension, _) in tensor.dims().iter().enumerate() {
            pickle.number(tensor.dims()[dimension + 1..].iter().map(|n| *n.max(&1)).product());
        }
        pickle.put(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.put(if texts.is_empty() { b"u." } else { b"uu." });
    Ok(pickle.0)
}

/// A pickle in protocol 2.
struct Pickle(Vec<u8>);

impl Pickle {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.put(&(text.len() as u32).to_le_bytes()); // names and notes are far shorter than 4 GiB
        self.put(text.as_bytes());
    }

    fn number(&mut self, n: usize) {
        match i32::try_from(n) {
            Ok(n) => {
                self.0.push(b'J');
                self.put(&n.to_le_bytes());
            }
            // 9 bytes, so that the highest bit is no sign.
            Err(_) => {
                self.put(b"\x8a\x09");
                self.put(&(n as u64).to_le_bytes());
                self.0.push(0);
            }
        }
    }
}
