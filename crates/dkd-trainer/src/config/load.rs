//! Reading, extending and overriding.

use super::raw::RawConfig;
use crate::{Error, Result};
use dkd_models::Description;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::{Table, Value};

/// Largest configuration file that is read.
const LIMIT: u64 = 1 << 20;

/// Longest chain of `extends`.
const DEPTH: usize = 8;

/// Most parts of a key given by itself: `rows.kd.loss.0.weight` has five.
const PARTS: usize = 8;

/// Longest unknown key that is compared with the known ones.
const KEY: usize = 64;

/// Keys that hold one of several alternatives: a table given here replaces the one it extends as a whole.
const WHOLE: [&str; 2] = ["schedule", "published"];

/// The settings of a run before they are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    table: Table,
    place: String,
    stem: String,
}

impl Config {
    /// Reads a file and what it extends.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line and, for an unknown key, the nearest known one.
    pub fn load(path: &Path) -> Result<Self> {
        let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Ok(Self { table: load(path, 0)?, place: path.display().to_string(), stem })
    }

    /// Reads text; `place` names it in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        Ok(Self { table: parse(text, place)?, place: place.to_owned(), stem: place.to_owned() })
    }

    /// Overrides one setting: `a.b=c`, where c is TOML or plain text. A row is named by its id: `rows.kd.optimizer.lr=0.1`.
    ///
    /// # Errors
    /// [`Error::Config`] if the key is unknown or the value has the wrong type; nothing is changed then.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let place = format!("--set {assignment}");
        let fail = |message: String| Error::Config { place: place.clone(), message };
        let (key, text) = assignment
            .split_once('=')
            .ok_or_else(|| fail("expected key=value, for example train.epochs=10".to_owned()))?;
        // Nothing may stand behind the value.
        let parsed = format!("v = {text}").parse::<Table>().ok().filter(|t| t.len() == 1);
        let parsed = parsed.and_then(|mut t| t.remove("v"));
        let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
        let mut table = self.table.clone();
        insert(&mut table, &key.trim().split('.').collect::<Vec<_>>(), value).map_err(&fail)?;
        typed(&table, &place)?;
        self.table = table;
        Ok(())
    }

    /// Sets a value by its path, for options that have a flag of their own.
    ///
    /// # Errors
    /// As [`Config::set`].
    pub fn set_value(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let path: Vec<&str> = key.split('.').collect();
        insert(&mut self.table, &path, value.into())
            .map_err(|message| Error::Config { place: key.to_owned(), message })
    }

    /// The settings, still unchecked.
    ///
    /// # Errors
    /// [`Error::Config`] if a value has the wrong type.
    pub fn raw(&self) -> Result<RawConfig> {
        typed(&self.table, &self.place)
    }

    /// Name of the file without its ending.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Where the settings come from, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }
}

fn load(path: &Path, depth: usize) -> Result<Table> {
    let place = path.display().to_string();
    if depth > DEPTH {
        let message = format!("more than {DEPTH} files extend each other; is there a circle?");
        return Err(Error::Config { place, message });
    }
    let mut table = parse(&dkd_files::read_text_limited(path, LIMIT)?, &place)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(Value::String(weights)) = table.get_mut("teacher").and_then(|t| t.get_mut("weights")) {
        *weights = folder.join(&*weights).display().to_string();
    }
    relative_networks(&mut table, folder);
    match table.remove("extends") {
        Some(Value::String(base)) => {
            let mut merged = load(&folder.join(base), depth + 1)?;
            merge(&mut merged, table);
            Ok(merged)
        }
        _ => Ok(table),
    }
}

/// Files that stand in the place of models' names lie relative to the file that names them.
fn relative_networks(table: &mut Table, folder: &Path) {
    let place = |value: Option<&mut Value>| {
        if let Some(Value::String(model)) = value.and_then(|v| v.get_mut("model"))
            && Description::is_path(model)
        {
            *model = folder.join(&*model).display().to_string();
        }
    };
    for key in ["student", "teacher"] {
        place(table.get_mut(key));
    }
    if let Some(Value::Array(rows)) = table.get_mut("rows") {
        rows.iter_mut().for_each(|row| place(Some(row)));
    }
}

/// Parses one file and checks its keys and types, so that messages have its line numbers.
fn parse(text: &str, place: &str) -> Result<Table> {
    from_toml::<RawConfig>(text, place)?;
    from_toml(text, place)
}

/// Reads TOML; messages have the line and, for an unknown key, the nearest known one.
pub(crate) fn from_toml<T: DeserializeOwned>(text: &str, place: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| 1 + text.bytes().take(s.start).filter(|b| *b == b'\n').count());
        let place = line.map_or_else(|| place.to_owned(), |l| format!("{place}:{l}"));
        Error::Config { place, message: explain(e.message()) }
    })
}

fn typed(table: &Table, place: &str) -> Result<RawConfig> {
    RawConfig::deserialize_table(table)
        .map_err(|e| Error::Config { place: place.to_owned(), message: explain(e.message()) })
}

impl RawConfig {
    fn deserialize_table(table: &Table) -> std::result::Result<Self, toml::de::Error> {
        table.clone().try_into()
    }
}

/// Adds the nearest known key to serde's message about an unknown one.
fn explain(message: &str) -> String {
    let message = message.trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return message.to_owned();
    }
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    let distance = |k: &&str| strsim::damerau_levenshtein(unknown, k);
    let near = known.iter().copied().filter(|_| unknown.len() <= KEY).min_by_key(distance);
    match near.filter(|k| distance(k) <= unknown.len().max(4) / 2) {
        Some(k) => format!("unknown key `{unknown}`; did you mean `{k}`? Known here: {}", known.join(", ")),
        None => format!("unknown key `{unknown}`. Known here: {}", known.join(", ")),
    }
}

/// Lays `over` on `base`: tables key by key, everything else as a whole.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(b)), Value::Table(o)) if !WHOLE.contains(&key.as_str()) => merge(b, o),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn insert(table: &mut Table, path: &[&str], value: Value) -> std::result::Result<(), String> {
    let (first, rest) = path.split_first().ok_or("an empty key")?;
    if rest.len() >= PARTS {
        return Err(format!("a key has at most {PARTS} parts"));
    }
    if rest.is_empty() {
        table.insert((*first).to_owned(), value);
        return Ok(());
    }
    match table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(inner) => insert(inner, rest, value),
        Value::Array(items) => {
            let (which, rest) = rest.split_first().ok_or("an empty key")?;
            let ids: Vec<String> = items
                .iter()
                .enumerate()
                .map(|(i, v)| {
                    v.get("id").and_then(Value::as_str).map_or_else(|| i.to_string(), str::to_owned)
                })
                .collect();
            let index = ids.iter().position(|id| id == which).or_else(|| which.parse().ok());
            match index.and_then(|i| items.get_mut(i)) {
                Some(Value::Table(inner)) => insert(inner, rest, value),
                _ => Err(format!("`{first}` has no entry `{which}`; it has: {}", ids.join(", "))),
            }
        }
        other => Err(format!("`{first}` is {} and has no keys", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_suggest() {
        let message =
            Config::parse("[optimizer]\nlr = 0.1\nmomentun = 0.9", "a.toml").unwrap_err().to_string();
        assert!(message.starts_with("a.toml:3") && message.contains("did you mean `momentum`"), "{message}");
        let message = Config::parse("[train]\nepochs = 'ten'", "a.toml").unwrap_err().to_string();
        assert!(message.contains("a.toml:2") && message.contains("string"), "{message}");
        let message = Config::parse("[train\n", "a.toml").unwrap_err().to_string();
        assert!(message.starts_with("a.toml:1"), "{message}");
        // Comparing this with all known keys would take long.
        let long = "k".repeat(900_000);
        let message = Config::parse(&format!("{long} = 1"), "a.toml").unwrap_err().to_string();
        assert!(message.contains("Known here") && !message.contains("did you mean"));
    }

    #[test]
    fn files_extend_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "base.toml",
            "[train]\nepochs = 3\nseed = 1\n[schedule]\nkind = 'milestones'\nmilestones = [2]",
        );
        write("top.toml", "extends = 'base.toml'\n[train]\nseed = 2\n[schedule]\nkind = 'cosine'");
        let raw = Config::load(&folder.path().join("top.toml")).unwrap().raw().unwrap();
        assert_eq!((raw.train.epochs, raw.train.seed), (Some(3), Some(2)));
        assert_eq!((raw.schedule.kind.as_deref(), raw.schedule.milestones), (Some("cosine"), None));
        write("deep.toml", "extends = 'top.toml'\n[teacher]\nweights = 't.safetensors'");
        let raw = Config::load(&folder.path().join("deep.toml")).unwrap().raw().unwrap();
        assert_eq!(raw.teacher.unwrap().weights, Some(folder.path().join("t.safetensors")));
        write("circle.toml", "extends = 'circle.toml'");
        assert!(Config::load(&folder.path().join("circle.toml")).unwrap_err().to_string().contains("circle"));
        assert!(
            Config::load(&folder.path().join("none.toml")).unwrap_err().to_string().contains("none.toml")
        );
    }

    #[test]
    fn settings_are_overridden() {
        let mut c = Config::parse("[[rows]]\nid = 'kd'\n[[rows]]\nid = 'dkd'", "t").unwrap();
        c.set("rows.dkd.optimizer.lr=0.5").unwrap();
        c.set("student.model=resnet20").unwrap();
        c.set("data.validation = 500").unwrap();
        let raw = c.raw().unwrap();
        assert_eq!(raw.rows.unwrap()[1].optimizer.lr, Some(0.5));
        assert_eq!((raw.student.model.as_deref(), raw.data.validation), (Some("resnet20"), Some(500)));
        let before = c.clone();
        for (bad, expected) in [
            ("train.epoch=3", "did you mean `epochs`"),
            ("train.epochs=many", "string"),
            ("rows.none.label=x", "kd, dkd"),
            ("train", "key=value"),
            ("train.epochs=3\nseed=1", "string"),
            (&format!("{}b=1", "a.".repeat(100_000)), "at most 8 parts"),
        ] {
            let message = c.set(bad).unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains(expected), "{message}");
        }
        assert_eq!(c, before);
    }
}
