//! Download of a data set's archive.
//!
//! What has arrived is kept in `ARCHIVE.part` in the target folder, beside `ARCHIVE.part.info`, which says what it belongs to
//! (address, the server's validators, size). A try that fails for a passing reason is repeated, and each try, also one of a
//! later call, asks only for what is missing. Nothing is unpacked before its checksum has been compared.

mod check;
mod download;
mod partial;
mod transfer;
mod unpack;

pub use check::Checked;
// For the fuzzer, which has archives but no server. Whoever wants data calls `fetch`, which checks them first.
#[doc(hidden)]
pub use unpack::unpack;

use crate::place::{check_place, place};
use crate::{Dataset, DatasetSpec, Error, Result, read};
use check::Expected;
use download::Download;
use partial::Partial;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transfer::Failure;

/// Where an archive comes from, how it is checked, and how much patience there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Base address (http or https) in the place of the official one; the archive's name is appended.
    pub base_url: Option<String>,
    /// SHA-256 that the archive must have, in the place of the official MD5.
    pub sha256: Option<String>,
    /// How long to wait and how often to try again.
    pub patience: Patience,
}

/// How long to wait for a server and how often to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Tries after the first one, in a row: a try that brings a mebibyte more than any before starts the count anew.
    pub retries: u32,
    /// Time before the first of them; each further one waits twice as long.
    pub first_delay: Duration,
    /// The longest such time.
    pub longest_delay: Duration,
    /// The longest time that a server may ask for (`Retry-After`, in seconds; a date is not understood). If it wants more,
    /// the fetch fails at once.
    pub longest_wait: Duration,
    /// For finding and reaching the server.
    pub connect_timeout: Duration,
    /// Time without a byte after which a connection counts as dead.
    pub idle_timeout: Duration,
}

impl Default for Patience {
    /// Five retries, after 1, 2, 4, 8 and 16 s; up to 2 min if the server asks for it; 20 s to connect, 30 s without a byte.
    fn default() -> Self {
        Self {
            retries: 5,
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(30),
            longest_wait: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What happens during a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes that are here, and the archive's size if the server told it.
    Progress {
        /// Bytes in the partial file.
        received: u64,
        /// Bytes of the archive.
        total: Option<u64>,
    },
    /// A partial file goes on.
    Resumed {
        /// Bytes that were here.
        from: u64,
        /// Bytes of the archive.
        total: Option<u64>,
    },
    /// A partial file is dropped.
    Restarted {
        /// Why it cannot go on.
        reason: String,
    },
    /// A try failed; the next one begins after `delay`.
    Retry {
        /// The coming retry, from 1.
        number: u32,
        /// Retries in a row before giving up.
        of: u32,
        /// Time until then.
        delay: Duration,
        /// What failed.
        reason: String,
    },
    /// All bytes are here; they are checked and unpacked.
    Unpacking,
}

/// Is told what happens.
pub type Listener<'a> = dyn FnMut(&Event) + 'a;

/// Fetches `spec` into `target` (usually `data`), which then holds `spec.folder`, and reads it.
///
/// The archive is checked before it is unpacked, unpacked in a folder of its own inside `target`, written through to the
/// disk, read, and only then moved to its place by a rename: after a failure at any point the old data are as they were, and
/// what is there is whole. Other files in the data set's folder stay. `target` is locked meanwhile. Proxies are taken from
/// the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) and asked for a tunnel (`CONNECT`).
///
/// Once `stop` is set, the fetch ends within a fraction of a second of waiting for the network.
///
/// # Errors
/// [`Error::Fetch`] says how to get the data by hand; [`Error::Archive`] if it is not what it should be; it is removed then.
/// After any other error what has arrived stays, if it can be continued. [`Error::Stopped`]; [`Error::Invalid`] for options
/// that make no sense; [`Error::File`] for a full disk and for a folder that is in use;
/// [`Error::Stranded`], naming the place of the old data, if they could not be put back after a failure.
pub fn fetch(
    spec: &'static DatasetSpec,
    target: &Path,
    options: &FetchOptions,
    stop: &AtomicBool,
    listener: &mut Listener<'_>,
) -> Result<(Dataset, Checked)> {
    let url = address(spec, options)?;
    let expected = Expected::new(spec, options)?;
    check_place(&target.join(spec.folder))?;
    let _lock = dkd_files::FolderLock::acquire(target, &format!("fetching {}", spec.name))?;
    let mut partial =
        Partial::open(target.join(format!("{}.part", spec.archive)), &url, expected.is_known())?;
    tracing::info!(url, here = partial.length(), "fetching");
    // Twice the official size: room for another compression, no room for an endless answer.
    let limit = spec.archive_bytes.max(1 << 20) * 2;
    let mut download =
        Download { url: &url, limit, patience: &options.patience, stop, listener: &mut *listener };
    if let Err(failure) = download.run(&mut partial) {
        return Err(abandoned(failure, spec, &url, &partial));
    }
    listener(&Event::Unpacking);
    let result = install(spec, target, &url, &expected, partial.path(), stop);
    match &result {
        // What is wrong would be wrong again.
        Ok(_) | Err(Error::Archive { .. }) => partial.discard()?,
        Err(_) => {}
    }
    match result {
        Err(Error::Stopped { .. }) => Err(stopped(&partial)),
        other => other,
    }
}

/// The archive's address.
fn address(spec: &DatasetSpec, options: &FetchOptions) -> Result<String> {
    let base = options.base_url.as_deref().unwrap_or(spec.base_url);
    let known = |scheme: &str| base.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    if !known("http://") && !known("https://") {
        return Err(Error::Invalid(format!(
            "`{base}` is no address to fetch from: it must begin with http:// or https://"
        )));
    }
    Ok(format!("{}/{}", base.trim_end_matches('/'), spec.archive))
}

/// The error of a download that ended early. What cannot be continued is removed.
fn abandoned(failure: Failure, spec: &DatasetSpec, url: &str, partial: &Partial) -> Error {
    if partial.length() > 0
        && !partial.can_go_on()
        && let Err(error) = partial.discard()
    {
        return error;
    }
    match failure {
        Failure::Local(error) => error,
        Failure::Stopped => stopped(partial),
        Failure::Passing { reason, .. } | Failure::Lasting(reason) => {
            let kept = kept(partial).map_or_else(String::new, |kept| format!("; {kept}"));
            Error::Fetch { url: url.to_owned(), reason: format!("{reason}{kept}"), advice: advice(spec) }
        }
    }
}

fn stopped(partial: &Partial) -> Error {
    Error::Stopped { kept: kept(partial) }
}

/// What is kept of a download, in words.
fn kept(partial: &Partial) -> Option<String> {
    let length = partial.length();
    let of = partial.size().map_or_else(String::new, |size| format!(" of {size}"));
    (length > 0 && partial.can_go_on()).then(|| {
        format!(
            "{length}{of} bytes are kept in `{}`, and the same command goes on from there",
            partial.path().display()
        )
    })
}

/// Checks an archive, unpacks and reads it, and puts the data in their place.
fn install(
    spec: &'static DatasetSpec,
    target: &Path,
    url: &str,
    expected: &Expected,
    archive: &Path,
    stop: &AtomicBool,
) -> Result<(Dataset, Checked)> {
    let checked = expected.check(archive, url)?;
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(target).map_err(|source| {
        Error::File(dkd_files::Error::Io { action: "write in", path: PathBuf::from(target), source })
    })?;
    let file = File::open(archive).map_err(|source| dkd_files::Error::Io {
        action: "read",
        path: archive.to_owned(),
        source,
    })?;
    unpack(spec, url, file, work.path(), stop)?;
    let data = read(spec, work.path()).map_err(|e| of_archive(e, url))?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped { kept: None });
    }
    let placed =
        place(&work.path().join(spec.folder), &target.join(spec.folder), &work.path().join("replaced"));
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
