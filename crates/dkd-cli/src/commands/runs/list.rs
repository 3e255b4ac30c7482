//! `dkd runs list`.

use super::find::find;
use super::folder::{Kind, Run, State};
use crate::output::{self, columns, shorten};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Columns of a terminal.
const WIDTH: usize = 80;

/// The widest that names of models and tables become.
const NAME: usize = 13;

/// The narrowest that folders become.
const FOLDER: usize = 10;

/// Lists the runs below some folders.
pub fn list(folders: &[PathBuf], json: bool) -> Result<()> {
    let found: Vec<(PathBuf, Result<Run>)> =
        find(folders)?.into_iter().map(|folder| (folder.clone(), Run::read(&folder))).collect();
    if json {
        return output::json(&found.iter().map(|(folder, run)| object(folder, run)).collect());
    }
    if found.is_empty() {
        let searched: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        return output::line(&format!("no runs in {}; `dkd train` makes one", searched.join(", ")));
    }
    output::text(&table(&found))
}

/// One run as JSON.
fn object(folder: &Path, run: &Result<Run>) -> Value {
    let run = match run {
        Ok(run) => run,
        Err(e) => return json!({"folder": folder, "state": "damaged", "reason": format!("{e:#}")}),
    };
    let accuracies = run
        .all_results()
        .filter(|r| run.is_student(r))
        .map(|r| json!({"row": r.row, "seed": r.seed, "epochs": r.epochs.len(), "last": r.last}));
    let mut object = overview(run);
    object["accuracies"] = accuracies.collect();
    object
}

/// What is told of a run, whoever asks.
pub fn overview(run: &Run) -> Value {
    let (done, planned) = run.progress();
    json!({
        "folder": run.folder,
        "kind": run.kind.name(),
        "name": run.name(),
        "data": run.recipe.data.dataset,
        "state": run.state_name(),
        "reason": run.damage(),
        "owner": match &run.state { State::Running(owner) => Some(owner), _ => None },
        "unit": unit(run.kind),
        "done": done,
        "planned": planned,
        "age_s": run.age_s(),
    })
}

/// What progress counts.
fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::Run => "epochs",
        Kind::Table => "rows",
    }
}

fn table(found: &[(PathBuf, Result<Run>)]) -> String {
    let mut rows =
        vec![["run", "kind", "name", "data", "state", "done", "top-1", "age"].map(str::to_owned).to_vec()];
    let mut below = Vec::new();
    for (folder, run) in found {
        let shown = folder.display();
        let run = match run {
            Ok(run) => run,
            Err(e) => {
                below.push(format!("{shown} is damaged: {e:#}"));
                continue;
            }
        };
        match (run.damage(), &run.state) {
            (Some(reason), _) => below.push(format!("{shown} is damaged: {reason}")),
            (None, State::Running(owner)) => below.push(format!("{shown} is in use by {owner}")),
            (None, _) => {}
        }
        let (done, planned) = run.progress();
        rows.push(vec![
            shown.to_string(),
            run.kind.name().to_owned(),
            shorten(run.name(), NAME),
            run.recipe.data.dataset.clone(),
            run.state_name().to_owned(),
            format!("{done}/{planned}"),
            accuracy(run),
            age(run.age_s()),
        ]);
    }
    let others: usize =
        (1..rows[0].len()).map(|c| 2 + rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).sum();
    for row in &mut rows {
        row[0] = tail(&row[0], WIDTH.saturating_sub(others).max(FOLDER));
    }
    let mut text = if rows.len() > 1 { columns(&rows, 5) } else { String::new() };
    if !below.is_empty() && rows.len() > 1 {
        text.push('\n');
    }
    below.iter().for_each(|line| text.push_str(&format!("{}\n", shorten(line, WIDTH))));
    text
}

/// The last accuracy of a run; the lowest and the highest of a table's rows.
fn accuracy(run: &Run) -> String {
    let last: Vec<f64> = run.all_results().filter(|r| run.is_student(r)).filter_map(|r| r.last).collect();
    let (low, high) = (last.iter().copied().reduce(f64::min), last.iter().copied().reduce(f64::max));
    match (low, high) {
        (Some(low), Some(high)) if low < high => format!("{low:.1}-{high:.1}"),
        (Some(one), _) => format!("{one:.2}"),
        _ => String::new(),
    }
}

/// How long ago something was.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..6_000 => format!("{} min", seconds / 60),
        6_000..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The end of a path in at most `max` characters.
pub fn tail(path: &str, max: usize) -> String {
    let count = path.chars().count();
    if count <= max {
        return path.to_owned();
    }
    let end: String = path.chars().skip(count - max.saturating_sub(1)).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_paths_are_short() {
        let ages = [0, 119, 120, 5_999, 7_200, 172_799, 172_800, 4_000_000].map(age);
        assert_eq!(ages, ["0 s", "119 s", "2 min", "99 min", "2 h", "47 h", "2 d", "46 d"]);
        assert_eq!((tail("runs/a", 6).as_str(), tail("runs/äbc", 5).as_str()), ("runs/a", "…/äbc"));
    }
}
