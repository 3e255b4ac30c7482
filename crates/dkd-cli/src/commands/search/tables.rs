//! What a search has found, as tables.

use crate::output::shorten;
use crate::page::Table;
use dkd_trainer::search::{Metric, Search, State, Trial, standing};
use toml::Value;

/// Trials in the table for a terminal, and its width.
const BEST: usize = 10;
const WIDTH: usize = 80;

/// Longest name and value in it.
const NAME: usize = 14;
const VALUE: usize = 12;

/// In the place of a number that is not there.
const NONE: &str = "–";

/// A setting as it stands in tables and behind `--set key=`.
pub fn setting(value: &Value) -> String {
    match value {
        Value::Float(v) => v.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What counts, with its unit.
pub fn measured(trial: &Trial, metric: Metric) -> String {
    match (trial.measured(metric), metric) {
        (None, _) => "diverged".to_owned(),
        (Some(v), Metric::Top1) => format!("{v:.2} %"),
        (Some(v), Metric::Loss) => format!("{v:.4}"),
    }
}

/// What counts, in words.
pub fn metric_text(metric: Metric) -> &'static str {
    match metric {
        Metric::Top1 => "accuracy, %",
        Metric::Loss => "loss",
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |v| format!("{v:.digits$}"))
}

/// Characters of the longest cell.
fn width<'a>(cells: impl Iterator<Item = &'a String>) -> usize {
    cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
}

/// The last words of each key, as many as tell them apart.
fn short_names(keys: &[&str]) -> Vec<String> {
    let short = |key: &str| {
        let words: Vec<&str> = key.split('.').collect();
        let ends = (1..=words.len()).map(|n| words[words.len() - n..].join("."));
        let is_end = |key: &str, end: &str| key == end || key.ends_with(&format!(".{end}"));
        let mut alone = ends.filter(|end| keys.iter().filter(|k| is_end(k, end)).count() == 1);
        alone.next().unwrap_or_else(|| key.to_owned())
    };
    keys.iter().map(|key| short(key)).collect()
}

/// The best trials, for a terminal of 80 columns; keys that do not fit are only on the page.
pub fn best(search: &Search, state: &State) -> Table {
    let metric = state.about.metric;
    let ranked = standing(&state.trials, metric);
    let shown = &ranked[..ranked.len().min(BEST)];
    let digits = if metric == Metric::Top1 { 2 } else { 4 };
    let what = if metric == Metric::Top1 { "accuracy" } else { "loss" };
    let caption = format!(
        "{what} on {} held-out training images: best {} of {} trials",
        state.about.held_out_images,
        shown.len(),
        ranked.len()
    );
    let mut table = Table::new(caption, 1, &["trial", metric_text(metric), "epochs"]);
    table.rows.extend(shown.iter().map(|t| {
        let value = t.measured(metric).map_or_else(|| "diverged".to_owned(), |v| format!("{v:.digits$}"));
        vec![t.number.to_string(), value, t.epochs.to_string()]
    }));
    let keys: Vec<&str> = search.plan.space.keys().keys().map(String::as_str).collect();
    for (key, name) in keys.iter().zip(short_names(&keys)) {
        let cell = |t: &&Trial| t.values.get(*key).map_or_else(|| NONE.to_owned(), setting);
        let mut column = vec![shorten(&name, NAME)];
        column.extend(shown.iter().map(|t| shorten(&cell(t), VALUE)));
        let columns = table.rows[0].len();
        let taken: usize = (0..columns).map(|c| width(table.rows.iter().map(|r| &r[c])) + 2).sum();
        if taken + width(column.iter()) > WIDTH {
            break;
        }
        table.rows.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
    }
    table
}

/// All trials, from the best to the worst.
pub fn all(search: &Search, state: &State) -> Table {
    let keys: Vec<&String> = search.plan.space.keys().keys().collect();
    let mut head = vec!["trial", "accuracy, %", "loss", "epochs", "minutes"];
    head.extend(keys.iter().map(|k| k.as_str()));
    head.push("remark");
    let caption = format!(
        "On {} training images that were held out; trained on {} others. Trials with more epochs first.",
        state.about.held_out_images, state.about.train_images
    );
    let mut table = Table::new(caption, 1, &head);
    table.rows.extend(standing(&state.trials, state.about.metric).into_iter().map(|t| {
        let mut row = vec![
            t.number.to_string(),
            number(t.top1, 2),
            number(t.loss, 4),
            t.epochs.to_string(),
            format!("{:.1}", t.seconds / 60.0),
        ];
        row.extend(keys.iter().map(|k| t.values.get(*k).map_or_else(|| NONE.to_owned(), setting)));
        row.push(t.diverged.clone().unwrap_or_default());
        row
    }));
    table
}

/// The keys, what was tried, and what was best.
pub fn settings(search: &Search, state: &State) -> Table {
    let mut table = Table::new(String::new(), 3, &["key", "tried", "best"]);
    let best = state.trials.iter().find(|t| Some(t.number) == state.best);
    table.rows.extend(search.plan.space.keys().iter().map(|(key, domain)| {
        let best = best.and_then(|t| t.values.get(key)).map_or_else(|| NONE.to_owned(), setting);
        vec![key.clone(), domain.to_string(), best]
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let keys = ["loss.0.weight", "loss.1.weight", "optimizer.lr", "rows.kd.optimizer.momentum", "lr"];
        assert_eq!(short_names(&keys), ["0.weight", "1.weight", "optimizer.lr", "momentum", "lr"]);
        assert_eq!(short_names(&["optimizer.lr", "lr"]), ["optimizer.lr", "lr"]);
    }

    #[test]
    fn settings_can_be_copied() {
        let all = [Value::Float(0.0235), Value::Float(4.0), Value::Integer(3), "resnet8".into()];
        assert_eq!(all.map(|v| setting(&v)), ["0.0235", "4", "3", "resnet8"]);
        assert_eq!(setting(&Value::Array(vec![Value::Integer(1), Value::Integer(2)])), "[1, 2]");
    }
}
