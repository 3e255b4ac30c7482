//! Settings of runs, compared by their dotted names.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};

/// In the place of a value that is not there.
pub const NOT_SET: &str = "not set";

/// Settings that change no result.
const UNIMPORTANT: [&str; 3] = ["checkpoints.", "cache.folder", "cache.max_gb"];

/// Keys that are not the same in all of `configs` (in TOML), each with its value in each of them, but for those
/// that make no difference to anybody.
pub fn differences(configs: &[&str]) -> Result<Vec<(String, Vec<String>)>> {
    let all = configs.iter().map(|text| flat(text)).collect::<Result<Vec<_>>>()?;
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let value = |map: &BTreeMap<String, String>, key: &str| {
        map.get(key).cloned().unwrap_or_else(|| NOT_SET.to_owned())
    };
    let rows = keys.into_iter().map(|key| (key.clone(), all.iter().map(|map| value(map, key)).collect()));
    let differ = |(key, values): &(String, Vec<String>)| {
        !UNIMPORTANT.iter().any(|part| key.starts_with(part))
            && values.windows(2).any(|pair| pair[0] != pair[1])
    };
    Ok(rows.filter(differ).collect())
}

/// Settings by their dotted names, a row's by its id.
fn flat(text: &str) -> Result<BTreeMap<String, String>> {
    fn add(prefix: &str, value: &toml::Value, to: &mut BTreeMap<String, String>) {
        let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(k, v)| add(&name(k), v, to)),
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (i, item) in items.iter().enumerate() {
                    let id = item.get("id").and_then(toml::Value::as_str);
                    add(&name(id.unwrap_or(&i.to_string())), item, to);
                }
            }
            other => {
                to.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut all = BTreeMap::new();
    add("", &toml::Value::Table(text.parse().context("stored settings are no TOML")?), &mut all);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_settings_are_named() {
        let old = "[train]\nepochs = 3\n[[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'kd' }]";
        let new = "[train]\nepochs = 4\nseed = 1\n[checkpoints]\nkeep_last = 3\n\
                   [[rows]]\nid = 'kd'\nlabel = 'a'\nloss = [{ method = 'dkd' }]";
        let found: Vec<String> = differences(&[old, new, old])
            .unwrap()
            .into_iter()
            .map(|(key, values)| format!("{key}: {}", values.join(", ")))
            .collect();
        let expected = [
            "rows.kd.loss.0.method: \"kd\", \"dkd\", \"kd\"",
            "train.epochs: 3, 4, 3",
            "train.seed: not set, 1, not set",
        ];
        assert_eq!(found, expected);
        assert!(differences(&[old, old]).unwrap().is_empty());
        assert!(differences(&[old, "[train"]).is_err());
    }
}
