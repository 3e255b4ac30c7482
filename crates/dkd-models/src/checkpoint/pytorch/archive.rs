//! The container since PyTorch 1.6: a zip file with one folder, which holds a pickle and the memory of every storage.

use super::super::import::shown;
use super::super::pickle::{self, Pickle};
use super::Storages;
use flate2::{Crc, read::DeflateDecoder};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use zip::{CompressionMethod, ZipArchive};

/// Most members: one for each storage.
const MAX_MEMBERS: usize = 200_000;

/// Beyond 16 times the file's size, all packed members together may have this much. Weights hardly shrink at all.
const SLACK: u64 = 64 << 20;

/// A member of a zip file.
pub struct Member<'a> {
    name: String,
    content: &'a [u8],
    packed: bool,
    size: u64,
    /// 0 if none was computed.
    crc: u32,
}

impl<'a> Member<'a> {
    /// The content, checked.
    ///
    /// # Errors
    /// It is damaged.
    pub fn unpack(&self) -> Result<Cow<'a, [u8]>, String> {
        let damaged = || format!("member `{}` of the zip file is damaged", shown(&self.name));
        let content = if self.packed {
            let mut unpacked = Vec::new();
            let mut decoder = DeflateDecoder::new(self.content).take(self.size.saturating_add(1));
            decoder.read_to_end(&mut unpacked).map_err(|_| damaged())?;
            Cow::Owned(unpacked)
        } else {
            Cow::Borrowed(self.content)
        };
        let mut crc = Crc::new();
        crc.update(&content);
        if content.len() as u64 != self.size || (self.crc != 0 && crc.sum() != self.crc) {
            return Err(damaged());
        }
        Ok(content)
    }
}

/// Reads the pickle and lists the storages.
///
/// # Errors
/// What is wrong with the file.
pub fn open(bytes: &[u8]) -> Result<(Pickle, Storages<'_>), String> {
    let mut members = list(bytes)?;
    let root = folder(&members)?;
    let named = |name: &str| format!("{root}{name}");
    let script = |name: &String| *name == named("constants.pkl") || name.starts_with(&named("code/"));
    if members.keys().any(script) {
        return Err("a TorchScript archive, which is a program; in Python: \
                    `torch.save(torch.jit.load(\"FILE\").state_dict(), \"weights.pth\")`"
            .to_owned());
    }
    if let Some(order) = members.get(&named("byteorder"))
        && *order.unpack()? != *b"little"
    {
        return Err(
            "its numbers do not have their lowest byte first; load it in Python on a usual machine and \
                    save it again"
                .to_owned(),
        );
    }
    let data = members.remove(&named("data.pkl")).ok_or("it has no data.pkl")?;
    let (pickle, _) = pickle::read(&data.unpack()?).map_err(|e| format!("its data.pkl, {e}"))?;
    let storages = named("data/");
    let storages: HashMap<_, _> = members
        .into_iter()
        .filter_map(|(name, member)| Some((name.strip_prefix(&storages)?.to_owned(), member)))
        .collect();
    Ok((pickle, Storages::packed(storages)))
}

/// The members by name.
fn list(bytes: &[u8]) -> Result<BTreeMap<String, Member<'_>>, String> {
    let damaged = |e: zip::result::ZipError| format!("the zip file is cut short or damaged ({e})");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    if archive.len() > MAX_MEMBERS {
        return Err(format!("the zip file has {} members, more than a state dict needs", archive.len()));
    }
    let mut budget = 16 * bytes.len() as u64 + SLACK;
    let mut members = BTreeMap::new();
    for i in 0..archive.len() {
        let file = archive.by_index_raw(i).map_err(damaged)?;
        let name = file.name().map_err(damaged)?.into_owned();
        let failed = |problem: &str| format!("member `{}` of the zip file {problem}", shown(&name));
        if file.encrypted() {
            return Err(failed("is encrypted"));
        }
        let packed = match file.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::DEFLATE => true,
            other => return Err(failed(&format!("is packed in a way that is not known ({other:?})"))),
        };
        let size = file.size();
        if packed {
            let left = budget.checked_sub(size);
            budget = left.ok_or_else(|| failed("would unpack to far more than the file"))?;
        }
        let start = file.data_start().and_then(|start| usize::try_from(start).ok());
        let length = usize::try_from(file.compressed_size()).ok();
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        let content = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
        let content = content.ok_or_else(|| failed("does not end within the file"))?;
        let member = Member { name: name.clone(), content, packed, size, crc: file.crc32() };
        members.insert(name, member);
    }
    Ok(members)
}

/// The folder that has a `data.pkl`, with its slash.
fn folder(members: &BTreeMap<String, Member<'_>>) -> Result<String, String> {
    let mut folders = members.keys().filter_map(|name| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.ends_with('/')).then_some(folder)
    });
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_owned()),
        (Some(_), Some(_)) => {
            Err("the zip file has several data.pkl; unpack it and name one file".to_owned())
        }
        (None, _) => {
            let names: Vec<String> = members.keys().take(3).map(|name| shown(name)).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            Err(format!("a zip file that PyTorch did not write: it has no data.pkl, but {names}"))
        }
    }
}
