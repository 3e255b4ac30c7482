//! A search over settings, as a TOML file describes it.

use super::space::{Domain, Range, Scale, Space};
use super::state::Metric;
use super::strategy::{Plan, Strategy};
use crate::config::{Config, from_toml};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Largest file that is read.
const LIMIT: u64 = 1 << 20;

/// Images held out if neither the search nor its base says how many.
const VALIDATION: usize = 5000;

/// Trials if the file does not say how many.
const TRIALS: usize = 20;

/// Trials trained together if the file does not say how many.
const TOGETHER: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSearch {
    base: PathBuf,
    strategy: RawStrategy,
    trials: Option<usize>,
    seed: Option<u64>,
    epochs: Option<usize>,
    validation: Option<usize>,
    eta: Option<usize>,
    first_epochs: Option<usize>,
    metric: Option<Metric>,
    together: Option<usize>,
    keys: BTreeMap<String, RawKey>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawStrategy {
    Grid,
    Random,
    Tpe,
    Halving,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    values: Option<Vec<Value>>,
    low: Option<f64>,
    high: Option<f64>,
    scale: Option<Scale>,
    integer: Option<bool>,
    points: Option<usize>,
}

/// A search over the settings of a run.
#[derive(Clone, Debug)]
pub struct Search {
    /// Name of the file without its ending.
    pub name: String,
    /// What is tried.
    pub plan: Plan,
    /// Training images held out, on which trials are compared.
    pub validation: usize,
    /// The file, for messages.
    pub(super) place: String,
    /// The settings that trials differ from; its teacher is complete, so that what is searched does not change it.
    pub(super) base: Config,
}

impl Search {
    /// Reads a file and the settings that it is about.
    ///
    /// # Errors
    /// [`Error::Config`] with file and key.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let fail = |message: String| Error::Config { place: place.clone(), message };
        let text = dkd_files::read_text_limited(path, LIMIT)?;
        unquoted(&from_toml(&text, &place)?).map_err(&fail)?;
        let raw: RawSearch = from_toml(&text, &place)?;
        let strategy = strategy(&raw).map_err(&fail)?;
        let mut base = Config::load(&path.parent().unwrap_or(Path::new("")).join(&raw.base))?;
        let recipe = base.check()?;
        if recipe.rows.len() != 1 {
            return Err(fail(format!(
                "`base`: {} has {} rows; a search is about the settings of one",
                raw.base.display(),
                recipe.rows.len()
            )));
        }
        pin_teacher(&mut base)?;
        let own = Some(recipe.data.validation).filter(|n| *n > 0);
        let validation = raw.validation.or(own).unwrap_or(VALIDATION);
        if validation == 0 {
            return Err(fail("`validation` is 0; trials are compared on held-out images".to_owned()));
        }
        let domains = raw.keys.into_iter().map(|(key, raw)| match domain(raw) {
            Some(domain) => Ok((key, domain)),
            None => Err(fail(format!(
                "`keys.\"{key}\"`: expected `values = […]` alone, or `low` and `high`, with or without `scale`, `integer` and \
                 `points`"
            ))),
        });
        let space = Space::new(domains.collect::<Result<_>>()?).map_err(|e| fail(e.to_string()))?;
        let plan = Plan {
            space,
            strategy,
            seed: raw.seed.unwrap_or(0),
            epochs: raw.epochs.unwrap_or(recipe.train.epochs),
            together: raw.together.unwrap_or(TOGETHER),
            metric: raw.metric.unwrap_or_default(),
        };
        let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Ok(Self { name, plan, validation, place, base })
    }

    /// The settings that trials differ from.
    pub fn base(&self) -> &Config {
        &self.base
    }

    /// Takes another data set than the settings name.
    ///
    /// # Errors
    /// [`Error::Config`] if it cannot be set.
    pub fn set_dataset(&mut self, name: &str) -> Result<()> {
        self.base.set_value("data.dataset", name)
    }
}

/// A key without quotes is a table within a table, which nothing in a search is.
fn unquoted(table: &Table) -> std::result::Result<(), String> {
    let keys = table.get("keys").and_then(Value::as_table);
    for (key, inner) in keys.into_iter().flatten() {
        if let Some((rest, _)) = inner.as_table().into_iter().flatten().find(|(_, v)| v.is_table()) {
            return Err(format!(
                "`keys.{key}.{rest}`: a key of the settings stands in quotes, as in [keys.\"{key}.{rest}\"]"
            ));
        }
    }
    Ok(())
}

fn strategy(raw: &RawSearch) -> std::result::Result<Strategy, String> {
    let halving = matches!(raw.strategy, RawStrategy::Halving);
    for (key, given) in [("eta", raw.eta), ("first_epochs", raw.first_epochs)] {
        if given.is_some() && !halving {
            return Err(format!("`{key}` means something with strategy = \"halving\" only"));
        }
    }
    let trials = raw.trials.unwrap_or(TRIALS);
    match raw.strategy {
        RawStrategy::Grid if raw.trials.is_some() => {
            Err("`trials` means nothing with strategy = \"grid\", which tries all points".to_owned())
        }
        RawStrategy::Grid => Ok(Strategy::Grid),
        RawStrategy::Random => Ok(Strategy::Random { trials }),
        RawStrategy::Tpe => Ok(Strategy::Tpe { trials }),
        RawStrategy::Halving => Ok(Strategy::Halving {
            trials,
            eta: raw.eta.unwrap_or(3),
            first_epochs: raw.first_epochs.unwrap_or(1),
        }),
    }
}

fn domain(raw: RawKey) -> Option<Domain> {
    match raw {
        RawKey { values: Some(values), low: None, high: None, scale: None, integer: None, points: None } => {
            Some(Domain::Values(values))
        }
        RawKey { values: None, low: Some(low), high: Some(high), scale, integer, points } => {
            let (scale, integer) = (scale.unwrap_or_default(), integer.unwrap_or(false));
            Some(Domain::Range(Range { low, high, scale, integer, points }))
        }
        _ => None,
    }
}

/// Writes out all settings of the teacher: what it leaves out it takes from the student, of whom there will be many.
fn pin_teacher(base: &mut Config) -> Result<()> {
    let mode = base.raw()?.teacher.and_then(|t| t.mode);
    let mut complete: Table = from_toml(&base.check()?.to_toml(), base.place())?;
    if let Some(teacher) = complete.remove("teacher") {
        base.set_value("teacher", teacher)?;
        // Which is a setting of the rows.
        if let Some(mode) = mode {
            base.set_value("teacher.mode", mode)?;
        }
    }
    Ok(())
}
