//! `dkd table`.

use super::invocation::{Invocation, TableOptions};
use super::{REVISION, resume, tell_cache, tell_memory};
use crate::args::{Common, TableArgs};
use crate::compute::compute;
use crate::data::{names, obtain_until};
use crate::progress::{Progress, Several};
use crate::signals::stop_flag;
use crate::{output, report};
use anyhow::{Result, bail};
use dkd_datasets::Dataset;
use dkd_trainer::checkpoint::{Identity, Store};
use dkd_trainer::config::Config;
use dkd_trainer::record::{DataInfo, Host, RowResult, describe, read_results};
use dkd_trainer::{Context, Recipe, run};
use std::path::{Path, PathBuf};

/// What `--quick` makes of a table.
///
/// The steps are small and end at zero: with a table's own, so short a run ends while a loss with large gradients, such as
/// KD at T = 4, still jumps about.
const QUICK: [&str; 5] = [
    "train.epochs=4",
    "data.train_limit=10000",
    "data.test_limit=2000",
    "optimizer.lr=0.005",
    "schedule={ kind = \"cosine\" }",
];

/// The most that `--quick` holds out for validation.
const QUICK_VALIDATION: usize = 1_000;

/// Trains a table's rows and reports them.
pub fn table(args: &TableArgs, common: &Common) -> Result<()> {
    let mut config = Config::load(&args.file)?;
    if args.quick {
        for assignment in QUICK {
            config.set(assignment)?;
        }
    }
    if let Some(epochs) = args.epochs {
        config.set_value("train.epochs", i64::try_from(epochs)?)?;
    }
    for assignment in &args.set {
        config.set(assignment)?;
    }
    let configured = config.raw()?.data.dataset.unwrap_or_else(|| "cifar10".to_owned());
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), &configured)?;
    config.set_value("data.dataset", dataset.as_str())?;
    let mut recipe = config.check()?;
    if args.quick {
        shrink(&mut recipe);
    }
    let rows = select(&recipe, args)?;
    fill(&recipe, &rows, &source, args, common)
}

/// Trains these rows of `whole`, with settings from whatever place; of the options, only those that are no settings count.
pub(super) fn fill(
    whole: &Recipe,
    rows: &[String],
    source: &str,
    args: &TableArgs,
    common: &Common,
) -> Result<()> {
    let (compute, stop) = (compute(common)?, stop_flag()?);
    let mut recipe = whole.clone();
    recipe.rows.retain(|row| rows.contains(&row.id));
    let data = obtain_until(&recipe.data.dataset, source, recipe.data.image_size, &stop)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    let _lock = dkd_files::FolderLock::acquire(&out, "dkd table")?;
    for folder in std::iter::once(out.join("results")).chain(args.results.clone()) {
        check_results(&folder, &recipe, &data)?;
    }
    let (host, about) = (Host::here(&compute, REVISION), DataInfo::of(&data));
    let first = args.seed.unwrap_or(recipe.train.seed);
    let options = TableOptions {
        rows: rows.to_vec(),
        first_seed: first,
        seeds: args.seeds.max(1),
        results: args.results.clone(),
    };
    tell_cache(&recipe, &data)?;
    tell_memory(&recipe, &data, &compute)?;
    let (config, sha256) = (recipe.to_toml(), about.sha256.clone());
    for seed in first..first + options.seeds {
        let store = Store::new(&out.join("checkpoints"), seed);
        if args.resume.resume && is_complete(&out, &recipe, &sha256, seed)? {
            output::note(&format!("seed {seed} is complete"));
            store.clear()?;
            continue;
        }
        let identity = Identity { config: config.clone(), data: sha256.clone(), seed };
        let log = format!("events-{seed}.jsonl");
        let start = resume::start(&out, &log, recipe.checkpoints, identity, &args.resume)?;
        describe(&out, &recipe, &host, &about)?;
        let mut invocation = Invocation::new(source, whole, &args.resume, common)?;
        invocation.table = Some(options.clone());
        invocation.store(&out)?;
        let (mut progress, mut events) = (Progress::new(), start.records);
        let mut sink = Several(vec![&mut progress, &mut events]);
        let mut context = Context {
            compute: compute.clone(),
            sink: &mut sink,
            weights: Some(out.join("weights")),
            host: Some(host.clone()),
            last: None,
            stop: &stop,
            checkpoints: Some(start.checkpoints),
            resume: start.resume,
            probe: None,
        };
        for result in run(&recipe, &data, seed, &mut context)? {
            result.write(&out.join("results"))?;
            if let Some(folder) = &args.results {
                result.write(folder)?;
            }
        }
        store.clear()?;
    }
    let results = report::merge(read_results(&out.join("results"))?)?;
    report::write(&results, &out)?;
    output::text(&report::terminal(&results))?;
    output::line(&format!("\nreport: {}", out.join("report.html").display()))
}

/// Whether all rows of a seed have results, of these settings and images.
fn is_complete(out: &Path, recipe: &Recipe, sha256: &str, seed: u64) -> Result<bool> {
    let folder = out.join("results").join(&recipe.name);
    if !folder.is_dir() {
        return Ok(false);
    }
    let mut results = read_results(&folder)?;
    results.retain(|r| r.data.sha256 == sha256);
    Ok(covers(&results, recipe, seed))
}

/// Whether `results` has all rows of a seed, with these settings.
pub(super) fn covers(results: &[RowResult], recipe: &Recipe, seed: u64) -> bool {
    recipe.rows.iter().all(|row| {
        let settings = row.settings_sha256(recipe);
        results.iter().any(|r| r.row == row.id && r.seed == seed && r.settings_sha256 == settings)
    })
}

/// Refuses to overwrite results of the same table with other settings or images.
fn check_results(folder: &Path, recipe: &Recipe, data: &Dataset) -> Result<()> {
    let own = folder.join(&recipe.name);
    if !own.is_dir() {
        return Ok(());
    }
    let sha256 = data.fingerprint();
    for old in read_results(&own)? {
        let Some(row) = recipe.rows.iter().find(|r| r.id == old.row) else { continue };
        let settings = row.settings_sha256(recipe);
        let same = old.settings_sha256.is_empty() || old.settings_sha256 == settings;
        if !same || old.data.sha256 != sha256 {
            bail!(
                "{} has a result of row `{}` with other {}; choose another --out or --results, or remove it",
                own.display(),
                old.row,
                if same { "images" } else { "settings" }
            );
        }
    }
    Ok(())
}

/// The rows that were asked for.
fn select(recipe: &Recipe, args: &TableArgs) -> Result<Vec<String>> {
    let known: Vec<String> = recipe.rows.iter().map(|r| r.id.clone()).collect();
    if let Some(unknown) = args.rows.iter().find(|r| !known.contains(r)) {
        bail!("there is no row `{unknown}` in {}; it has: {}", args.file.display(), known.join(", "));
    }
    if !args.rows.is_empty() {
        return Ok(args.rows.clone());
    }
    let quick: Vec<String> = recipe.rows.iter().filter(|r| r.quick).map(|r| r.id.clone()).collect();
    Ok(if args.quick && !quick.is_empty() { quick } else { known })
}

/// What else `--quick` does.
fn shrink(recipe: &mut Recipe) {
    recipe.data.validation = recipe.data.validation.min(QUICK_VALIDATION);
    if let Some(teacher) = &mut recipe.teacher {
        teacher.epochs = teacher.epochs.min(recipe.train.epochs);
    }
}
