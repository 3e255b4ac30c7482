//! `dkd search`.

mod cohort;
mod pictures;
mod report;
mod tables;

use super::REVISION;
use super::settings::differences;
use crate::args::{Common, SearchArgs};
use crate::compute::compute;
use crate::data::{names, obtain_until};
use crate::output;
use crate::signals::stop_flag;
use anyhow::{Context, Result, bail};
use cohort::Job;
use dkd_datasets::Dataset;
use dkd_trainer::record::Host;
use dkd_trainer::search::{About, Search, State, standing};
use std::path::Path;

/// The search and what it has found, in its folder.
const STATE: &str = "search.json";

/// Searches for settings.
pub fn search(args: &SearchArgs, common: &Common) -> Result<()> {
    let mut search = Search::load(&args.file)?;
    if let Some(trials) = args.trials {
        search.plan.strategy = search.plan.strategy.with_trials(trials).context("--trials")?;
    }
    if let Some(epochs) = args.epochs {
        search.plan.epochs = epochs;
    }
    let configured = search.base().raw()?.data.dataset.unwrap_or_else(|| "cifar10".to_owned());
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), &configured)?;
    search.set_dataset(&dataset)?;
    search.check()?;
    let (compute, stop) = (compute(common)?, stop_flag()?);
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("search-{}", search.name)));
    let path = out.join(STATE);
    // Before anything is fetched.
    if path.exists() && !args.resume {
        bail!(
            "{} holds a search: --resume goes on with it; to begin anew, choose another --out or remove that folder",
            out.display()
        );
    }
    let recipe = search.base().check()?;
    // The test images go here; nothing below sees them.
    let data = search.cut(&obtain_until(&dataset, &source, recipe.data.image_size, &stop)?)?;
    let sha256 = data.fingerprint();
    let _lock = dkd_files::FolderLock::acquire(&out, "dkd search")?;
    let fresh = State::new(about(&search, &data, recipe.train.seed), search.settings()?, sha256.clone());
    let mut state = if path.exists() { stored(&path, fresh)? } else { fresh };
    state.write(&path)?;
    let host = Host::here(&compute, REVISION);
    let job = Job { compute: &compute, host: &host, stop: &stop, data: &data, sha256: &sha256, out: &out };
    let planned: usize = search.plan.rungs()?.iter().map(|rung| rung.trials).sum();
    loop {
        let proposals = search.plan.next(&state.trials)?;
        if proposals.is_empty() {
            break;
        }
        for cohort in search.cohorts(proposals)? {
            state.extend(cohort::train(&cohort, &job)?);
            state.write(&path)?;
            cohort::tidy(&cohort, &job)?;
            output::note(&so_far(&state, planned));
        }
    }
    report::write(&search, &state, &out)?;
    if args.json {
        return output::line(&serde_json::to_string(&state).context("a search is JSON")?);
    }
    output::text(&report::terminal(&search, &state))?;
    output::line(&format!("\nreport: {}", out.join(report::PAGE).display()))
}

fn about(search: &Search, data: &Dataset, seed: u64) -> About {
    About {
        name: search.name.clone(),
        strategy: search.plan.strategy.name().to_owned(),
        metric: search.plan.metric,
        dataset: data.name.clone(),
        synthetic: data.is_synthetic(),
        train_images: data.train.len(),
        held_out_images: data.test.len(),
        seed,
    }
}

/// The search to go on with, if it is this one. One that has found nothing yet may as well be another.
fn stored(path: &Path, fresh: State) -> Result<State> {
    let stored = State::read(path)?;
    if stored.trials.is_empty() {
        return Ok(fresh);
    }
    let different: Vec<String> = differences(&[&stored.settings, &fresh.settings])?
        .into_iter()
        .map(|(key, values)| format!("{key} was {}", values.join(", is ")))
        .collect();
    if !different.is_empty() {
        bail!(
            "{} is another search: {}. Go on with the same one, or choose another --out",
            path.display(),
            different.join("; ")
        );
    }
    if stored.data != fresh.data {
        bail!("{} is a search on other images; choose another --out", path.display());
    }
    Ok(stored)
}

/// How far a search is.
fn so_far(state: &State, planned: usize) -> String {
    let best = standing(&state.trials, state.about.metric).into_iter().find(|t| Some(t.number) == state.best);
    let best = best.map_or_else(
        || "none that did not diverge".to_owned(),
        |t| format!("best: trial {}, {}", t.number, tables::measured(t, state.about.metric)),
    );
    format!("{} of {planned} trials; {best}", state.trials.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkd_trainer::search::{Metric, Proposal, Trial};

    #[test]
    fn only_the_same_search_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE);
        let state = |epochs: usize, data: &str| {
            let about = About {
                name: "n".to_owned(),
                strategy: "random".to_owned(),
                metric: Metric::Top1,
                dataset: "synthetic".to_owned(),
                synthetic: true,
                train_images: 3,
                held_out_images: 1,
                seed: 0,
            };
            State::new(about, format!("[search]\nepochs = \"{epochs}\""), data.to_owned())
        };
        let mut old = state(1, "a");
        old.write(&path).unwrap();
        assert_eq!(stored(&path, state(2, "a")).unwrap(), state(2, "a"), "nothing would be lost");
        let proposal = Proposal { number: 1, rung: 0, epochs: 1, values: Default::default() };
        old.extend(vec![Trial::new(&proposal, Some(50.0), None)]);
        old.write(&path).unwrap();
        assert_eq!(stored(&path, state(1, "a")).unwrap(), old);
        let message = stored(&path, state(2, "a")).unwrap_err().to_string();
        assert!(message.contains("search.epochs was \"1\", is \"2\""), "{message}");
        let message = stored(&path, state(1, "b")).unwrap_err().to_string();
        assert!(message.contains("other images"), "{message}");
        assert_eq!(so_far(&old, 4), "1 of 4 trials; best: trial 1, 50.00 %");
    }
}
