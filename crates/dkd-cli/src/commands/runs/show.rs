//! `dkd runs show`.

use super::find;
use super::folder::{Checkpoint, Kind, Run, State};
use super::list::{age, overview};
use super::{quoted, resume_command, size};
use crate::commands::settings::{NOT_SET, differences};
use crate::output::{self, columns, shorten};
use anyhow::{Context, Result};
use dkd_trainer::Recipe;
use dkd_trainer::checkpoint::Header;
use dkd_trainer::config::Config;
use dkd_trainer::record::{Host, RowResult};
use serde_json::{Value, json};
use std::path::Path;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Largest `host.json` that is read.
const HOST_LIMIT: u64 = 1 << 16;

/// Parts of settings that reports print and that decide nothing.
const WORDS: [&str; 7] = ["title", "description", "label", "note", "published", "log", "quick"];

/// Shows one run.
pub fn show(folder: &Path, json: bool) -> Result<()> {
    find::check(folder)?;
    let run = Run::read(folder).with_context(|| format!("`{}` is damaged", folder.display()))?;
    let settings = settings(&run.recipe)?;
    if json {
        return output::json(&object(&run, settings));
    }
    let mut text = head(&run);
    text.push_str(if settings.is_empty() {
        "\nall settings are the defaults\n"
    } else {
        "\nsettings that are not the defaults\n"
    });
    for (key, value) in settings {
        text.push_str(&format!("{}\n", shorten(&format!("  {key} = {value}"), WIDTH)));
    }
    if run.all_results().next().is_some() {
        text.push_str(&format!("\n{}", accuracies(&run)));
    }
    if !run.checkpoints.is_empty() {
        text.push_str(&format!("\n{}", checkpoints(&run)));
    }
    output::text(&format!("{text}\nnext: {}\n", next(&run)))
}

/// All that is known of it.
fn object(run: &Run, settings: Vec<(String, String)>) -> Value {
    let checkpoints = run.checkpoints.iter().map(|c| {
        let header = c.header.as_ref();
        json!({
            "file": c.path,
            "seed": c.seed,
            "bytes": bytes(run, c),
            "goes_on_in": header.ok().map(|h| {
                json!({"epoch": h.place.epoch, "batch": h.place.batch + 1, "teacher": h.place.teacher})
            }),
            "damage": header.err(),
        })
    });
    let mut object = overview(run);
    object["invocation"] = json!(run.invocation);
    object["host"] = json!(host(run));
    object["images"] = json!(run.data());
    object["bytes"] = json!(run.bytes());
    object["settings"] = settings.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
    object["results"] = run.all_results().map(|r| json!(r)).collect();
    object["checkpoints"] = checkpoints.collect();
    object["next"] = json!(next(run));
    object
}

/// What, where, since when, how far.
fn head(run: &Run) -> String {
    let folder = run.folder.display();
    let (done, planned) = run.progress();
    let what = match run.kind {
        Kind::Run => format!("{}, {done} of {planned} epochs", run.name()),
        Kind::Table => {
            format!("table {}, {done} of {planned} rows (seeds: {})", run.name(), seeds(&run.seeds))
        }
    };
    let mut lines = vec![format!("{folder}: {what}, {}", run.state_name())];
    match &run.state {
        State::Running(owner) => lines.push(format!("in use by   {owner}")),
        _ => lines.extend(run.damage().map(|reason| format!("damage      {reason}"))),
    }
    if let Some(invocation) = &run.invocation {
        let words: Vec<String> = invocation.arguments.iter().map(|w| quoted(w)).collect();
        lines.push(format!("started by  {}", words.join(" ")));
        lines.push(format!("in          {}", invocation.working_folder.display()));
    }
    if let Some(host) = host(run) {
        let revision = host.revision.map_or_else(String::new, |r| format!(", revision {r}"));
        let machine = format!("{}, {} threads, {}", host.cpu, host.threads, host.isa);
        lines.push(format!("host        {machine}; dkd {}{revision}; {}", host.version, host.time));
    }
    let data = run.data().map_or_else(String::new, |d| {
        let sum: String = d.sha256.chars().take(12).collect();
        format!(", {} training and {} test images, SHA-256 {sum}…", d.train_images, d.test_images)
    });
    lines.push(format!("data        {}{data}", run.recipe.data.dataset));
    lines.push(format!("on disk     {}, last written {} ago", size(run.bytes()), age(run.age_s())));
    lines.join("\n") + "\n"
}

fn seeds(seeds: &[u64]) -> String {
    seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// The machine, from the folder or from a result.
fn host(run: &Run) -> Option<Host> {
    let stored = dkd_files::read_limited(&run.folder.join("host.json"), HOST_LIMIT).ok();
    let stored = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored.or_else(|| run.results.iter().find_map(|r| r.host.clone()))
}

/// Settings that differ from those of a run for which nothing was set; what all rows of several have in common stands once.
fn settings(recipe: &Recipe) -> Result<Vec<(String, String)>> {
    let mut bare = format!("name = {:?}\n", recipe.name);
    if let Some(teacher) = &recipe.teacher {
        bare.push_str(&format!("teacher.model = {:?}\n", teacher.model));
    }
    for row in &recipe.rows {
        bare.push_str(&format!("[[rows]]\nid = {:?}\nmodel = {:?}\n", row.id, row.model));
    }
    let defaults = Config::parse(&bare, "defaults")?.check()?.to_toml();
    let ids: Vec<&str> = recipe.rows.iter().map(|r| r.id.as_str()).collect();
    let mut found: Vec<(String, String, Vec<&str>)> = Vec::new();
    for (key, mut values) in differences(&[&defaults, &recipe.to_toml()])? {
        let value = values.pop().filter(|v| v != NOT_SET);
        let Some(value) = value.filter(|_| !key.split('.').any(|part| WORDS.contains(&part))) else {
            continue;
        };
        let of_row = ids
            .iter()
            .find_map(|id| Some((*id, key.strip_prefix("rows.")?.strip_prefix(id)?.strip_prefix('.')?)));
        let Some((id, rest)) = of_row else {
            found.push((key, value, Vec::new()));
            continue;
        };
        match found.iter_mut().find(|(k, v, of)| !of.is_empty() && k == rest && *v == value) {
            Some((_, _, of)) => of.push(id),
            None => found.push((rest.to_owned(), value, vec![id])),
        }
    }
    Ok(found.into_iter().map(|(key, value, of)| (name(&key, &of, &ids), value)).collect())
}

/// A setting's name with the rows that have it.
fn name(key: &str, of: &[&str], all: &[&str]) -> String {
    match (of, all) {
        ([], _) | (_, [_]) => key.to_owned(),
        ([one], _) => format!("rows.{one}.{key}"),
        (some, all) if some.len() == all.len() => format!("rows.*.{key}"),
        (some, _) => format!("rows.{{{}}}.{key}", some.join(",")),
    }
}

/// A line for each row and seed.
fn accuracies(run: &Run) -> String {
    let head = ["row", "seed", "epochs", "last", "best on validation", "best on test"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut remarks = Vec::new();
    for result in run.all_results() {
        rows.push(vec![
            shorten(&result.row, 24),
            result.seed.to_string(),
            format!("{}/{}", result.epochs.len(), result.planned_epochs),
            result.last.map_or_else(String::new, |v| format!("{v:.2}")),
            at(result.validation_chosen, result.validation_chosen_epoch),
            at(result.best_on_test, result.best_on_test_epoch),
        ]);
        remarks.extend(diverged(result));
    }
    columns(&rows, 1) + &remarks.concat()
}

fn at(value: Option<f64>, epoch: Option<usize>) -> String {
    value.zip(epoch).map_or_else(String::new, |(value, epoch)| format!("{value:.2} ({epoch})"))
}

fn diverged(result: &RowResult) -> Option<String> {
    let d = result.diverged.as_ref()?;
    let (row, seed) = (&result.row, result.seed);
    Some(format!("{row}, seed {seed}: `{}` was not finite in epoch {}, step {}\n", d.term, d.epoch, d.step))
}

/// A line for each checkpoint, and under it what is wrong with it.
fn checkpoints(run: &Run) -> String {
    let mut rows = vec![["checkpoint", "goes on in", "", "size"].map(str::to_owned).to_vec()];
    let mut damage = String::new();
    for checkpoint in &run.checkpoints {
        let (place, whole) = match &checkpoint.header {
            Ok(header) => (place(header), "whole"),
            Err(reason) => {
                damage.push_str(&format!("{reason}\n"));
                (String::new(), "damaged")
            }
        };
        let file = checkpoint.path.strip_prefix(&run.folder).unwrap_or(&checkpoint.path);
        rows.push(vec![file.display().to_string(), place, whole.to_owned(), size(bytes(run, checkpoint))]);
    }
    columns(&rows, 3) + &damage
}

fn bytes(run: &Run, checkpoint: &Checkpoint) -> u64 {
    run.files.iter().find(|f| f.path == checkpoint.path).map_or(0, |f| f.bytes)
}

fn place(header: &Header) -> String {
    let place = header.place;
    let teacher = if place.teacher { " (teacher)" } else { "" };
    format!("epoch {}, batch {}{teacher}", place.epoch, place.batch + 1)
}

/// What to do with it.
fn next(run: &Run) -> String {
    let folder = run.folder.display();
    let command = resume_command(&run.folder, run.invocation.is_some());
    match &run.state {
        State::Running(_) => "it is being trained; Ctrl-C or SIGTERM stops it with a checkpoint".to_owned(),
        State::Damaged(_) => format!("remove the damaged file, then {command}"),
        State::Stopped if run.newest().is_some() => command,
        State::Stopped => format!("{command} (from the beginning: there is no usable checkpoint)"),
        State::Finished if run.kind == Kind::Table => format!("the report is {folder}/report.html"),
        State::Finished => {
            let weights = quoted(&run.folder.join("last.safetensors").display().to_string());
            let data = run.invocation.as_ref().map_or_else(|| "auto".to_owned(), |i| quoted(&i.data));
            format!("dkd eval --weights {weights} --dataset {} --data {data}", run.recipe.data.dataset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_set_is_shown_and_common_settings_once() {
        let text = "title = 'x'\noptimizer.lr = 0.25\ntrain.epochs = 3\nteacher.model = 'resnet8'\nteacher.epochs = 3\n\
                    student.model = 'resnet8'\n[[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nlabel = 'B'\n\
                    loss = [{ method = 'kd' }]\n[[rows]]\nid = 'c'\noptimizer.nesterov = true";
        let found = settings(&Config::parse(text, "t").unwrap().check().unwrap()).unwrap();
        let shown: Vec<String> = found.into_iter().map(|(k, v)| format!("{k} = {v}")).collect();
        for expected in [
            "rows.*.optimizer.lr = 0.25",
            "rows.b.loss.0.method = \"kd\"",
            "train.epochs = 3",
            "teacher.epochs = 3",
            "rows.c.optimizer.nesterov = true",
            "teacher.optimizer.lr = 0.25",
        ] {
            assert!(shown.iter().any(|s| s == expected), "{expected}: {shown:?}");
        }
        assert!(
            !shown.iter().any(|s| s.contains("title") || s.contains("label") || s.contains("momentum")),
            "{shown:?}"
        );
        let one =
            Config::parse("student.model = 'resnet8'\noptimizer.lr = 0.25", "t").unwrap().check().unwrap();
        assert_eq!(settings(&one).unwrap(), [("optimizer.lr".to_owned(), "0.25".to_owned())]);
        assert_eq!(name("k", &["a", "c"], &["a", "b", "c"]), "rows.{a,c}.k");
    }
}
