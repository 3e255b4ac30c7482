//! The rows of a pair, from their files to one.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use toml::{Table as Settings, Value};

/// Epochs of the paper.
pub const PAPER_EPOCHS: u64 = 240;

/// Everything that counts epochs in a loss.
const COUNTED: [&str; 2] = ["warmup_epochs", "curriculum_epochs"];

/// One pair's table.
#[derive(Clone, Debug)]
pub struct Table {
    /// `TEACHER-STUDENT`.
    pub pair: String,
    pub teacher: String,
    pub student: String,
    /// The file with everything that the rows share.
    base: PathBuf,
    pub rows: Vec<Settings>,
    epochs: u64,
    /// Training and test images, if not all.
    images: Option<u64>,
}

impl Table {
    /// Collects the rows of these methods below `folder`.
    pub fn read(folder: &Path, pair: &str, methods: &[&str]) -> Result<Self> {
        let base = folder.join(format!("{pair}.toml"));
        let shared = settings(&base)?;
        let model = |part: &str| -> Result<String> {
            let name = shared.get(part).and_then(|t| t.get("model")).and_then(Value::as_str);
            Ok(name.with_context(|| format!("{} names no {part}", base.display()))?.to_owned())
        };
        let (teacher, student) = (model("teacher")?, model("student")?);
        let mut rows = Vec::new();
        for method in methods {
            let file = folder.join(method).join(format!("{pair}.toml"));
            if *method == super::PARTIAL.0 && !file.exists() {
                continue;
            }
            let own = settings(&file)?;
            let found = own.get("rows").and_then(Value::as_array).and_then(|rows| rows.first()?.as_table());
            let mut row = found.with_context(|| format!("{} has no row", file.display()))?.clone();
            if *method != "none" && methods.contains(&"none") {
                row.insert("baseline".to_owned(), "none".into());
            }
            rows.push(row);
        }
        Ok(Self { pair: pair.to_owned(), teacher, student, base, rows, epochs: PAPER_EPOCHS, images: None })
    }

    /// For each row the views of an image that a step computes with.
    pub fn views(&self) -> Vec<u32> {
        let of = |row: &Settings| row.get("views").and_then(Value::as_integer).unwrap_or(1);
        self.rows.iter().map(|row| u32::try_from(of(row)).unwrap_or(1)).collect()
    }

    /// The same with another number of epochs: what counts epochs in the losses is shortened alike, and a number published for the
    /// paper's epochs is no longer one to compare with. Nor is a log, where the loss itself changes over other epochs than it did there.
    pub fn with_epochs(&self, epochs: u64) -> Self {
        let mut table = Self { epochs, ..self.clone() };
        if epochs == PAPER_EPOCHS {
            return table;
        }
        for row in &mut table.rows {
            row.remove("published");
            let mut shortened = false;
            let parts = row.get_mut("loss").and_then(Value::as_array_mut).into_iter().flatten();
            for part in parts.filter_map(Value::as_table_mut) {
                for key in COUNTED {
                    if let Some(Value::Integer(count)) = part.get_mut(key) {
                        *count = scaled(*count, epochs);
                        shortened = true;
                    }
                }
            }
            if shortened {
                row.remove("log");
            }
        }
        table
    }

    /// The same with so many training and test images, whose results are nothing to compare with.
    pub fn with_images(&self, images: u64) -> Self {
        let mut table = Self { images: Some(images), ..self.clone() };
        for row in &mut table.rows {
            row.remove("published");
            row.remove("log");
        }
        table
    }

    /// The file for `dkd table`.
    pub fn to_text(&self) -> Result<String> {
        let mut all = Settings::new();
        all.insert("extends".to_owned(), self.base.display().to_string().into());
        all.insert("name".to_owned(), format!("cifar100-{}", self.pair).into());
        if self.epochs != PAPER_EPOCHS {
            let mut milestones = [150, 180, 210].map(|epoch| scaled(epoch, self.epochs)).to_vec();
            milestones.dedup();
            let mut train = Settings::new();
            train.insert("epochs".to_owned(), i64::try_from(self.epochs)?.into());
            // A schedule takes the place of the one that is extended, whole.
            let mut schedule = Settings::new();
            schedule.insert("kind".to_owned(), "milestones".into());
            schedule.insert("gamma".to_owned(), 0.1.into());
            schedule.insert("milestones".to_owned(), Value::from(milestones));
            all.insert("train".to_owned(), train.into());
            all.insert("schedule".to_owned(), schedule.into());
        }
        if let Some(images) = self.images {
            let mut data = Settings::new();
            data.insert("train_limit".to_owned(), i64::try_from(images)?.into());
            data.insert("test_limit".to_owned(), i64::try_from(images)?.into());
            all.insert("data".to_owned(), data.into());
        }
        all.insert("rows".to_owned(), Value::Array(self.rows.iter().cloned().map(Value::from).collect()));
        Ok(toml::to_string_pretty(&all)?)
    }
}

/// The share of an epoch of 240 in a run of `epochs`, at least 1.
fn scaled(epoch: i64, epochs: u64) -> i64 {
    ((epoch as f64 * epochs as f64 / PAPER_EPOCHS as f64).round() as i64).max(1)
}

fn settings(file: &Path) -> Result<Settings> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::root;

    #[test]
    fn fewer_epochs_shorten_everything_alike() {
        let folder = root().join("configs/cifar100");
        let table = Table::read(&folder, "resnet32x4-resnet8x4", &["none", "dkd", "ctkd"]).unwrap();
        let whole: Settings = toml::from_str(&table.to_text().unwrap()).unwrap();
        assert!(!whole.contains_key("train") && whole["rows"][1].get("published").is_some());
        assert_eq!(whole["rows"][1]["baseline"].as_str(), Some("none"));
        let short: Settings = toml::from_str(&table.with_epochs(24).to_text().unwrap()).unwrap();
        assert_eq!(short["train"]["epochs"].as_integer(), Some(24));
        let milestones: Vec<i64> = short["schedule"]["milestones"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_integer)
            .collect();
        assert_eq!(milestones, [15, 18, 21]);
        assert_eq!(short["schedule"]["kind"].as_str(), Some("milestones"));
        let least: Settings = toml::from_str(&table.with_epochs(1).to_text().unwrap()).unwrap();
        assert_eq!(least["schedule"]["milestones"].as_array().map(Vec::len), Some(1), "no epoch twice");
        assert_eq!(short["rows"][1]["loss"][1]["warmup_epochs"].as_integer(), Some(2));
        assert_eq!(short["rows"][2]["loss"][1]["curriculum_epochs"].as_integer(), Some(1));
        assert!(short["rows"][1].get("published").is_none());
    }

    #[test]
    fn short_runs_keep_the_logs_that_they_follow() {
        let folder = root().join("configs/cifar100");
        let table = Table::read(&folder, "resnet56-resnet20", &["kd-lskd", "dkd-lskd"]).unwrap();
        let logs = |table: &Table| table.rows.iter().map(|r| r.contains_key("log")).collect::<Vec<_>>();
        assert_eq!(logs(&table.with_epochs(PAPER_EPOCHS)), [true, true]);
        assert_eq!(logs(&table.with_epochs(24)), [true, false], "DKD's warm-up is shortened");
        assert_eq!(logs(&table.with_images(320)), [false, false]);
        assert!(table.with_epochs(24).rows.iter().all(|r| !r.contains_key("published")));
    }
}
