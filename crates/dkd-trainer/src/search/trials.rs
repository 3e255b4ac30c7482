//! From proposals to recipes and images.

use super::file::Search;
use super::space::Point;
use super::strategy::{Proposal, Strategy};
use crate::config::from_toml;
use crate::{DataRecipe, Error, MetricKind, NonFinite, Recipe, Result, RowRecipe, Splits};
use dkd_datasets::Dataset;
use toml::{Table, Value};

/// Keys that decide which images there are.
const IMAGES: [&str; 2] = ["data.dataset", "data.image_size"];

/// Trials that are trained in one pass over the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    /// A row for each of them.
    pub recipe: Recipe,
    /// They, in the order of the rows.
    pub proposals: Vec<Proposal>,
}

impl Search {
    /// Checks the numbers of the plan, and that every key is one of the settings, takes its values and makes a difference.
    ///
    /// # Errors
    /// [`Error::Config`] with file and key.
    pub fn check(&self) -> Result<()> {
        self.plan.check().map_err(|e| self.error(e.to_string()))?;
        let keys = self.plan.space.keys();
        let first: Point = keys.iter().map(|(key, d)| (key.clone(), d.ends().swap_remove(0))).collect();
        let proposal = |values| Proposal { number: 1, rung: 0, epochs: self.plan.epochs, values };
        let hash = |values| -> Result<String> {
            let recipe = self.recipe(&proposal(values))?;
            Ok(recipe.rows[0].settings_sha256(&recipe))
        };
        let reference = hash(first.clone())?;
        for (key, domain) in keys {
            if IMAGES.contains(&key.as_str()) {
                let message = format!("`keys.\"{key}\"`: trials are compared on the same images");
                return Err(self.error(message));
            }
            let others = domain.ends().into_iter().skip(1);
            let hashes = others.map(|value| {
                let mut point = first.clone();
                point.insert(key.clone(), value);
                hash(point)
            });
            let hashes = hashes.collect::<Result<Vec<_>>>()?;
            if !hashes.is_empty() && hashes.iter().all(|h| *h == reference) {
                return Err(self.error(format!(
                    "`keys.\"{key}\"` changes no result: either it is the same for all trials of a search, or something in {} \
                     overrides it",
                    self.base.place()
                )));
            }
        }
        Ok(())
    }

    fn error(&self, message: String) -> Error {
        Error::Config { place: self.place.clone(), message }
    }

    /// The recipe of a proposal, with one row.
    ///
    /// # Errors
    /// [`Error::Config`] with file and key.
    pub fn recipe(&self, proposal: &Proposal) -> Result<Recipe> {
        let mut config = self.base.clone();
        let here = |e: Error, key: &str| match e {
            Error::Config { message, .. } => self.error(format!("{key}{message}")),
            other => other,
        };
        for (key, value) in &proposal.values {
            config
                .set(&format!("{key}={value}"))
                .map_err(|e| here(e, &format!("`keys.\"{key}\"` = {value}: ")))?;
        }
        let epochs = i64::try_from(proposal.epochs)
            .map_err(|_| self.error(format!("`epochs` is {}, which is too many", proposal.epochs)))?;
        config.set_value("train.epochs", epochs)?;
        let mut recipe = config.check().map_err(|e| here(e, ""))?;
        // The images are cut before.
        let cut = DataRecipe { validation: 0, train_limit: None, test_limit: None, ..recipe.data };
        recipe.data = cut;
        for row in &mut recipe.rows {
            *row = RowRecipe {
                id: proposal.id(),
                position: proposal.number,
                label: format!("trial {}", proposal.number),
                // One bad trial is no reason to lose the others.
                nonfinite: NonFinite::Mark,
                metric: MetricKind::Last,
                published: None,
                baseline: None,
                note: String::new(),
                ..row.clone()
            };
        }
        Ok(recipe)
    }

    /// Cohorts of these proposals: those whose recipes are the same but for their rows are trained together.
    ///
    /// # Errors
    /// As [`Search::recipe`].
    pub fn cohorts(&self, proposals: Vec<Proposal>) -> Result<Vec<Cohort>> {
        let shared = |recipe: &Recipe| Recipe { rows: Vec::new(), ..recipe.clone() };
        let mut cohorts: Vec<Cohort> = Vec::new();
        for proposal in proposals {
            let mut recipe = self.recipe(&proposal)?;
            match cohorts.iter_mut().find(|c| shared(&c.recipe) == shared(&recipe)) {
                Some(cohort) => {
                    cohort.recipe.rows.append(&mut recipe.rows);
                    cohort.proposals.push(proposal);
                }
                None => cohorts.push(Cohort { recipe, proposals: vec![proposal] }),
            }
        }
        Ok(cohorts)
    }

    /// The images of the search: the training images without those that are held out, and in the place of the test images those.
    /// The test images are left behind, so that no trial can see them.
    ///
    /// # Errors
    /// [`Error::Config`] if more are to be held out than there are.
    pub fn cut(&self, data: &Dataset) -> Result<Dataset> {
        let recipe = self.base.check()?;
        let cut = DataRecipe { validation: self.validation, ..recipe.data };
        let splits = cut.splits(data, recipe.train.seed);
        let Splits { mut train, validation, .. } =
            splits.map_err(|e| self.error(format!("`validation` is {}: {e}", self.validation)))?;
        let test = validation.ok_or_else(|| self.error("`validation` is 0".to_owned()))?;
        // For a run these are all training images there are: numbers of others would point beyond the end of its tables.
        train.origin = (0..train.len() as u32).collect();
        let (name, class_names) = (data.name.clone(), data.class_names.clone());
        Ok(Dataset { name, train, test, class_names, normalization: data.normalization })
    }

    /// Everything that decides what is proposed and what trials give, in TOML: a search that goes on must agree in it. The number
    /// of trials counts only where it decides what they are.
    ///
    /// # Errors
    /// [`Error::Config`] if the settings cannot be used.
    pub fn settings(&self) -> Result<String> {
        let mut all: Table = from_toml(&self.base.check()?.to_toml(), self.base.place())?;
        for key in ["name", "title", "description"] {
            all.remove(key);
        }
        let plan = &self.plan;
        let mut own = Table::new();
        let mut put = |key: &str, value: String| own.insert(key.to_owned(), Value::String(value));
        put("strategy", plan.strategy.name().to_owned());
        put("seed", plan.seed.to_string());
        put("epochs", plan.epochs.to_string());
        put("validation", self.validation.to_string());
        put("metric", plan.metric.name().to_owned());
        match plan.strategy {
            Strategy::Grid | Strategy::Random { .. } => {}
            // It learns from one batch of trials to the next.
            Strategy::Tpe { .. } => {
                put("together", plan.together.to_string());
            }
            Strategy::Halving { trials, eta, first_epochs } => {
                put("trials", trials.to_string());
                put("eta", eta.to_string());
                put("first_epochs", first_epochs.to_string());
            }
        }
        let keys: Table = plan
            .space
            .keys()
            .iter()
            .map(|(key, domain)| (key.clone(), Value::String(domain.to_string())))
            .collect();
        own.insert("keys".to_owned(), Value::Table(keys));
        all.insert("search".to_owned(), Value::Table(own));
        toml::to_string(&all).map_err(|e| self.error(format!("the settings cannot be written: {e}")))
    }
}
