//! `dkd runs resume`: what `--resume` does, with the options taken from the run's folder.

use super::find;
use super::folder::{Kind, Run, State};
use crate::args::{Common, DataSource, ResumeArgs, TableArgs, TrainArgs};
use crate::commands::invocation::Invocation;
use crate::commands::{table, train};
use crate::data::names;
use crate::output;
use anyhow::{Context, Result, bail};
use dkd_trainer::Recipe;
use dkd_trainer::config::Config;
use dkd_trainer::record::Derive;
use std::path::{Path, PathBuf};

/// Goes on with a stopped run.
pub fn resume(folder: &Path, data: Option<&str>, common: &Common) -> Result<()> {
    find::check(folder)?;
    let run = Run::read(folder)?;
    let shown = folder.display();
    match &run.state {
        State::Finished => return output::line(&format!("{shown} is finished: there is nothing to do")),
        State::Running(owner) => bail!("`{shown}` is in use by {owner}; wait for it, or stop that process"),
        State::Damaged(reason) => {
            bail!("{reason}. Remove that file to have it made again from the last checkpoint")
        }
        State::Stopped => {}
    }
    let stored = run.invocation.as_ref();
    let data = match (data, stored) {
        (Some(elsewhere), _) => absolute(elsewhere)?,
        (None, Some(stored)) => stored.data.clone(),
        (None, None) => bail!(
            "`{shown}` does not say where its images came from (there is no invocation.json): --data SOURCE, as for `dkd train`"
        ),
    };
    let (dataset, source) = names(Some(&data), None, &run.recipe.data.dataset)?;
    let folder = std::path::absolute(folder).with_context(|| format!("`{shown}` has no absolute path"))?;
    let folder = if stored.is_some_and(enter) { folder } else { run.folder.clone() };
    // What was not given now is what was given then.
    let then = |now: &str, default: &str, stored: Option<&String>| {
        if now == default { stored.map_or(default, String::as_str) } else { now }.to_owned()
    };
    let libraries = stored.and_then(|s| s.cuda_libraries.clone());
    let common = Common {
        threads: if common.threads == 0 { stored.map_or(0, |s| s.threads) } else { common.threads },
        device: then(&common.device, "cpu", stored.map(|s| &s.device)),
        precision: then(&common.precision, "f32", stored.map(|s| &s.precision)),
        cuda_libraries: common.cuda_libraries.clone().or(libraries),
        cuda_algorithms: then(&common.cuda_algorithms, "rules", stored.map(|s| &s.cuda_algorithms)),
        log: common.log,
    };
    let again = Again {
        source,
        dataset,
        resume: ResumeArgs {
            resume: true,
            change: stored.map_or_else(Vec::new, |s| s.change.clone()),
            record: stored.map_or(Derive { csv: true, tensorboard: false }, |s| s.record),
        },
        folder,
    };
    match run.kind {
        Kind::Run => again.train(&run.recipe, &common),
        Kind::Table => again.table(&run, &common),
    }
}

/// The options of a run that goes on.
struct Again {
    source: String,
    dataset: String,
    resume: ResumeArgs,
    folder: PathBuf,
}

impl Again {
    fn train(self, recipe: &Recipe, common: &Common) -> Result<()> {
        let place = self.folder.join("config.toml").display().to_string();
        let config = Config::parse(&recipe.to_toml(), &place)?;
        let source = DataSource { data: Some(self.source), dataset: Some(self.dataset) };
        let args = TrainArgs { source, out: Some(self.folder), resume: self.resume, ..TrainArgs::default() };
        train::start(&args, config, common)
    }

    fn table(self, run: &Run, common: &Common) -> Result<()> {
        let options = run.invocation.as_ref().and_then(|i| i.table.as_ref());
        let (first, last) = (run.seeds.first().copied().unwrap_or(0), run.seeds.last().copied().unwrap_or(0));
        let args = TableArgs {
            seeds: last - first + 1,
            seed: Some(first),
            out: Some(self.folder),
            results: options.and_then(|o| o.results.clone()),
            resume: self.resume,
            ..TableArgs::default()
        };
        let mut whole = match &run.invocation {
            Some(stored) => stored.whole_recipe(&run.folder)?,
            None => run.recipe.clone(),
        };
        whole.data.dataset = self.dataset;
        let rows: Vec<String> = run.recipe.rows.iter().map(|r| r.id.clone()).collect();
        table::fill(&whole, &rows, &self.source, &args, common)
    }
}

/// A folder from here, since the run may have been started elsewhere.
pub(in crate::commands) fn absolute(source: &str) -> Result<String> {
    if matches!(source, "synthetic" | "auto") {
        return Ok(source.to_owned());
    }
    let path = std::path::absolute(source).with_context(|| format!("--data {source}: no absolute path"))?;
    Ok(path.display().to_string())
}

/// Goes to the folder in which a run was started, where its relative paths begin. Says whether it is another one.
pub(in crate::commands) fn enter(stored: &Invocation) -> bool {
    let there = &stored.working_folder;
    if std::env::current_dir().is_ok_and(|here| here == *there) {
        return false;
    }
    match std::env::set_current_dir(there) {
        Ok(()) => {
            output::note(&format!("in {}, where the run was started", there.display()));
            true
        }
        Err(e) => {
            output::note(&format!("the run was started in {}: {e}; staying here", there.display()));
            false
        }
    }
}
