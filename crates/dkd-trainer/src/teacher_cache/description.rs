//! What a cache belongs to: everything that its values depend on.

use super::{CacheLayout, Origin};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Version of the format of entries.
const VERSION: u32 = 1;

/// Largest description that is read.
const LIMIT: u64 = 1 << 20;

/// The key of a cache. Neither the run's seed nor its number of threads is in it: they choose which views occur, and when, not
/// what the teacher says to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    format_version: u32,
    /// Version of this crate: another one may round differently.
    program: String,
    /// Instruction set, and what networks run on besides: another one rounds differently.
    instructions: String,
    model: String,
    /// SHA-256 of all weights.
    weights: String,
    /// SHA-256 of the images.
    data: String,
    augment: String,
    mean: [f32; 3],
    std: [f32; 3],
    layout: CacheLayout,
}

impl Description {
    pub fn new(origin: &Origin<'_>, layout: &CacheLayout) -> Result<Self> {
        let isa = origin.compute.cpu.isa();
        let instructions =
            origin.compute.device().map_or_else(|| isa.to_string(), |device| format!("{isa}, {device}"));
        Ok(Self {
            format_version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            instructions,
            model: origin.teacher.model.clone(),
            weights: fingerprint(origin.weights)?,
            data: origin.data.fingerprint(),
            augment: origin.recipe.data.augment.name().to_owned(),
            mean: origin.normalization.mean,
            std: origin.normalization.std,
            layout: layout.clone(),
        })
    }

    /// Where in `folder` a cache with this key lies, without an ending.
    pub fn path(&self, folder: &Path) -> PathBuf {
        let text = serde_json::to_vec(self).expect("a description is JSON");
        folder.join(format!("{}-{}", self.model, &dkd_files::sha256_bytes(&text)[..16]))
    }

    /// Writes this, or makes sure that what is there says the same.
    pub fn claim(&self, path: &Path) -> Result<()> {
        let own = serde_json::to_value(self).expect("a description is JSON");
        if !path.exists() {
            let text = serde_json::to_vec_pretty(&own).expect("a description is JSON");
            return Ok(dkd_files::atomic_write_bytes(path, &text)?);
        }
        let text = dkd_files::read_limited(path, LIMIT)?;
        let fail = |what: String| Error::Record {
            path: path.to_owned(),
            message: format!("{what}: remove the teacher's cache, or choose another cache.folder"),
        };
        let stored: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| fail(format!("is damaged ({e})")))?;
        let keys = own.as_object().into_iter().flat_map(|own| own.keys());
        let differing: Vec<&str> = keys.filter(|k| stored[*k] != own[*k]).map(String::as_str).collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(fail(format!("belongs to another run: it differs in {}", differing.join(", "))))
    }
}

/// SHA-256 over names, shapes and values.
fn fingerprint(weights: &HashMap<String, Tensor>) -> Result<String> {
    let mut digest = sha2::Sha256::new();
    for (name, tensor) in weights.iter().collect::<BTreeMap<_, _>>() {
        digest.update(format!("{name} {:?} {:?}", tensor.dtype(), tensor.dims()));
        for value in tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()? {
            digest.update(value.to_le_bytes());
        }
    }
    Ok(hex::encode(digest.finalize()))
}
