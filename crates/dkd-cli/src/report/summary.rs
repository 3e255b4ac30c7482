//! Results grouped by table and row.

use super::compare::{Change, mean_std, pretty};
use super::track::{Track, tracks};
use dkd_trainer::record::{PublishedValue, RowResult};

/// Largest difference in points that still counts as agreement.
pub const AGREEMENT: f64 = 1.5;

/// All seeds of one row.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub label: String,
    pub setting: String,
    pub note: String,
    pub metric: String,
    /// The compared number of every seed that has one.
    pub values: Vec<f64>,
    /// Their seeds.
    seeds: Vec<u64>,
    /// The row to compare with.
    baseline: Option<String>,
    /// Difference from the baseline, if it has results.
    pub change: Option<Change>,
    pub last: Vec<f64>,
    pub best_on_test: Vec<f64>,
    pub validation_chosen: Vec<f64>,
    /// `seed 0: epoch 28 (dkd)` for every seed that diverged.
    pub diverged: Vec<String>,
    /// `stopped in epoch 3 of 30` for every seed that has not ended: such a seed is in no number above.
    incomplete: Vec<String>,
    /// What these seeds have reached.
    so_far: Vec<String>,
    /// What was done about losses and gradients that were not finite.
    mended: Vec<String>,
    seconds: f64,
    pub published: Option<PublishedValue>,
    /// Test accuracies per epoch, of the first of the seeds that came furthest.
    pub curve: Vec<f64>,
    /// Epochs beside those of a published log.
    pub tracks: Vec<Track>,
    /// Where that log stands.
    log_source: String,
    pub synthetic: bool,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    /// Heading; the name where there is no other.
    pub title: String,
    pub description: String,
    /// Which number of most rows is compared: `last` or `mean`.
    metric: String,
    pub rows: Vec<Row>,
    pub synthetic: bool,
    /// Lines on data, machine, time and revision.
    pub conditions: Vec<String>,
}

impl Row {
    /// The compared number.
    pub fn accuracy(&self) -> String {
        pretty(&self.values)
    }

    /// The published number, if the data are the same.
    pub fn published_text(&self) -> String {
        match &self.published {
            Some(p) if !self.synthetic => format!("{:.2}", p.value),
            _ => "–".to_owned(),
        }
    }

    /// Difference from the published number.
    pub fn difference(&self) -> Option<f64> {
        let published = self.published.as_ref().filter(|_| !self.synthetic)?;
        Some(mean_std(&self.values)?.0 - published.value)
    }

    /// The difference with its sign.
    pub fn difference_text(&self) -> String {
        self.difference().map_or_else(|| "–".to_owned(), |d| format!("{d:+.2}"))
    }

    /// What the comparison says.
    pub fn verdict(&self) -> String {
        let compared = match self.difference() {
            None => String::new(),
            Some(d) if d.abs() <= AGREEMENT => "agrees".to_owned(),
            Some(d) if d > 0.0 => "above".to_owned(),
            Some(_) => "below".to_owned(),
        };
        let compared = match &self.change {
            Some(change) if compared.is_empty() => change.verdict().unwrap_or_default().to_owned(),
            _ => compared,
        };
        let diverged = if self.diverged.is_empty() { String::new() } else { "diverged".to_owned() };
        let parts = [diverged, self.incomplete_text().unwrap_or_default(), compared];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// `incomplete: stopped in epoch 3 of 30`, if it is.
    pub fn incomplete_text(&self) -> Option<String> {
        (!self.incomplete.is_empty()).then(|| format!("incomplete: {}", self.incomplete.join(", ")))
    }

    /// Minutes of work, where they are known: logs have no times.
    pub fn minutes(&self) -> String {
        if self.seconds > 0.0 { format!("{:.1}", self.seconds / 60.0) } else { "–".to_owned() }
    }
}

impl Profile {
    /// Whether a row has a published number that the data allow to compare with.
    pub fn has_published(&self) -> bool {
        self.rows.iter().any(|r| r.difference().is_some())
    }

    /// Whether rows are compared with each other.
    pub fn has_changes(&self) -> bool {
        self.rows.iter().any(|r| r.change.is_some())
    }

    /// Whether there is anything to say about a row.
    pub fn has_verdicts(&self) -> bool {
        self.rows.iter().any(|r| !r.verdict().is_empty())
    }

    /// Whether an epoch was chosen on a validation split.
    pub fn has_chosen(&self) -> bool {
        self.rows.iter().any(|r| !r.validation_chosen.is_empty())
    }

    /// Which number is compared, in words.
    pub fn metric_text(&self) -> &'static str {
        metric_text(&self.metric)
    }

    /// Everything that a row has to say beside its numbers.
    pub fn notes_of(&self, row: &Row) -> Vec<String> {
        let mut notes = Vec::new();
        if !row.note.is_empty() {
            notes.push(row.note.clone());
        }
        if row.metric != self.metric {
            notes.push(format!("its accuracy is the {}", metric_text(&row.metric)));
        }
        if let Some(p) = row.published.as_ref().filter(|_| !row.synthetic) {
            if !p.source.is_empty() {
                notes.push(format!("published: {}", p.source));
            }
            if !p.note.is_empty() {
                notes.push(p.note.clone());
            }
        }
        if !row.tracks.is_empty() && !row.log_source.is_empty() {
            notes.push(format!("log: {}", row.log_source));
        }
        if !row.diverged.is_empty() {
            notes.push(format!("not finite from {}", row.diverged.join(", ")));
        }
        notes.extend(row.mended.iter().chain(&row.so_far).cloned());
        notes
    }
}

fn metric_text(metric: &str) -> &'static str {
    match metric {
        "mean" => "mean test accuracy over all epochs, %",
        _ => "test accuracy after the last epoch, %",
    }
}

/// Groups results by table, then row, in the table's order; the teacher comes first.
pub fn profiles(results: &[RowResult]) -> Vec<Profile> {
    let mut names: Vec<&str> = results.iter().map(|r| r.profile.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| profile(name, results)).collect()
}

fn profile(name: &str, results: &[RowResult]) -> Profile {
    let own: Vec<&RowResult> = results.iter().filter(|r| r.profile == name).collect();
    let mut ids: Vec<(usize, &str)> = own.iter().map(|r| (r.position, r.row.as_str())).collect();
    ids.sort_unstable();
    ids.dedup_by_key(|(_, id)| *id);
    let rows = ids.into_iter().map(|(_, id)| {
        let seeds: Vec<&RowResult> = own.iter().copied().filter(|r| r.row == id).collect();
        row(&seeds)
    });
    let mut rows: Vec<Row> = rows.collect();
    let changes: Vec<Option<Change>> = rows.iter().map(|r| change(r, &rows)).collect();
    for (row, change) in rows.iter_mut().zip(changes) {
        row.change = change;
    }
    let first = |f: fn(&RowResult) -> &String| own.iter().map(|r| f(r)).find(|t| !t.is_empty()).cloned();
    let means = own.iter().filter(|r| r.metric == "mean").count();
    Profile {
        name: name.to_owned(),
        title: first(|r| &r.title).unwrap_or_else(|| name.to_owned()),
        description: first(|r| &r.description).unwrap_or_default(),
        metric: if 2 * means > own.len() { "mean" } else { "last" }.to_owned(),
        rows,
        synthetic: own.iter().any(|r| r.data.synthetic),
        conditions: conditions(&own),
    }
}

/// Differences between `row` and its baseline, seed by seed.
fn change(row: &Row, rows: &[Row]) -> Option<Change> {
    let from = row.baseline.as_ref()?;
    let other = rows.iter().find(|r| r.id == *from)?;
    let points = row.seeds.iter().zip(&row.values).filter_map(|(seed, value)| {
        let at = other.seeds.iter().position(|s| s == seed)?;
        Some(value - other.values[at])
    });
    let points: Vec<f64> = points.collect();
    (!points.is_empty()).then(|| Change { from: from.clone(), points })
}

fn row(seeds: &[&RowResult]) -> Row {
    let first = seeds[0];
    let all = |f: fn(&RowResult) -> Option<f64>| {
        seeds.iter().filter(|r| !r.incomplete).filter_map(|r| f(r)).collect::<Vec<f64>>()
    };
    let (stopped, so_far): (Vec<_>, Vec<_>) =
        seeds.iter().filter(|r| r.incomplete).map(|r| under_way(r, seeds.len())).unzip();
    let longest = seeds.iter().rev().max_by_key(|r| r.epochs.len()).map_or(&first.epochs, |r| &r.epochs);
    let log = seeds.iter().find_map(|r| r.log.as_ref());
    let diverged = seeds.iter().filter_map(|r| {
        let d = r.diverged.as_ref()?;
        let origin = if d.origin.is_empty() { String::new() } else { format!(", first in {}", d.origin) };
        Some(format!("seed {}: epoch {}, step {} ({}{origin})", r.seed, d.epoch, d.step, d.term))
    });
    Row {
        id: first.row.clone(),
        label: first.label.clone(),
        setting: first.setting.clone(),
        note: first.note.clone(),
        metric: first.metric.clone(),
        values: all(RowResult::value),
        seeds: seeds.iter().filter(|r| r.value().is_some()).map(|r| r.seed).collect(),
        baseline: first.baseline.clone(),
        change: None,
        last: all(|r| r.last),
        best_on_test: all(|r| r.best_on_test),
        validation_chosen: all(|r| r.validation_chosen),
        diverged: diverged.collect(),
        incomplete: stopped,
        so_far,
        mended: seeds.iter().flat_map(|r| mended(r)).collect(),
        seconds: seeds.iter().map(|r| r.seconds).sum(),
        published: first.published.clone(),
        curve: longest.iter().map(|e| e.test.top1).collect(),
        tracks: if first.data.synthetic { Vec::new() } else { tracks(seeds) },
        log_source: log.map_or_else(String::new, |log| log.source.clone()),
        synthetic: first.data.synthetic,
    }
}

/// What was done about values that were not finite, so that the row could go on.
fn mended(result: &RowResult) -> Vec<String> {
    let mut notes = Vec::new();
    if result.skipped > 0 {
        notes.push(format!("seed {}: {} batches left out", result.seed, result.skipped));
    }
    if let Some(last) = result.rewinds.last() {
        let times = match result.rewinds.len() {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        notes.push(format!(
            "seed {}: taken back {times}, learning rate times {}",
            result.seed, last.lr_factor
        ));
    }
    notes
}

/// Where a run that has not ended is, and what it has reached; `seeds` results are in the row.
fn under_way(result: &RowResult, seeds: usize) -> (String, String) {
    let (done, planned) = (result.epochs.len(), result.planned_epochs);
    let seed = if seeds > 1 { format!("seed {} ", result.seed) } else { String::new() };
    let reached = match result.last {
        Some(top1) => format!("{seed}so far: {top1:.2} % after epoch {done}"),
        None => format!("{seed}so far: no epoch"),
    };
    (format!("{seed}stopped in epoch {} of {planned}", done + 1), reached)
}

/// One line for each distinct combination.
fn conditions(results: &[&RowResult]) -> Vec<String> {
    let distinct = |lines: Vec<String>| {
        let mut lines = lines;
        lines.sort();
        lines.dedup();
        lines
    };
    let data = results.iter().map(|r| {
        let d = &r.data;
        let kind = if d.synthetic { " (generated images)" } else { "" };
        if d.sha256.is_empty() {
            return format!("Data: {}{kind}", d.name);
        }
        let sha = d.sha256.get(..12).unwrap_or(&d.sha256);
        format!(
            "Data: {}{kind}, {} training and {} test images, SHA-256 {sha}…",
            d.name, d.train_images, d.test_images
        )
    });
    let epochs = results.iter().map(|r| format!("Epochs: {} ({})", r.planned_epochs, r.row));
    let host = results.iter().filter_map(|r| {
        let h = r.host.as_ref()?;
        let revision = h.revision.as_deref().map_or("unknown", |r| r.get(..12).unwrap_or(r));
        Some(format!(
            "Machine: {}, {} threads, {}; dkd {} at revision {revision}",
            h.cpu, h.threads, h.isa, h.version
        ))
    });
    let times = results.iter().filter_map(|r| Some(r.host.as_ref()?.time.clone()));
    let mut seeds: Vec<u64> = results.iter().map(|r| r.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let mut lines = distinct(data.collect());
    let mut by_length: Vec<(String, Vec<&str>)> = Vec::new();
    for (line, r) in epochs.zip(results) {
        let head = line.split(" (").next().unwrap_or_default().to_owned();
        match by_length.iter_mut().find(|(h, _)| *h == head) {
            Some((_, rows)) => rows.push(&r.row),
            None => by_length.push((head, vec![&r.row])),
        }
    }
    if let [(head, _)] = &by_length[..] {
        lines.push(head.clone());
    } else {
        lines.extend(by_length.into_iter().map(|(head, mut rows)| {
            rows.dedup();
            format!("{head}: {}", rows.join(", "))
        }));
    }
    lines.push(format!("Seeds: {}", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")));
    lines.extend(distinct(host.collect()));
    let times = distinct(times.collect());
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        lines.push(if first == last { format!("Time: {first}") } else { format!("Time: {first} to {last}") });
    }
    let seconds: f64 = results.iter().map(|r| r.seconds).sum();
    let rest = if results.iter().any(|r| r.incomplete) { ", incomplete rows aside" } else { "" };
    lines.push(format!("Training and evaluation: {:.0} minutes in all{rest}", seconds / 60.0));
    lines
}
