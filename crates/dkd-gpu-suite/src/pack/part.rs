//! One part: a tar file whose first entry, `pack.json`, has the sums of all others.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;

const DESCRIPTION: &str = "pack.json";

/// What a part is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    format: u32,
    pub dataset: String,
    pub part: usize,
    pub parts: usize,
    /// SHA-256 of the unpacked files.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of what this part holds.
    entries: BTreeMap<String, String>,
}

/// A part that has been read, or will be written.
pub struct Part {
    pub description: Description,
    pub entries: BTreeMap<String, Vec<u8>>,
}

impl Part {
    /// Part number `part` of `parts`, from 1.
    pub fn new(dataset: &str, part: usize, parts: usize, files: &BTreeMap<String, String>) -> Self {
        let (dataset, files) = (dataset.to_owned(), files.clone());
        let description = Description { format: 1, dataset, part, parts, files, entries: BTreeMap::new() };
        Self { description, entries: BTreeMap::new() }
    }

    /// Takes something in.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.description.entries.insert(name.to_owned(), dkd_files::sha256_bytes(bytes));
        self.entries.insert(name.to_owned(), bytes.to_vec());
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let description = serde_json::to_vec(&self.description)?;
        let all = self.entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        for (name, bytes) in [(DESCRIPTION, description.as_slice())].into_iter().chain(all) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, bytes)?;
        }
        Ok(archive.into_inner()?)
    }

    /// Reads a file, and compares the sums of all that it holds.
    ///
    /// # Errors
    /// It is no part, or is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(bytes).entries()? {
            let mut entry = entry.context("it is damaged")?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(|| format!("`{name}` is damaged"))?;
            entries.insert(name, bytes);
        }
        let text =
            entries.remove(DESCRIPTION).with_context(|| format!("there is no `{DESCRIPTION}` in it"))?;
        let description: Description = serde_json::from_slice(&text).context(DESCRIPTION)?;
        ensure!(description.format == 1, "{DESCRIPTION}: `format` is {}, expected 1", description.format);
        for (name, sum) in &description.entries {
            let bytes = entries.get(name).with_context(|| format!("it is cut off: there is no `{name}`"))?;
            ensure!(dkd_files::sha256_bytes(bytes) == *sum, "`{name}` is damaged: its SHA-256 is another");
        }
        entries.retain(|name, _| description.entries.contains_key(name));
        Ok(Self { description, entries })
    }
}
