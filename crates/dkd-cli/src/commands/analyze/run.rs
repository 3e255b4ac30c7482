//! The records of a run or table, and its networks where they and the images are there.

use super::pairs::{self, Images, Job, Source};
use super::result::{Analysis, FORMAT_VERSION, Pairs, RunPart};
use crate::args::{AnalyzeArgs, SplitName};
use crate::commands::debug::places;
use crate::commands::invocation::Invocation;
use crate::commands::runs::{absolute, check, enter};
use crate::data::{here, names};
use anyhow::{Context, Result, bail};
use dkd_datasets::{Dataset, Split};
use dkd_trainer::analysis::{TermWeight, term_curves, term_weights};
use dkd_trainer::config::Config;
use dkd_trainer::record::{RowResult, network_file, read_records};
use dkd_trainer::{Recipe, RowRecipe, Splits};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The row of a teacher's own training.
const TEACHER: &str = "teacher";

/// What a folder holds.
struct Run {
    /// As it was named.
    shown: String,
    folder: PathBuf,
    stored: Option<Invocation>,
    recipe: Recipe,
    seed: u64,
    log: PathBuf,
    /// Folder of its weights.
    weights: PathBuf,
}

/// Analyses one seed of a run or table. Nothing in its folder changes, and it may be running.
pub fn analyze(folder: &Path, args: &AnalyzeArgs, job: &Job) -> Result<Analysis> {
    let run = Run::read(folder, args)?;
    let results = run.results(args)?;
    let mut terms = term_curves(&run.log, &mut |row, epoch| run.term_weights(row, epoch))
        .with_context(|| format!("the losses of `{}` cannot be read", run.shown))?;
    terms.retain(|t| !t.points.is_empty() && (args.rows.is_empty() || args.rows.contains(&t.row)));
    if terms.is_empty() {
        bail!(
            "`{}` tells of no step: nothing has been trained there yet, or the event log is gone. `dkd runs show {}` says how \
             far it is",
            run.log.display(),
            run.shown
        );
    }
    let mut notes = Vec::new();
    let pairs = run.pairs(&results, args, job, &mut notes)?;
    let part = RunPart { folder: run.shown, seed: run.seed, results, terms };
    Ok(Analysis { format_version: FORMAT_VERSION, run: Some(part), pairs, notes })
}

impl Run {
    fn read(folder: &Path, args: &AnalyzeArgs) -> Result<Self> {
        check(folder)?;
        let shown = folder.display().to_string();
        let folder =
            std::path::absolute(folder).with_context(|| format!("`{shown}` has no absolute path"))?;
        let stored = Invocation::read(&folder)?;
        let recipe = match &stored {
            Some(stored) => stored.recipe(&folder)?,
            None => Config::load(&folder.join("config.toml"))?.check()?,
        };
        let first =
            stored.as_ref().and_then(|s| s.table.as_ref()).map_or(recipe.train.seed, |t| t.first_seed);
        let seed = args.seed.unwrap_or(first);
        let known = |row: &String| row == TEACHER || recipe.rows.iter().any(|r| r.id == *row);
        if let Some(row) = args.rows.iter().find(|row| !known(row)) {
            let known: Vec<&str> = recipe.rows.iter().map(|r| r.id.as_str()).collect();
            bail!("there is no row `{row}` in `{shown}`; it has: {}", known.join(", "));
        }
        let (log, weights) = places(&folder, seed);
        Ok(Self { shown, folder, stored, recipe, seed, log, weights })
    }

    fn wanted<'a>(&'a self, args: &'a AnalyzeArgs) -> impl Iterator<Item = &'a RowRecipe> {
        self.recipe.rows.iter().filter(|r| args.rows.is_empty() || args.rows.contains(&r.id))
    }

    /// Results of the seed, the teacher's first.
    fn results(&self, args: &AnalyzeArgs) -> Result<Vec<RowResult>> {
        let all = read_records(&self.folder)
            .with_context(|| format!("the records of `{}` cannot be read", self.shown))?;
        let seeds: BTreeSet<u64> = all.iter().map(|r| r.seed).collect();
        if !seeds.is_empty() && !seeds.contains(&self.seed) {
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            bail!("`{}` has no records of seed {}; it has: {}", self.shown, self.seed, seeds.join(", "));
        }
        let mut own: Vec<RowResult> = all
            .into_iter()
            .filter(|r| r.seed == self.seed && (args.rows.is_empty() || args.rows.contains(&r.row)))
            .collect();
        own.sort_by_key(|r| r.position);
        Ok(own)
    }

    fn term_weights(&self, row: &str, epoch: usize) -> Vec<TermWeight> {
        match self.recipe.rows.iter().find(|r| r.id == row) {
            Some(recipe) => term_weights(recipe, epoch),
            // Its own training has one term.
            None if row == TEACHER => vec![TermWeight { name: "ce".to_owned(), weight: 1.0 }],
            None => Vec::new(),
        }
    }

    /// Students beside their teacher; `None`, with a note, where something for that is not there.
    fn pairs(
        &self,
        results: &[RowResult],
        args: &AnalyzeArgs,
        job: &Job,
        notes: &mut Vec<String>,
    ) -> Result<Option<Pairs>> {
        let Some(data) = self.data(results, args, notes)? else { return Ok(None) };
        let (Some(teacher), students) = (self.teacher(notes), self.students(args, notes)) else {
            return Ok(None);
        };
        if students.is_empty() {
            return Ok(None);
        }
        let split = self.split(&data, args.split)?;
        let images = Images {
            dataset: data.name,
            split_name: args.split.name(),
            split: Arc::new(match args.images {
                Some(n) => split.first(n),
                None => split,
            }),
            class_names: data.class_names,
            normalization: data.normalization,
        };
        // What one network has does not keep the others from being shown.
        let mut examine = |source: &Source| {
            let found = pairs::examine(source, &images, job, notes);
            found.map_err(|e| notes.push(format!("{}: {e:#}", source.name))).ok()
        };
        let Some(teacher) = examine(&teacher) else { return Ok(None) };
        let students: Vec<_> = students.iter().filter_map(examine).collect();
        if students.is_empty() {
            return Ok(None);
        }
        pairs::compared(teacher, students, &images, job).map(Some)
    }

    /// The images, if they are here: nothing is fetched for this.
    fn data(
        &self,
        results: &[RowResult],
        args: &AnalyzeArgs,
        notes: &mut Vec<String>,
    ) -> Result<Option<Dataset>> {
        if self.recipe.teacher.is_none() {
            notes.push("the run had no teacher that its weights could be compared with".to_owned());
            return Ok(None);
        }
        let given = args.source.data.as_deref().map(absolute).transpose()?;
        let source = given.as_deref().or(self.stored.as_ref().map(|s| s.data.as_str()));
        let (dataset, source) = names(source, args.source.dataset.as_deref(), &self.recipe.data.dataset)?;
        if let Some(stored) = &self.stored {
            // Relative paths, also the teacher's, are the run's.
            enter(stored);
        }
        let data = match here(&dataset, &source, self.recipe.data.image_size) {
            Ok(Some(data)) => data,
            Err(e) if given.is_some() => return Err(e),
            missing => {
                let reason = missing.err().map_or_else(String::new, |e| format!(" ({e:#})"));
                notes.push(format!(
                    "the networks are not compared: {dataset} is not here{reason}; name a folder with --data DIR"
                ));
                return Ok(None);
            }
        };
        let trained_on = results.iter().map(|r| r.data.sha256.as_str()).find(|s| !s.is_empty());
        if trained_on.is_some_and(|sha256| sha256 != data.fingerprint()) {
            notes.push("the networks are compared on other images than those of the run".to_owned());
        }
        Ok(Some(data))
    }

    fn teacher(&self, notes: &mut Vec<String>) -> Option<Source> {
        let recipe = self.recipe.teacher.as_ref()?;
        let own = self.weights.join(format!("{TEACHER}-{}.safetensors", self.seed));
        let file = recipe.weights.clone().unwrap_or(own);
        if !file.is_file() {
            notes.push(format!("the networks are not compared: there is no teacher, `{}`", file.display()));
            return None;
        }
        let mut source = Source::new(TEACHER, &file, Some(&self.model(&recipe.model)));
        source.weights.key.clone_from(&recipe.key);
        Some(source)
    }

    /// A network's name, or its file if it is not of the list.
    fn model(&self, name: &str) -> String {
        if self.recipe.networks.contains_key(name) {
            return network_file(&self.folder, name).display().to_string();
        }
        name.to_owned()
    }

    fn students(&self, args: &AnalyzeArgs, notes: &mut Vec<String>) -> Vec<Source> {
        let mut found = Vec::new();
        for row in self.wanted(args) {
            let last = self.folder.join("last.safetensors");
            let own = self.weights.join(format!("{}-{}.safetensors", row.id, self.seed));
            let file = if self.recipe.rows.len() == 1 && last.is_file() { last } else { own };
            if file.is_file() {
                found.push(Source::new(&row.id, &file, Some(&self.model(&row.model))));
            } else {
                notes.push(format!("{}: not compared, since it has no weights yet", row.id));
            }
        }
        found
    }

    /// The images of a split as the run cut it.
    fn split(&self, data: &Dataset, which: SplitName) -> Result<Split> {
        let Splits { train, validation, test } = self.recipe.data.splits(data, self.seed)?;
        Ok(match which {
            SplitName::Train => train,
            SplitName::Test => test,
            SplitName::Validation => validation.with_context(|| {
                format!("`{}` held no images out (data.validation is 0): --split train or test", self.shown)
            })?,
        })
    }
}
