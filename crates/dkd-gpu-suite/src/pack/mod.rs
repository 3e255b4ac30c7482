//! A data set in CIFAR's binary layout, made small without loss, in parts that can be carried one by one.
//!
//! A part is a tar file: `pack.json` says what it is of, with sums, `labels` has the label bytes of all records in their order, and
//! each `sheet-NNN.webp` is a picture of many images as tiles. Images on sheets are sorted by class, and within a class stay in their
//! order; so the labels say where each belongs. Small files of text, such as the classes' names, come with the first part.

mod part;
mod sheet;

use anyhow::{Context, Result, bail, ensure};
use dkd_datasets::DatasetSpec;
use part::Part;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file of text that is carried along.
const TEXT: u64 = 64 * 1024;

/// Largest part that is read.
const LARGEST: u64 = 1 << 30;

/// Images of one sheet.
const SHEET: usize = sheet::COLUMNS * 25;

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
    let read: Vec<Part> = parts.iter().map(|bytes| Part::from_bytes(bytes)).collect::<Result<_>>()?;
    let restored = restore(spec, &read)?;
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
    let read = |path: &PathBuf| -> Result<Part> {
        let bytes = dkd_files::read_limited(path, LARGEST)?;
        Part::from_bytes(&bytes).with_context(|| path.display().to_string())
    };
    let parts: Vec<Part> = paths.iter().map(read).collect::<Result<_>>()?;
    let first = parts.first().context("no part was given")?;
    let spec = dkd_datasets::spec(&first.description.dataset)?;
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
        let mut part = Part::new(spec.name, i + 1, groups.len(), &sums);
        part.add("labels", &labels);
        let texts = texts.iter().filter(|_| i == 0);
        texts.chain(group.iter().copied()).for_each(|(name, bytes)| part.add(name, bytes));
        made.push(part.to_bytes()?);
    }
    Ok(made)
}

/// The files of all parts, with their sums checked.
fn restore(spec: &DatasetSpec, parts: &[Part]) -> Result<Vec<Named>> {
    let first = &parts.first().context("no part was given")?.description;
    let mut all = BTreeMap::new();
    for part in parts {
        let (own, name) = (&part.description, spec.name);
        ensure!(own.dataset == name, "a part is of `{}`, not `{name}`", own.dataset);
        ensure!(own.parts == first.parts && own.files == first.files, "the parts are not of the same files");
        all.extend(&part.entries);
    }
    for number in 1..=first.parts {
        let there = parts.iter().any(|part| part.description.part == number);
        ensure!(there, "part {number} of {} is missing: all must be given", first.parts);
    }
    let labels = all.get(&"labels".to_owned()).context("a part has no `labels`")?;
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
    for name in first.files.keys().filter(|name| spec.files().all(|file| file.name != *name)) {
        // It becomes a file's name.
        if name.contains(['/', '\\']) {
            bail!("pack.json: `{name}` is no plain name");
        }
        files.push((name.clone(), all.get(name).with_context(|| format!("no part has `{name}`"))?.to_vec()));
    }
    for (name, bytes) in &files {
        let want = first.files.get(name).with_context(|| format!("pack.json has no sum of `{name}`"))?;
        ensure!(dkd_files::sha256_bytes(bytes) == *want, "`{name}` is damaged: its SHA-256 is another");
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
