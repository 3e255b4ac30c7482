//! Checksums of an archive.

use super::FetchOptions;
use crate::{DatasetSpec, Error, Result};
use std::path::Path;

/// How the archive was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Against the MD5 that its site publishes.
    OfficialMd5,
    /// Against the SHA-256 that the caller gave.
    Sha256,
    /// By no checksum but that of its compression (a CRC-32), since another server was asked and none was given; then sizes
    /// and labels were checked.
    ContentOnly,
}

/// The checksum that an archive must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Md5(&'static str),
    Sha256(String),
    Nothing,
}

impl Expected {
    /// # Errors
    /// [`Error::Invalid`] for a SHA-256 that is none.
    pub fn new(spec: &'static DatasetSpec, options: &FetchOptions) -> Result<Self> {
        match &options.sha256 {
            Some(sha) if sha.len() != 64 || !sha.bytes().all(|b| b.is_ascii_hexdigit()) => Err(
                Error::Invalid(format!("`{sha}` is no SHA-256: that has 64 hexadecimal digits (0-9, a-f)")),
            ),
            Some(sha) => Ok(Self::Sha256(sha.to_lowercase())),
            None if options.base_url.is_none() => Ok(Self::Md5(spec.md5)),
            None => Ok(Self::Nothing),
        }
    }

    /// Whether there is a checksum to compare.
    pub fn is_known(&self) -> bool {
        *self != Self::Nothing
    }

    /// # Errors
    /// [`Error::Archive`] names both checksums.
    pub fn check(&self, archive: &Path, url: &str) -> Result<Checked> {
        let (checked, name, wanted, found) = match self {
            Self::Md5(md5) => (Checked::OfficialMd5, "MD5", *md5, dkd_files::md5_file(archive)?),
            Self::Sha256(sha) => (Checked::Sha256, "SHA-256", sha.as_str(), dkd_files::sha256_file(archive)?),
            Self::Nothing => return Ok(Checked::ContentOnly),
        };
        if wanted == found {
            return Ok(checked);
        }
        let problem =
            format!("has the {name} checksum {found}, expected {wanted}: it is damaged or another file");
        Err(Error::Archive { url: url.to_owned(), problem })
    }
}
