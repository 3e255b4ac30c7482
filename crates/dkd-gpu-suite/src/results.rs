//! Results in files: written whenever there is one more, so that a run that is cut off loses nothing, and put together again.

use crate::report::Line;
use crate::table::{Torch, tables};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// More than any run writes.
const LIMIT: u64 = 64 << 20;

/// What a run has found.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Results {
    /// The machine.
    pub device: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether all is as it should be.
    pub ok: bool,
    /// How many cases were not begun because it was too late.
    #[serde(default)]
    pub left_out: usize,
    /// All results.
    pub lines: Vec<Line>,
}

impl Results {
    /// Writes them, in the place of what was there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(dkd_files::atomic_write_bytes(path, &serde_json::to_vec_pretty(self)?)?)
    }

    /// Reads what [`Results::write`] wrote.
    ///
    /// # Errors
    /// The file cannot be read, or is another.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = dkd_files::read_limited(path, LIMIT)?;
        serde_json::from_slice(&bytes).with_context(|| format!("{}: no results", path.display()))
    }

    /// Those of several runs, in their order; of a result that is there twice, the last counts, in the place of the first.
    #[must_use]
    pub fn merged(all: Vec<Self>) -> Self {
        let mut merged = Self { ok: true, ..Self::default() };
        for results in all {
            merged.device = results.device;
            merged.seconds += results.seconds;
            merged.ok &= results.ok;
            merged.left_out += results.left_out;
            for line in results.lines {
                let same = |other: &&mut Line| {
                    (&other.part, &other.group, &other.case) == (&line.part, &line.group, &line.case)
                };
                match merged.lines.iter_mut().find(same) {
                    Some(place) => *place = line,
                    None => merged.lines.push(line),
                }
            }
        }
        merged
    }

    /// All in tables, PyTorch's rates beside ours.
    pub fn table(&self, torch: &[Torch]) -> String {
        tables(&self.lines, self.left_out, torch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_put_together() {
        let rate = |case: &str, value| Line::rate("bench", "a", case, value, None, "img/s");
        let first = Results {
            seconds: 1.0,
            ok: true,
            lines: vec![rate("a", 1.0), rate("b", 2.0)],
            ..Results::default()
        };
        let second = Results {
            seconds: 2.0,
            ok: false,
            lines: vec![rate("c", 4.0), rate("a", 3.0)],
            ..Results::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<_> = [first, second]
            .iter()
            .enumerate()
            .map(|(i, results)| {
                let path = folder.path().join(format!("{i}.json"));
                results.write(&path).unwrap();
                Results::read(&path).unwrap()
            })
            .collect();
        let merged = Results::merged(all);
        let values: Vec<_> = merged.lines.iter().map(|line| line.value.unwrap()).collect();
        assert_eq!((values, merged.seconds, merged.ok), (vec![3.0, 2.0, 4.0], 3.0, false));
        assert!(merged.table(&[]).contains("3 results, 0 of them"));
        std::fs::write(folder.path().join("2.json"), "{}").unwrap();
        let error = Results::read(&folder.path().join("2.json")).unwrap_err();
        assert!(format!("{error:#}").contains("2.json"), "{error:#}");
    }
}
