//! Results from the folders that were named: of runs, of tables, or of result files.

use super::merge::merge;
use crate::output;
use anyhow::{Context, Result, bail};
use dkd_trainer::record::{RowResult, read_records, read_results};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The table that single runs are put into.
const RUNS: &str = "runs";

/// The row of a teacher's own training.
const TEACHER: &str = "teacher";

/// Names of runs in a label before the others are only counted.
const NAMES_IN_LABEL: usize = 3;

/// All results in and directly below `folders`, merged, of finished, stopped and running runs alike.
///
/// Single runs (of `dkd train` and `dkd distill`) become rows of one table for each data set, named by their folders; runs that
/// differ in nothing but the seed become one row.
pub fn collect(folders: &[PathBuf]) -> Result<Vec<RowResult>> {
    let (mut runs, mut all, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for folder in folders {
        if !folder.is_dir() {
            bail!(
                "there is no folder `{}`; `dkd report` takes folders of runs, tables or result files",
                folder.display()
            );
        }
        let mut below = kind(folder).map(|_| vec![folder.clone()]).map_or_else(|| children(folder), Ok)?;
        below.retain(|f| kind(f).is_some());
        if below.is_empty() {
            let found = read_results(folder).with_context(|| {
                format!("looking for result files in `{}`, which is no run", folder.display())
            })?;
            if found.is_empty() {
                bail!(
                    "there are no records in `{}`: neither summary.json nor events.jsonl of a run, nor results/ nor \
                     events-*.jsonl of a table, there or in a folder directly below, nor result files",
                    folder.display()
                );
            }
            all.extend(found);
        }
        for folder in below {
            let path = folder.canonicalize().with_context(|| format!("reading `{}`", folder.display()))?;
            if !seen.insert(path.clone()) {
                continue;
            }
            let found = read_records(&folder)
                .with_context(|| format!("reading the records in `{}`", folder.display()))?;
            match kind(&folder) {
                _ if found.is_empty() => {
                    output::note(&format!(
                        "`{}` is left out: nothing has been trained there yet",
                        folder.display()
                    ));
                }
                Some(Kind::Run) => runs.push((path, found)),
                _ => all.extend(found),
            }
        }
    }
    all.extend(rows_of(runs));
    if all.is_empty() {
        let folders: Vec<String> = folders.iter().map(|f| format!("`{}`", f.display())).collect();
        bail!("there is nothing to report yet in {}", folders.join(", "));
    }
    merge(all)
}

#[derive(Clone, Copy)]
enum Kind {
    Run,
    Table,
}

/// What a folder is of, if it is of a run or a table.
fn kind(folder: &Path) -> Option<Kind> {
    if ["summary.json", "events.jsonl"].iter().any(|file| folder.join(file).is_file()) {
        return Some(Kind::Run);
    }
    let is_log = |name: &str| name.starts_with("events-") && name.ends_with(".jsonl");
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let table = folder.join("results").is_dir() || entries.any(|e| is_log(&e.file_name().to_string_lossy()));
    table.then_some(Kind::Table)
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("listing `{}`", folder.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    Ok(found)
}

/// Runs with the same settings and different seeds.
struct Group {
    names: Vec<String>,
    results: Vec<RowResult>,
}

/// Turns runs into rows of a table.
fn rows_of(runs: Vec<(PathBuf, Vec<RowResult>)>) -> Vec<RowResult> {
    let paths: Vec<&Path> = runs.iter().map(|(path, _)| path.as_path()).collect();
    let names = names(&paths);
    let mut groups: Vec<Group> = Vec::new();
    for (name, (_, results)) in names.into_iter().zip(runs) {
        // The teacher comes first.
        let (teachers, students): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| r.row == TEACHER);
        for result in teachers.into_iter().chain(students) {
            match groups.iter_mut().find(|g| g.takes(&result)) {
                Some(group) => {
                    group.names.push(name.clone());
                    group.results.push(result);
                }
                None => groups.push(Group { names: vec![name.clone()], results: vec![result] }),
            }
        }
    }
    let tables = tables(&groups);
    let rows = groups.into_iter().zip(tables).enumerate();
    rows.flat_map(|(i, (group, table))| group.into_rows(i + 1, &table)).collect()
}

impl Group {
    /// Whether a result differs from these in the seed alone, as far as anybody knows.
    fn takes(&self, result: &RowResult) -> bool {
        let own = &self.results[0];
        let known = !result.settings_sha256.is_empty() && !result.data.sha256.is_empty();
        known
            && own.settings_sha256 == result.settings_sha256
            && own.data == result.data
            && own.planned_epochs == result.planned_epochs
            && (own.row == TEACHER) == (result.row == TEACHER)
            && self.results.iter().all(|r| r.seed != result.seed)
    }

    fn into_rows(self, position: usize, table: &str) -> Vec<RowResult> {
        let (first, rest) = self.names.split_at(self.names.len().min(NAMES_IN_LABEL));
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let names = format!("{}{more}", first.join(", "));
        let mut results = self.results;
        for r in &mut results {
            let teacher = r.row == TEACHER;
            // Runs without a table's names are all called `run`.
            let what = if r.label == r.row && !r.model.is_empty() { &r.model } else { &r.label };
            r.label = format!("{names}: {what}");
            r.row = if teacher { format!("{names} (teacher)") } else { names.clone() };
            (r.profile, r.title, r.position) = (table.to_owned(), table.replacen(RUNS, "Runs", 1), position);
            r.baseline = None;
        }
        results
    }
}

/// The table of each group: one for all, or one for each data set.
fn tables(groups: &[Group]) -> Vec<String> {
    let data: Vec<(&str, &str)> =
        groups.iter().map(|g| &g.results[0].data).map(|d| (d.name.as_str(), d.sha256.as_str())).collect();
    let same_name = |name: &str| data.iter().filter(|(n, _)| *n == name).collect::<BTreeSet<_>>().len();
    let one = data.iter().collect::<BTreeSet<_>>().len() == 1;
    let table = |(name, sha256): &(&str, &str)| match (one, same_name(name)) {
        (true, _) => RUNS.to_owned(),
        (false, 1) => format!("{RUNS} on {name}"),
        (false, _) => format!("{RUNS} on {name} ({})", sha256.get(..8).unwrap_or("unknown images")),
    };
    data.iter().map(table).collect()
}

/// As few of the last parts of each path as tell them apart.
pub fn names(paths: &[&Path]) -> Vec<String> {
    let longest = paths.iter().map(|p| p.components().count()).max().unwrap_or(0);
    let last = |path: &Path, parts: usize| {
        let all: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    for parts in 1..longest {
        let names: Vec<String> = paths.iter().map(|p| last(p, parts)).collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return names;
        }
    }
    paths.iter().map(|p| p.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{terminal, write};
    use dkd_trainer::config::Config;
    use dkd_trainer::record::{DataInfo, Host, JsonLines, RunFolder, describe};
    use dkd_trainer::{Event, Metrics, Recipe, Sink};

    fn recipe(more: &str) -> Recipe {
        let text = format!("student.model = 'resnet8'\ntrain.epochs = 2\n{more}");
        Config::parse(&text, "options").unwrap().check().unwrap()
    }

    /// A table whose second row is compared with the first.
    fn table() -> Recipe {
        recipe(
            "name = 't'\n[[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nbaseline = 'a'\npublished = { value = 50.0 }",
        )
    }

    fn data(name: &str, sha256: &str) -> DataInfo {
        let sha256 = sha256.repeat(32);
        DataInfo { name: name.to_owned(), synthetic: false, train_images: 20, test_images: 5, sha256 }
    }

    fn host() -> Host {
        let text = |t: &str| t.to_owned();
        Host {
            cpu: text("c"),
            threads: 1,
            isa: text("i"),
            device: None,
            version: text("v"),
            revision: None,
            time: text("t"),
        }
    }

    /// A log of `epochs` epochs, each a point better than the one before; the epoch after them has begun.
    fn log(path: &Path, rows: &[&str], seed: u64, epochs: usize) {
        let mut log = JsonLines::append(path).unwrap();
        let names = rows.iter().map(|r| (*r).to_owned()).collect();
        log.event(&Event::Started { rows: names, epochs: 2, batches: 1, images: 20, seed }).unwrap();
        for epoch in 1..=epochs {
            for row in rows.iter().map(|r| (*r).to_owned()) {
                log.event(&Event::Epoch { row: row.clone(), epoch, loss: 1.0, top1: 30.0 }).unwrap();
                let metrics =
                    Metrics { top1: 40.0 + seed as f64 + epoch as f64, top5: 90.0, loss: 1.0, images: 5 };
                log.event(&Event::Evaluation { row, epoch, split: "test".to_owned(), metrics }).unwrap();
            }
        }
    }

    /// A run that came to the end of epoch `epochs` of two; with both it is finished.
    fn run(folder: &Path, more: &str, seed: u64, epochs: usize, data: &DataInfo) {
        let run = RunFolder::create(folder, &host()).unwrap();
        describe(folder, &recipe(more), &host(), data).unwrap();
        log(&folder.join("events.jsonl"), &["run"], seed, epochs);
        if epochs == 2 {
            let result = read_records(folder).unwrap().remove(0);
            run.finish(&RowResult { seconds: 60.0, ..result }).unwrap();
        }
    }

    fn shown(results: &[RowResult]) -> Vec<(&str, &str, &str, u64, bool)> {
        results.iter().map(|r| (&*r.profile, &*r.row, &*r.label, r.seed, r.incomplete)).collect()
    }

    #[test]
    fn runs_become_rows_that_can_be_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let cifar10 = data("cifar10", "ab");
        run(&at("x/one"), "", 0, 2, &cifar10);
        run(&at("y/one"), "", 1, 2, &cifar10);
        run(&at("other"), "optimizer.lr = 0.3", 0, 1, &cifar10);
        // Twice the same folder, and a folder of folders.
        let results = collect(&[at("x/one"), at("y"), at("other"), at("x/../other")]).unwrap();
        let pair = "x/one, y/one";
        let label = "x/one, y/one: resnet8";
        let other = root.path().file_name().unwrap().to_string_lossy().into_owned() + "/other";
        assert_eq!(
            shown(&results),
            [
                ("runs", pair, label, 0, false),
                ("runs", pair, label, 1, false),
                ("runs", &other, &format!("{other}: resnet8"), 0, true)
            ]
        );
        let text = terminal(&results);
        assert!(
            text.contains("42.50 ± 0.71")
                && text.contains("other: resnet8: incomplete: stopped in epoch 2 of 2"),
            "{text}"
        );
        write(&results, root.path()).unwrap();
        for file in ["report.md", "report.html"] {
            let page = std::fs::read_to_string(at(file)).unwrap();
            assert!(page.contains("incomplete: stopped in epoch 2 of 2"), "{page}");
            assert!(page.contains("so far: 41.00 % after epoch 1"), "{page}");
            assert!(!page.contains("41.00 |") && !page.contains(">41.00<"), "in no column: {page}");
        }
        // On other images: a table of their own.
        run(&at("z"), "", 0, 2, &data("cifar100", "cd"));
        run(&at("w"), "", 0, 2, &data("cifar100", "ef"));
        let results = collect(&[at("other"), at("z"), at("w")]).unwrap();
        let tables: Vec<&str> = results.iter().map(|r| &*r.profile).collect();
        assert_eq!(tables, ["runs on cifar10", "runs on cifar100 (cdcdcdcd)", "runs on cifar100 (efefefef)"]);
    }

    #[test]
    fn rows_that_have_not_ended_are_never_compared() {
        let root = tempfile::tempdir().unwrap();
        describe(root.path(), &table(), &host(), &data("cifar10", "ab")).unwrap();
        for seed in 0..2 {
            log(&root.path().join(format!("events-{seed}.jsonl")), &["a", "b"], seed, 2);
        }
        let finished = collect(&[root.path().to_owned()]).unwrap();
        assert!(finished.iter().all(|r| !r.incomplete), "logs that have all epochs");
        for result in &finished {
            result.write(&root.path().join("results")).unwrap();
        }
        log(&root.path().join("events-2.jsonl"), &["a", "b"], 2, 1);
        let results = collect(&[root.path().to_owned(), root.path().join("results")]).unwrap();
        assert_eq!(results.len(), 6);
        let text = terminal(&results);
        assert!(text.contains("42.50 ± 0.71") && text.contains("+0.00 ± 0.00 vs a"), "two seeds: {text}");
        assert!(text.contains("b: incomplete: seed 2 stopped in epoch 2 of 2"), "{text}");
        write(&results, root.path()).unwrap();
        let page = std::fs::read_to_string(root.path().join("report.md")).unwrap();
        assert!(page.contains("| incomplete: seed 2 stopped in epoch 2 of 2; below |"), "{page}");
        assert!(page.contains("| 42.50 ± 0.71 | 50.00 | -7.50 |"), "{page}");
        // A whole result of the same row and seed takes its place, whichever comes first.
        let whole = RowResult { incomplete: false, ..results[2].clone() };
        for both in [[results[2].clone(), whole.clone()], [whole.clone(), results[2].clone()]] {
            assert_eq!(merge(both.to_vec()).unwrap(), std::slice::from_ref(&whole));
        }
        // Images that nobody described are no other images.
        let mut unknown = results[2].clone();
        unknown.data.sha256.clear();
        assert_eq!(merge(vec![results[0].clone(), unknown]).unwrap().len(), 2);
    }

    #[test]
    fn a_run_that_has_not_begun_is_left_out_and_a_missing_one_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let cifar10 = data("cifar10", "ab");
        describe(&at("new"), &recipe(""), &host(), &cifar10).unwrap();
        JsonLines::append(&at("new/events.jsonl")).unwrap();
        run(&at("old"), "", 0, 1, &cifar10);
        assert_eq!(collect(&[at("new"), at("old")]).unwrap().len(), 1);
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::create_dir(at("stranger")).unwrap();
        std::fs::write(at("stranger/a.json"), "{}").unwrap();
        std::fs::write(at("old/config.toml"), "[train").unwrap();
        for (folder, expected) in [
            ("none", &["there is no folder"][..]),
            ("empty", &["summary.json", "events.jsonl", "events-*.jsonl", "result files"]),
            ("stranger", &["which is no run", "a.json", "format_version"]),
            ("new", &["nothing to report yet"]),
            ("old", &["reading the records in", "config.toml:1"]),
        ] {
            let message = format!("{:#}", collect(&[at(folder)]).unwrap_err());
            assert!(message.contains(at(folder).to_str().unwrap()), "{message}");
            assert!(expected.iter().all(|e| message.contains(e)), "{message}");
        }
    }
}
