//! `dkd train` and `dkd distill`.

use super::invocation::Invocation;
use super::{REVISION, resume, tell_cache, tell_memory};
use crate::args::{Common, DistillArgs, TrainArgs};
use crate::compute::compute;
use crate::data::{names, obtain_until};
use crate::output;
use crate::progress::{Progress, Several};
use crate::signals::stop_flag;
use anyhow::{Context as _, Result, bail};
use dkd_trainer::checkpoint::{Identity, Store};
use dkd_trainer::config::Config;
use dkd_trainer::record::{DataInfo, Host, RowResult, RunFolder, describe};
use dkd_trainer::{Context, run};
use std::path::PathBuf;

/// Trains one network.
pub fn train(args: &TrainArgs, common: &Common) -> Result<()> {
    start(args, configure(args)?, common)
}

/// Trains one student with a teacher.
pub fn distill(args: &DistillArgs, common: &Common) -> Result<()> {
    let mut config = configure(&args.train)?;
    if let Some(model) = &args.teacher_model {
        config.set_value("teacher.model", model.as_str())?;
    }
    if let Some(weights) = &args.teacher_weights {
        config.set_value("teacher.weights", weights.display().to_string())?;
    }
    let settings = [("temperature", args.temperature), ("alpha", args.alpha), ("beta", args.beta)];
    if let Some(method) = &args.method {
        let mut loss = toml::Table::new();
        loss.insert("method".to_owned(), method.as_str().into());
        for (key, value) in settings.iter().filter_map(|(k, v)| Some((*k, (*v)?))) {
            loss.insert(key.to_owned(), value.into());
        }
        if let Some(epochs) = args.warmup {
            loss.insert("warmup_epochs".to_owned(), i64::try_from(epochs)?.into());
        }
        let ce: toml::Table = [("method".to_owned(), "ce".into())].into_iter().collect();
        config.set_value("loss", toml::Value::Array(vec![ce.into(), loss.into()]))?;
    } else if args.warmup.is_some() {
        bail!("--warmup needs --method; a file's losses are overridden by --set loss.1.warmup_epochs=…");
    } else if let Some((key, _)) = settings.iter().find(|(_, v)| v.is_some()) {
        bail!("--{key} needs --method; settings of a file's losses are overridden by --set loss.1.{key}=…");
    }
    if config.raw()?.teacher.is_none() {
        bail!("distillation needs a teacher: --teacher-model M, or a [teacher] in --config FILE");
    }
    if let [row] = &config.check()?.rows[..]
        && !row.needs_teacher()
    {
        bail!(
            "the loss is {} alone, which has no use for a teacher: --method kd or dkd, or a [[loss]] in --config FILE",
            row.setting()
        );
    }
    start(&args.train, config, common)
}

fn configure(args: &TrainArgs) -> Result<Config> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::parse("", "options")?,
    };
    if let Some(model) = &args.model {
        config.set_value("student.model", model.as_str())?;
    }
    if let Some(epochs) = args.epochs {
        config.set_value("train.epochs", i64::try_from(epochs)?)?;
    }
    if let Some(seed) = args.seed {
        config.set_value("train.seed", i64::try_from(seed)?)?;
    }
    for assignment in &args.set {
        config.set(assignment)?;
    }
    if config.raw()?.student.model.is_none() {
        bail!("which network? --model M (`dkd inspect` lists them) or student.model in --config FILE");
    }
    Ok(config)
}

/// Trains with settings from whatever place; of the options, only those that are no settings count.
pub(super) fn start(args: &TrainArgs, mut config: Config, common: &Common) -> Result<()> {
    let (compute, stop) = (compute(common)?, stop_flag()?);
    let configured = config.raw()?.data.dataset.unwrap_or_else(|| "cifar10".to_owned());
    let (dataset, source) = names(args.source.data.as_deref(), args.source.dataset.as_deref(), &configured)?;
    config.set_value("data.dataset", dataset.as_str())?;
    let recipe = config.check()?;
    let [row] = &recipe.rows[..] else {
        bail!("`{}` has {} rows; `dkd table` trains tables", config.place(), recipe.rows.len());
    };
    let data = obtain_until(&dataset, &source, recipe.data.image_size, &stop)?;
    let seed = recipe.train.seed;
    let default = || PathBuf::from(format!("runs/{}-{seed}", row.model));
    let out = args.out.clone().unwrap_or_else(default);
    let (host, about) = (Host::here(&compute, REVISION), DataInfo::of(&data));
    let folder = RunFolder::create(&out, &host)?;
    let identity = Identity { config: recipe.to_toml(), data: about.sha256.clone(), seed };
    let resume = &args.resume;
    let start = resume::start(folder.path(), "events.jsonl", recipe.checkpoints, identity, resume)?;
    tell_cache(&recipe, &data)?;
    tell_memory(&recipe, &data, &compute)?;
    describe(folder.path(), &recipe, &host, &about)?;
    Invocation::new(&source, &recipe, resume, common)?.store(folder.path())?;
    let (mut progress, mut events) = (Progress::new(), start.records);
    let mut sink = Several(vec![&mut progress, &mut events]);
    let last = Some(folder.path().join("last.safetensors"));
    let store = start.checkpoints.folder.clone();
    let mut context = Context {
        compute: compute.clone(),
        sink: &mut sink,
        weights: Some(folder.path().to_owned()),
        host: Some(host),
        last,
        stop: &stop,
        checkpoints: Some(start.checkpoints),
        resume: start.resume,
        probe: None,
    };
    let results = run(&recipe, &data, seed, &mut context)?;
    let result = results.last().context("a run has a result")?;
    folder.finish(result)?;
    Store::new(&store, seed).clear()?;
    output::text(&summary(result, folder.path()))
}

fn summary(result: &RowResult, folder: &std::path::Path) -> String {
    let percent = |v: Option<f64>| v.map_or_else(|| "none".to_owned(), |v| format!("{v:.2} %"));
    let mut text = format!(
        "{} on {}: test accuracy {} after the last of {} epochs",
        result.model,
        result.data.name,
        percent(result.last),
        result.epochs.len()
    );
    if let Some(epoch) = result.validation_chosen_epoch {
        text.push_str(&format!(
            "; {} at epoch {epoch}, chosen on validation",
            percent(result.validation_chosen)
        ));
    }
    if let Some(d) = &result.diverged {
        text.push_str(&format!("; `{}` was not finite from epoch {}, step {}", d.term, d.epoch, d.step));
    }
    format!("{text}\n{}\n", folder.display())
}
