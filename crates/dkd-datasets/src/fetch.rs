//! Download of a data set's archive.

use crate::place::{check_place, place};
use crate::{Dataset, DatasetSpec, Error, Result, read};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Where an archive comes from and how it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Base address in the place of the official one; the archive's name is appended.
    pub base_url: Option<String>,
    /// SHA-256 that the archive must have, in the place of the official MD5.
    pub sha256: Option<String>,
}

/// Bytes received so far, and the total if the server told it.
pub type Progress<'a> = dyn FnMut(u64, Option<u64>) + 'a;

/// How the archive was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Against the MD5 that its site publishes.
    OfficialMd5,
    /// Against the SHA-256 that the caller gave.
    Sha256,
    /// Not at all, since another server was asked and no checksum was given: only sizes and labels were checked.
    ContentOnly,
}

/// Fetches `spec` into `target` (usually `data`), which then holds `spec.folder`, and reads it.
///
/// The archive is checked before it is unpacked, unpacked in a folder of its own inside `target`, written through to the
/// disk, read, and only then moved to its place by a rename: a failure at any point leaves `target` as it was, and what is
/// there is whole. Other files in the data set's folder stay. Proxies are taken from the environment.
///
/// # Errors
/// [`Error::Fetch`] says how to get the data by hand; [`Error::Archive`] if it is not what it should be;
/// [`Error::Stranded`], naming the place of the old data, if they could not be put back after a failure.
pub fn fetch(
    spec: &'static DatasetSpec,
    target: &Path,
    options: &FetchOptions,
    progress: &mut Progress<'_>,
) -> Result<(Dataset, Checked)> {
    let base = options.base_url.as_deref().unwrap_or(spec.base_url);
    let url = format!("{}/{}", base.trim_end_matches('/'), spec.archive);
    let io = |action: &'static str, path: &Path, source: std::io::Error| {
        Error::File(dkd_files::Error::Io { action, path: path.to_owned(), source })
    };
    let to = target.join(spec.folder);
    check_place(&to)?;
    std::fs::create_dir_all(target).map_err(|e| io("make the folder", target, e))?;
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(target)
        .map_err(|e| io("write in", target, e))?;
    let archive = work.path().join(spec.archive);
    download(spec, &url, &archive, progress)?;
    let checked = check(spec, &url, &archive, options)?;
    unpack(spec, &url, &archive, work.path())?;
    let data = read(spec, work.path()).map_err(|e| of_archive(e, &url))?;
    let placed = place(&work.path().join(spec.folder), &to, &work.path().join("replaced"));
    if matches!(placed, Err(Error::Stranded { .. })) {
        // It holds the only copy of the old data.
        let _ = work.keep();
    }
    placed.map(|()| (data, checked))
}

/// An error about unpacked files as one about their archive: their folder does not outlive the error.
fn of_archive(error: Error, url: &str) -> Error {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let problem = match error {
        Error::Missing { path, dataset, .. } => format!("lacks `{}`, a file of {dataset}", name(&path)),
        Error::Size { path, found, expected, records, record, .. } => format!(
            "has `{}` with {found} bytes, expected {expected} ({records} records of {record} bytes)",
            name(&path)
        ),
        Error::Label { path, record, label, last, .. } => format!(
            "has `{}` whose record {record} has label {label}, which is not a class (0 to {last})",
            name(&path)
        ),
        other => return other,
    };
    Error::Archive { url: url.to_owned(), problem }
}

/// What to do when the network does not help.
fn advice(spec: &DatasetSpec) -> String {
    format!(
        "By hand: download {}{} on any machine, unpack it into data/ so that data/{}/{} exists, and run the command \
         again; or use `--data synthetic`, which needs no download",
        spec.base_url, spec.archive, spec.folder, spec.train[0].name
    )
}

fn download(spec: &DatasetSpec, url: &str, to: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let failed = |reason: String| Error::Fetch { url: url.to_owned(), reason, advice: advice(spec) };
    tracing::info!(url, "fetching");
    let response = ureq::get(url).call().map_err(|e| failed(e.to_string()))?;
    let header = response.headers().get("content-length").and_then(|v| v.to_str().ok());
    let total: Option<u64> = header.and_then(|v| v.parse().ok());
    // Twice the official size: room for another compression, no room for an endless answer.
    let limit = spec.archive_bytes.max(1 << 20) * 2;
    let mut body = response.into_body().into_reader().take(limit + 1);
    let mut file = File::create(to).map_err(|e| failed(format!("cannot write `{}`: {e}", to.display())))?;
    let (mut buffer, mut received) = (vec![0; 1 << 16], 0_u64);
    loop {
        let n = body
            .read(&mut buffer)
            .map_err(|e| failed(format!("the connection broke after {received} bytes: {e}")))?;
        if n == 0 {
            break;
        }
        received += n as u64;
        if received > limit {
            return Err(failed(format!("the answer is longer than {limit} bytes")));
        }
        file.write_all(&buffer[..n]).map_err(|e| failed(format!("cannot write `{}`: {e}", to.display())))?;
        progress(received, total);
    }
    match total {
        Some(total) if total != received => Err(failed(format!("only {received} of {total} bytes arrived"))),
        _ => Ok(()),
    }
}

fn check(spec: &DatasetSpec, url: &str, archive: &Path, options: &FetchOptions) -> Result<Checked> {
    let (kind, wanted, found) = match &options.sha256 {
        Some(sha) => (Checked::Sha256, sha.to_lowercase(), dkd_files::sha256_file(archive)?),
        None if options.base_url.is_none() => {
            (Checked::OfficialMd5, spec.md5.to_owned(), dkd_files::md5_file(archive)?)
        }
        None => return Ok(Checked::ContentOnly),
    };
    if wanted == found {
        return Ok(kind);
    }
    let problem = format!("has checksum {found}, expected {wanted}: it is damaged or another file");
    Err(Error::Archive { url: url.to_owned(), problem })
}

/// Unpacks the files that belong to the data set, each whole and on the disk; everything else in the archive is refused or
/// ignored.
fn unpack(spec: &DatasetSpec, url: &str, archive: &Path, to: &Path) -> Result<()> {
    let bad = |problem: String| Error::Archive { url: url.to_owned(), problem };
    let file = File::open(archive).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let folder = to.join(spec.folder);
    let entries = tar.entries().map_err(|e| bad(format!("is no tar archive: {e}")))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| bad(format!("is damaged: {e}")))?;
        let path = entry.path().map_err(|e| bad(format!("has a member with a bad name: {e}")))?.into_owned();
        let plain = |c: std::path::Component<'_>| {
            matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir)
        };
        if !path.components().all(plain) {
            return Err(bad(format!("has a member `{}` that leaves its folder", path.display())));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(bad(format!("has a member `{}` that is a link or a device", path.display())));
        }
        // Only the files we know, by name, are written; nothing in the archive chooses a path.
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let limit = match spec.files().find(|f| f.name == name) {
            Some(f) => (f.records * spec.record_bytes()) as u64,
            None if name == spec.names_file => 64 * 1024,
            None => continue,
        };
        if entry.size() > limit {
            return Err(bad(format!("has a member `{name}` of {} bytes, more than {limit}", entry.size())));
        }
        // Read first: a full disk is not the archive's fault.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| bad(format!("is damaged at `{name}`: {e}")))?;
        dkd_files::atomic_write_bytes(&folder.join(name), &bytes)?;
    }
    Ok(())
}
