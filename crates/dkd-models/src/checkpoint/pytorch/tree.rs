//! The state dictionary among everything that was saved with it.

use super::super::import::shown;
use super::super::pickle::{Id, Pickle, Value, Values};
use std::collections::HashSet;

/// How deep dictionaries may lie in each other.
const MAX_DEPTH: usize = 16;

/// Most entries of a state dictionary, over all dictionaries in it.
const MAX_ENTRIES: usize = 200_000;

/// Longest name.
const MAX_NAME: usize = 512;

/// Most state dictionaries that are counted, and most entries beside them.
const MAX_FOUND: usize = 64;
const MAX_BESIDE: usize = 1024;

/// Where training programs keep the state dictionary, beside other things.
const WRAPPERS: [&str; 4] = ["model", "state_dict", "model_state_dict", "net"];

/// A dictionary of tensors and what lay beside it.
pub struct Chosen {
    /// Path of its keys, with dots; empty for the whole file.
    pub key: String,
    /// What of the key that was asked for is not a dictionary, and must be the beginning of names.
    pub rest: String,
    /// Its tensors by their names; those of dictionaries within have both names, with a dot.
    pub tensors: Vec<(String, Id)>,
    /// Other entries of the dictionaries on the way to it, the outermost first.
    pub extras: Vec<(String, Id)>,
}

/// Finds the state dictionary: the one that `key` names, or the only one there is.
///
/// # Errors
/// There is none, several, or none at `key`; the file holds an object in place of data.
pub fn choose(pickle: &Pickle, key: Option<&str>) -> Result<Chosen, String> {
    let values = &pickle.values;
    if values.entries(pickle.root).is_none() {
        return Err(no_dictionary(pickle));
    }
    let (path, dict, rest) = match key {
        None => {
            let (path, dict) = the_only_one(pickle)?;
            (path, dict, String::new())
        }
        Some(".") => (vec![], pickle.root, String::new()),
        Some(key) => match follow(values, pickle.root, key) {
            // Not a place, but the beginning of names.
            (path, _, rest) if path.is_empty() => {
                let (path, dict) = the_only_one(pickle)?;
                (path, dict, rest)
            }
            found => found,
        },
    };
    let mut tensors = Vec::new();
    let mut left = MAX_ENTRIES;
    flatten(values, dict, "", 0, &mut left, &mut tensors)?;
    if tensors.is_empty() {
        let place =
            if path.is_empty() { "it".to_owned() } else { format!("its entry `{}`", shown(&path.join("."))) };
        return Err(format!("there are no tensors in {place}"));
    }
    let extras = beside(values, pickle.root, &path);
    Ok(Chosen { key: path.join("."), rest, tensors, extras })
}

/// What is wrong with a file that holds no dictionary.
fn no_dictionary(pickle: &Pickle) -> String {
    let values = &pickle.values;
    match (values.get(pickle.root), values.class(pickle.root)) {
        (Value::Object { .. } | Value::Global { .. }, class) => object("the file", class),
        (_, _) => {
            let kind = values.kind(pickle.root);
            format!(
                "it holds {kind}, not a state dict; in Python: `torch.save(model.state_dict(), \"weights.pth\")`"
            )
        }
    }
}

fn object(place: &str, class: Option<String>) -> String {
    let class = class.map_or("unknown".to_owned(), |class| format!("`{}`", shown(&class)));
    format!(
        "{place} holds a pickled object of the class {class}, not a state dict, and code that a file names is never \
         run; in Python, where this class is known: `torch.save(model.state_dict(), \"weights.pth\")`"
    )
}

/// The only state dictionary of the file, with the keys that lead to it.
fn the_only_one(pickle: &Pickle) -> Result<(Vec<String>, Id), String> {
    let values = &pickle.values;
    let mut found = Vec::new();
    search(values, pickle.root, &mut Vec::new(), &mut HashSet::new(), &mut found);
    if found.len() > 1 {
        let list: Vec<String> =
            found.iter().take(8).map(|(path, _)| format!("`{}`", shown(&path.join(".")))).collect();
        return Err(format!(
            "it holds {} state dicts, at {}; choose one by its key",
            found.len(),
            list.join(", ")
        ));
    }
    if let Some(only) = found.pop() {
        return Ok(only);
    }
    let entries = values.entries(pickle.root).unwrap_or_default();
    let objects = entries.iter().filter(|(_, value)| matches!(values.get(*value), Value::Object { .. }));
    let named = |(key, value): &(Id, Id)| Some((shown(values.text(*key)?), values.class(*value)));
    let mut objects: Vec<_> = objects.filter_map(named).collect();
    // Arguments and the like may be objects too.
    objects.sort_by_key(|(name, _)| !WRAPPERS.contains(&&name[..]));
    if let Some((name, class)) = objects.into_iter().next() {
        return Err(object(&format!("its entry `{name}`"), class));
    }
    let keys = entries.iter().filter_map(|(key, _)| values.text(*key));
    let keys: Vec<String> = keys.take(8).map(|key| format!("`{}`", shown(key))).collect();
    let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    Err(format!("there are no weights in it, but {keys}"))
}

/// Collects all dictionaries that look like a state dictionary: some of their tensors are of real numbers, and of more than
/// one. What lies within such a dictionary is a part of it, unless it is called as wrappers call it.
fn search(
    values: &Values,
    dict: Id,
    path: &mut Vec<String>,
    seen: &mut HashSet<Id>,
    found: &mut Vec<(Vec<String>, Id)>,
) {
    let Some(entries) = values.entries(dict) else { return };
    if path.len() > MAX_DEPTH || found.len() == MAX_FOUND || !seen.insert(dict) {
        return;
    }
    let before = found.len();
    let own = entries.iter().any(|(_, value)| is_weight(values, *value));
    for (key, value) in entries {
        let Some(key) = values.text(*key) else { continue };
        // Momentum has the shapes of weights.
        let skipped = key.starts_with("optim") || key.len() > MAX_NAME;
        if skipped || (own && !WRAPPERS.contains(&key)) {
            continue;
        }
        path.push(key.to_owned());
        search(values, *value, path, seen, found);
        path.pop();
    }
    if own && found.len() == before {
        found.push((path.clone(), dict));
    }
}

fn is_weight(values: &Values, id: Id) -> bool {
    match values.get(id) {
        Value::Tensor(view) => {
            view.size.iter().any(|n| *n > 1) && view.element.read_as.is_some_and(|dtype| dtype.is_float())
        }
        _ => false,
    }
}

/// Follows a key with dots from dictionary to dictionary. Keys may have dots themselves: the longest is tried first.
fn follow(values: &Values, root: Id, key: &str) -> (Vec<String>, Id, String) {
    let (mut path, mut dict, mut rest) = (Vec::new(), root, key);
    while !rest.is_empty() && path.len() < MAX_DEPTH {
        let entries = values.entries(dict).unwrap_or_default();
        let mut best: Option<(&str, Id)> = None;
        for (name, value) in entries {
            let (Some(name), Some(_)) = (values.text(*name), values.entries(*value)) else { continue };
            let fits =
                rest.strip_prefix(name).is_some_and(|after| after.is_empty() || after.starts_with('.'));
            if fits && !name.is_empty() && best.is_none_or(|(other, _)| name.len() > other.len()) {
                best = Some((name, *value));
            }
        }
        let Some((name, value)) = best else { break };
        rest = rest[name.len()..].trim_start_matches('.');
        path.push(name.to_owned());
        dict = value;
    }
    (path, dict, rest.to_owned())
}

/// Collects the tensors of a dictionary, and of dictionaries within.
fn flatten(
    values: &Values,
    dict: Id,
    prefix: &str,
    depth: usize,
    left: &mut usize,
    tensors: &mut Vec<(String, Id)>,
) -> Result<(), String> {
    for (key, value) in values.entries(dict).unwrap_or_default() {
        *left = left.checked_sub(1).ok_or("its dictionaries have more entries than a state dict can mean")?;
        let Some(key) = values.text(*key) else { continue };
        if !matches!(values.get(*value), Value::Tensor(_) | Value::Dict(_)) {
            continue;
        }
        if prefix.len() + key.len() > MAX_NAME {
            return Err(format!("the name `{}` has more than {MAX_NAME} bytes", shown(key)));
        }
        match values.get(*value) {
            Value::Dict(_) if depth == MAX_DEPTH => {
                return Err(format!("its dictionaries are nested more than {MAX_DEPTH} deep"));
            }
            Value::Dict(_) => flatten(values, *value, &format!("{prefix}{key}."), depth + 1, left, tensors)?,
            _ => tensors.push((format!("{prefix}{key}"), *value)),
        }
    }
    Ok(())
}

/// The entries of the dictionaries above the one at `path`.
fn beside(values: &Values, root: Id, path: &[String]) -> Vec<(String, Id)> {
    let mut dict = root;
    let mut all = Vec::new();
    for step in path {
        let mut next = None;
        for (key, value) in values.entries(dict).unwrap_or_default() {
            match values.text(*key) {
                Some(key) if key == step => next = Some(*value),
                Some(key) if key.len() <= MAX_NAME && all.len() < MAX_BESIDE => {
                    all.push((key.to_owned(), *value))
                }
                _ => {}
            }
        }
        let Some(value) = next else { break };
        dict = value;
    }
    all
}
