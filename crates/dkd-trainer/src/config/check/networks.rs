//! Networks that are not of the list of models.

use super::super::raw::RawConfig;
use crate::{Error, Result};
use dkd_models::Description;
use std::collections::BTreeMap;
use std::path::Path;

/// What a network may be called.
const NAME: &str = "a name that no other network has, of letters, digits, `-`, `_` and `.`, that does not end in .toml or .json";

/// Whether folders and files can be called so.
fn is_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.chars().all(valid) && !Description::is_path(name)
}

/// The networks of the settings by name. A file that stands in the place of a model's name is read, and is called what the file
/// is called, so that stored settings do not depend on the file.
pub(super) fn described(raw: &mut RawConfig, place: &str) -> Result<BTreeMap<String, Description>> {
    let fail = |message: String| Error::Config { place: place.to_owned(), message };
    let mut all = BTreeMap::new();
    for (name, description) in std::mem::take(&mut raw.networks) {
        if dkd_models::find(&name).is_ok() || !is_name(&name) {
            return Err(fail(format!("`networks` has a network called `{name}`; it must have {NAME}")));
        }
        all.insert(name.clone(), description.called(&name));
    }
    let rows = raw.rows.iter_mut().flatten().map(|row| (format!("rows.{}.model", row.id), &mut row.model));
    let student = ("student.model".to_owned(), &mut raw.student.model);
    let teacher = raw.teacher.as_mut().map(|t| ("teacher.model".to_owned(), &mut t.model));
    for (key, model) in rows.chain([student]).chain(teacher) {
        let Some(path) = model.clone().filter(|name| Description::is_path(name)) else { continue };
        let read = Description::read(Path::new(&path));
        let read = read.map_err(|e| fail(format!("`{key}`: {e}")))?;
        let stem =
            Path::new(&path).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let read = read.called(&stem);
        let taken = dkd_models::find(&stem).is_ok() || all.get(&stem).is_some_and(|other| *other != read);
        if taken || !is_name(&stem) {
            return Err(fail(format!("`{key}` is {path}; without its ending, the file must have {NAME}")));
        }
        all.insert(stem.clone(), read);
        *model = Some(stem);
    }
    Ok(all)
}
