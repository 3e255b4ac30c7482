//! `dkd debug`: one step of a run, from inside.

use super::invocation::Invocation;
use super::runs::enter;
use crate::args::{Common, DebugArgs};
use crate::compute::compute;
use crate::data::{names, obtain_until};
use crate::output::{self, columns, shorten};
use crate::progress::Progress;
use crate::signals::stop_flag;
use anyhow::{Context as _, Result, bail};
use dkd_trainer::checkpoint::{Snapshot, Store};
use dkd_trainer::config::Config;
use dkd_trainer::debug::{Probe, Spread, StepReport};
use dkd_trainer::record::read_events;
use dkd_trainer::{Context, Error, Event, Recipe, run};
use std::path::{Path, PathBuf};

/// Replays a run from its last checkpoint before a step, and shows that step layer by layer. Nothing in the folder changes.
pub fn debug(args: &DebugArgs, common: &Common) -> Result<()> {
    let compute = compute(common)?;
    let stop = stop_flag()?;
    let run_folder = std::path::absolute(&args.run)?;
    let stored = Invocation::read(&run_folder)?;
    let recipe = match &stored {
        Some(stored) => stored.recipe(&run_folder)?,
        None => Config::load(&run_folder.join("config.toml"))?.check()?,
    };
    let seed = args.seed.unwrap_or(recipe.train.seed);
    let _lock = dkd_files::FolderLock::acquire(&run_folder, "dkd debug")?;
    let (log, weights) = places(&run_folder, seed);
    let probe = match args.step {
        Some(step) => Probe { step, teacher: args.teacher, ..Probe::default() },
        None => last_bad(&log)?,
    };
    if let Some(row) = &args.row
        && !recipe.rows.iter().any(|r| r.id == *row)
    {
        let known: Vec<&str> = recipe.rows.iter().map(|r| r.id.as_str()).collect();
        bail!("there is no row `{row}` in {}; it has: {}", args.run.display(), known.join(", "));
    }
    let elsewhere = args.source.data.as_deref();
    let source = elsewhere.or(stored.as_ref().map(|s| s.data.as_str()));
    let (dataset, source) = names(source, args.source.dataset.as_deref(), &recipe.data.dataset)?;
    if let Some(stored) = stored.filter(|_| elsewhere.is_none()) {
        // Relative paths are the run's.
        enter(&stored);
    }
    let data = obtain_until(&dataset, &source, recipe.data.image_size, &stop)?;
    let resume = before(&run_folder, seed, &probe, &data.fingerprint())?;
    let mut progress = Progress::new();
    let wanted = probe.step;
    let mut context = Context {
        compute: compute.clone(),
        sink: &mut progress,
        weights: Some(weights),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: None,
        resume,
        probe: Some(probe),
    };
    let ended = run(&without_rewinds(recipe), &data, seed, &mut context);
    let reports = context.probe.take().map(|p| p.reports).unwrap_or_default();
    let reports: Vec<StepReport> =
        reports.into_iter().filter(|r| args.row.as_ref().is_none_or(|row| r.row == *row)).collect();
    match ended {
        Err(Error::Interrupted { .. }) if !reports.is_empty() => {}
        Err(e) => return Err(e.into()),
        Ok(_) => bail!("no row was trained in step {wanted}: the run ends before it, or they had ended"),
    }
    if args.json {
        return output::json(&serde_json::to_value(&reports).context("reports are JSON")?);
    }
    output::text(&reports.iter().map(render).collect::<Vec<_>>().join("\n"))
}

/// Log and weights of a run's or a table's folder.
pub(super) fn places(folder: &Path, seed: u64) -> (PathBuf, PathBuf) {
    let single = folder.join("events.jsonl");
    if single.is_file() {
        return (single, folder.to_owned());
    }
    (folder.join(format!("events-{seed}.jsonl")), folder.join("weights"))
}

/// A replay makes the same steps without going back: the checkpoint that it starts from is already the one gone back to.
fn without_rewinds(mut recipe: Recipe) -> Recipe {
    for row in &mut recipe.rows {
        if row.nonfinite == dkd_trainer::NonFinite::Rewind {
            row.nonfinite = dkd_trainer::NonFinite::Stop;
        }
    }
    recipe
}

/// The step of the last row that was not finite.
fn last_bad(log: &Path) -> Result<Probe> {
    let mut found = None;
    for event in read_events(log)? {
        if let Event::Diverged { row, step, .. } | Event::Skipped { row, step, .. } = event? {
            found = Some(Probe { step, teacher: row == "teacher", ..Probe::default() });
        }
    }
    found.with_context(|| {
        format!(
            "{} tells of no loss or gradient that was not finite: name a step with --step N",
            log.display()
        )
    })
}

/// The last checkpoint that was made before the step.
fn before(folder: &Path, seed: u64, probe: &Probe, data: &str) -> Result<Option<Snapshot>> {
    let store = Store::new(&folder.join("checkpoints"), seed);
    let found = store.newest(|s| {
        let place = s.header.place;
        if s.header.identity.data != data {
            return Err(Error::Invalid("it was made with other images".to_owned()));
        }
        if place.teacher != probe.teacher || place.done > probe.step {
            return Err(Error::Invalid("it was made after the step".to_owned()));
        }
        Ok(())
    })?;
    match &found.snapshot {
        Some((path, _)) => output::note(&format!("replaying from {}", path.display())),
        None => {
            output::note("there is no usable checkpoint from before the step: replaying from the beginning")
        }
    }
    Ok(found.snapshot.map(|(_, snapshot)| snapshot))
}

fn render(report: &StepReport) -> String {
    let terms: Vec<String> = report.terms.iter().map(|t| format!("{} {}", t.name, t.value)).collect();
    let mut text = format!(
        "row {}: epoch {}, step {}, learning rate {}\nloss {} ({}); norm of the gradient {:.4e}\n",
        report.row,
        report.epoch,
        report.step,
        report.lr,
        report.loss,
        terms.join(", "),
        report.gradient_norm
    );
    if let Some(origin) = &report.origin {
        text.push_str(&format!("not finite first: {}; samples {}\n", origin.place, origin.samples_text()));
    }
    let head = ["layer's output", "min", "max", "rms", "not finite"].map(str::to_owned).to_vec();
    let mut rows = vec![head, cells("(images)", &report.images)];
    rows.extend(report.layers.iter().map(|l| cells(&l.name, &l.values)));
    rows.extend(report.teacher.iter().map(|t| cells("(teacher's logits)", t)));
    text.push_str(&format!("\n{}", columns(&rows, 1)));
    let head =
        ["parameter", "min", "max", "gradient min", "max", "rms", "not finite"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for p in &report.parameters {
        let [name, min, max, _, bad] = cells(&p.name, &p.values).try_into().unwrap_or_default();
        let mut row = vec![name, min, max];
        match &p.gradient {
            Some(g) => row.extend(cells("", g).into_iter().skip(1)),
            None => row.extend([String::new(), String::new(), String::new(), bad]),
        }
        rows.push(row);
    }
    text.push_str(&format!("\n{}", columns(&rows, 1)));
    text
}

/// A name and a spread; nothing where there are no values.
fn cells(name: &str, s: &Spread) -> Vec<String> {
    let number = |v: f64| if v.is_finite() { format!("{v:.2e}") } else { "–".to_owned() };
    let bad = if s.nonfinite == 0 { String::new() } else { format!("{} of {}", s.nonfinite, s.count) };
    vec![shorten(name, 28), number(f64::from(s.min)), number(f64::from(s.max)), number(s.rms), bad]
}
