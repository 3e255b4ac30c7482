//! A data set in CIFAR's binary layout, made small without loss, in parts that can be carried one by one.
//!
//! A part is a tar file: `pack.json` says what it is of, `labels` has the label bytes of all records in their order, and each
//! `sheet-NNN.webp` is a picture of many images as tiles. Images on sheets are sorted by class, and within a class stay in their
//! order; so the labels say where each belongs. Small files of text, such as the classes' names, come with the first part.

mod sheet;

use anyhow::{Context, Result, bail, ensure};
use dkd_datasets::DatasetSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file of text that is carried along.
const TEXT: u64 = 64 * 1024;

/// Largest part that is read.
const PART: u64 = 1 << 30;

/// Images of one sheet.
const SHEET: usize = sheet::COLUMNS * 25;

/// What a part is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    format: u32,
    dataset: String,
    part: usize,
    parts: usize,
    sheets: usize,
    /// SHA-256 of the unpacked files.
    files: BTreeMap<String, String>,
}

/// A file by name.
type Named = (String, Vec<u8>);

/// Packs the data set of `spec` in `folder`, or in its folder there, into files `OUT.1`, `OUT.2`, ... of at most `limit` bytes,
/// or into `OUT` if one is enough; unpacks them in memory and compares. Returns the files and their sizes.
///
/// # Errors
/// A file is missing or of another size; the parts cannot be written.
pub fn pack(spec: &DatasetSpec, folder: &Path, out: &Path, limit: usize) -> Result<Vec<(PathBuf, usize)>> {
    let inner = folder.join(spec.folder);
    let folder = if inner.is_dir() { inner } else { folder.to_owned() };
    let files = read(spec, &folder)?;
    let parts = parts(spec, &files, &texts(&folder)?, limit)?;
    let restored = restore(spec, &parts)?;
    let same = files.iter().all(|file| restored.contains(file));
    ensure!(same, "{}: what was packed does not unpack to the same bytes", folder.display());
    let mut written = Vec::new();
    for (i, bytes) in parts.iter().enumerate() {
        let path = if parts.len() == 1 { out.to_owned() } else { numbered(out, i + 1) };
        dkd_files::atomic_write_bytes(&path, bytes)?;
        written.push((path, bytes.len()));
    }
    Ok(written)
}

/// Unpacks all parts of a data set below `out`, where `dkd --data OUT` finds it. Returns the folder with its files.
///
/// # Errors
/// A part is missing, damaged or of another data set; the files cannot be written.
pub fn unpack(paths: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let mut parts = Vec::new();
    for path in paths {
        parts.push(dkd_files::read_limited(path, PART)?);
    }
    let first = parts.first().context("no part was given")?;
    let description = describe(&entries(first)?).with_context(|| paths[0].display().to_string())?;
    let spec = dkd_datasets::spec(&description.dataset)?;
    let folder = out.join(spec.folder);
    for (name, bytes) in restore(spec, &parts)? {
        dkd_files::atomic_write_bytes(&folder.join(name), &bytes)?;
    }
    Ok(folder)
}

fn numbered(out: &Path, number: usize) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// The files of a data set, in their order.
fn read(spec: &DatasetSpec, folder: &Path) -> Result<Vec<Named>> {
    let read = |file: &dkd_datasets::DataFile| {
        let path = folder.join(file.name);
        let expected = file.records * spec.record_bytes();
        let bytes = dkd_files::read_limited(&path, expected as u64)?;
        let (path, found) = (path.display(), bytes.len());
        ensure!(found == expected, "{path}: {found} bytes, expected {expected}: {} records", file.records);
        Ok((file.name.to_owned(), bytes))
    };
    spec.files().map(read).collect()
}

/// Small files of text beside them.
fn texts(folder: &Path) -> Result<Vec<Named>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".txt"))
            && entry.metadata()?.len() <= TEXT
        {
            found.push((name.to_owned(), dkd_files::read_limited(&entry.path(), TEXT)?));
        }
    }
    found.sort();
    Ok(found)
}

/// The numbers of all records, by class.
fn sorted(labels: &[u8], label_bytes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len() / label_bytes).collect();
    order.sort_by_key(|i| labels[(i + 1) * label_bytes - 1]);
    order
}

/// All parts, as the bytes of their files.
fn parts(spec: &DatasetSpec, files: &[Named], texts: &[Named], limit: usize) -> Result<Vec<Vec<u8>>> {
    let records: Vec<&[u8]> =
        files.iter().flat_map(|(_, bytes)| bytes.chunks_exact(spec.record_bytes())).collect();
    let labels: Vec<u8> = records.iter().flat_map(|r| &r[..spec.label_bytes]).copied().collect();
    let order = sorted(&labels, spec.label_bytes);
    let mut sheets = Vec::new();
    for (i, numbers) in order.chunks(SHEET).enumerate() {
        let images: Vec<&[u8]> = numbers.iter().map(|n| &records[*n][spec.label_bytes..]).collect();
        sheets.push((format!("sheet-{i:03}.webp"), sheet::encode(&images)?));
    }
    // What else a part holds; a header of tar has 512 bytes, and so has the rest of a block at most.
    let room = limit.saturating_sub(labels.len() + 256 * 1024);
    let mut groups: Vec<Vec<&Named>> = vec![Vec::new()];
    let mut used = 0;
    for sheet in &sheets {
        let size = sheet.1.len() + 1024;
        ensure!(size <= room, "a sheet of {size} bytes does not fit into a part of {limit}");
        if used + size > room {
            groups.push(Vec::new());
            used = 0;
        }
        used += size;
        groups.last_mut().context("there is a group")?.push(sheet);
    }
    let all = files.iter().chain(texts);
    let sums: BTreeMap<_, _> =
        all.map(|(name, bytes)| (name.clone(), dkd_files::sha256_bytes(bytes))).collect();
    let mut made = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let description = Description {
            format: 1,
            dataset: spec.name.to_owned(),
            part: i + 1,
            parts: groups.len(),
            sheets: sheets.len(),
            files: sums.clone(),
        };
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, "pack.json", &serde_json::to_vec(&description)?)?;
        add(&mut archive, "labels", &labels)?;
        for (name, bytes) in texts.iter().filter(|_| i == 0) {
            add(&mut archive, name, bytes)?;
        }
        for (name, bytes) in group {
            add(&mut archive, name, bytes)?;
        }
        made.push(archive.into_inner()?);
    }
    Ok(made)
}

fn add(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, name, bytes)?)
}

/// What a part holds.
fn entries(part: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(part).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        found.insert(name, bytes);
    }
    Ok(found)
}

fn describe(entries: &BTreeMap<String, Vec<u8>>) -> Result<Description> {
    let text = entries.get("pack.json").context("no packed data set: there is no `pack.json`")?;
    let description: Description = serde_json::from_slice(text).context("pack.json")?;
    ensure!(description.format == 1, "pack.json: `format` is {}, expected 1", description.format);
    Ok(description)
}

/// The files of all parts, with their sums checked.
fn restore(spec: &DatasetSpec, parts: &[Vec<u8>]) -> Result<Vec<Named>> {
    let mut all = BTreeMap::new();
    let mut first: Option<Description> = None;
    let mut there = Vec::new();
    for part in parts {
        let entries = entries(part)?;
        let description = describe(&entries)?;
        ensure!(
            description.dataset == spec.name,
            "a part is of `{}`, not `{}`",
            description.dataset,
            spec.name
        );
        if let Some(first) = &first {
            ensure!(first.files == description.files, "the parts are not of the same files");
        }
        there.push(description.part);
        first = Some(description);
        all.extend(entries);
    }
    let description = first.context("no part was given")?;
    for part in 1..=description.parts {
        ensure!(there.contains(&part), "part {part} of {} is missing: all must be given", description.parts);
    }
    let labels = all.get("labels").context("a part has no `labels`")?;
    let count: usize = spec.files().map(|file| file.records).sum();
    let expected = count * spec.label_bytes;
    ensure!(labels.len() == expected, "`labels` has {} bytes, expected {expected}", labels.len());
    let record = spec.record_bytes();
    let mut bytes = vec![0; count * record];
    for (i, label) in labels.chunks_exact(spec.label_bytes).enumerate() {
        bytes[i * record..][..spec.label_bytes].copy_from_slice(label);
    }
    for (i, numbers) in sorted(labels, spec.label_bytes).chunks(SHEET).enumerate() {
        let name = format!("sheet-{i:03}.webp");
        let sheet = all.get(&name).with_context(|| format!("no part has `{name}`"))?;
        for (number, image) in numbers.iter().zip(sheet::decode(sheet, numbers.len()).context(name)?) {
            bytes[number * record + spec.label_bytes..(number + 1) * record].copy_from_slice(&image);
        }
    }
    let mut files = Vec::new();
    let mut rest = bytes.as_slice();
    for file in spec.files() {
        let (own, others) = rest.split_at(file.records * record);
        files.push((file.name.to_owned(), own.to_vec()));
        rest = others;
    }
    for name in description.files.keys().filter(|name| spec.files().all(|file| file.name != *name)) {
        // It becomes a file's name.
        if name.contains(['/', '\\']) {
            bail!("pack.json: `{name}` is no plain name");
        }
        files.push((name.clone(), all.get(name).with_context(|| format!("no part has `{name}`"))?.clone()));
    }
    for (name, bytes) in &files {
        let want =
            description.files.get(name).with_context(|| format!("pack.json has no sum of `{name}`"))?;
        ensure!(dkd_files::sha256_bytes(bytes) == *want, "`{name}` is damaged: its SHA-256 is another");
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
