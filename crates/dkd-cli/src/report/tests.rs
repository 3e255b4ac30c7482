//! Reports from result files.

use super::*;
use dkd_trainer::LogPoint;
use dkd_trainer::record::{Diverged, LogValue, Rewind, RowResult};

fn result(row: &str, seed: u64, value: f64, synthetic: bool) -> RowResult {
    let position = usize::from(row != "teacher");
    let text = format!(
        r#"{{"format_version": 1, "profile": "p", "row": "{row}", "position": {position}, "label": "{row} <b>", "setting": "CE", "model": "m",
        "seed": {seed}, "note": "", "published": {{"value": 57.0, "source": "a log", "note": "", "curve": [50.0, 57.0]}},
        "metric": "last", "planned_epochs": 2, "last": {value}, "mean": 50.0, "best_on_test": 60.0,
        "best_on_test_epoch": 1, "validation_chosen": null, "validation_chosen_epoch": null, "diverged": null,
        "seconds": 60.0, "epochs": [
          {{"train_loss": null, "train_top1": 10.0, "test": {{"top1": 40.0, "top5": 90.0, "loss": null, "images": 5}}}},
          {{"train_loss": 1.0, "train_top1": 20.0, "test": {{"top1": {value}, "top5": 90.0, "loss": 1.0, "images": 5}}}}],
        "data": {{"name": "cifar10", "synthetic": {synthetic}, "train_images": 10, "test_images": 5, "sha256": "ab"}},
        "host": null}}"#
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn seeds_are_averaged_and_compared() {
    let results =
        [result("a", 0, 56.0, false), result("a", 1, 58.0, false), result("teacher", 0, 61.0, false)];
    let text = terminal(&results);
    assert!(text.contains("57.00 ± 1.41") && text.contains("agrees") && text.contains("+4.00"), "{text}");
    assert!(text.find("teacher") < text.find("a <b>"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
}

#[test]
fn rows_are_compared_with_their_baseline_seed_by_seed() {
    let row = |id: &str, seed, value, position, baseline: Option<&str>| RowResult {
        position,
        baseline: baseline.map(str::to_owned),
        published: None,
        ..result(id, seed, value, false)
    };
    let results = [
        row("b", 0, 56.0, 2, Some("z")),
        row("b", 1, 59.0, 2, Some("z")),
        row("b", 2, 70.0, 2, Some("z")),
        row("c", 0, 50.0, 3, Some("missing")),
        row("z", 0, 55.0, 1, None),
        row("z", 1, 56.0, 1, None),
    ];
    let text = terminal(&results);
    // +1 and +3; seed 2 has no partner. The table's order, not the alphabet's.
    assert!(text.contains("+2.00 ± 1.41 vs z") && !text.contains("published"), "{text}");
    assert!(text.contains("no clear change"), "{text}");
    assert!(text.find("z <b>") < text.find("b <b>"), "{text}");
    assert!(!text.contains("missing"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    write(&results, folder.path()).unwrap();
    let md = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(md.contains("| +2.00 ± 1.41 vs `z` |"), "{md}");
    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(html.contains("vs z") && !html.contains("published"), "{html}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let refuse = |results: Vec<RowResult>| merge(results).unwrap_err().to_string();
    let (one, two) = (result("a", 0, 56.0, false), result("a", 1, 57.0, false));
    let merged = merge(vec![one.clone(), two.clone(), one.clone()]).unwrap();
    assert_eq!(merged.iter().map(|r| r.seed).collect::<Vec<_>>(), [0, 1]);
    let other = RowResult { last: Some(60.0), ..one.clone() };
    assert!(refuse(vec![one.clone(), other]).contains("two different results"));
    let mut synthetic = result("b", 0, 56.0, true);
    synthetic.data.sha256 = "cd".to_owned();
    let message = refuse(vec![one.clone(), synthetic]);
    assert!(message.contains("generated images") && message.contains("real images"), "{message}");
    let settings = |r: &RowResult, s: &str| RowResult { settings_sha256: s.to_owned(), ..r.clone() };
    assert!(refuse(vec![settings(&one, "x"), settings(&two, "y")]).contains("seeds 0 and 1"));
    assert_eq!(merge(vec![settings(&one, ""), settings(&two, "y")]).unwrap().len(), 2);
    assert!(refuse(vec![one, RowResult { planned_epochs: 3, ..two }]).contains("settings"));
}

#[test]
fn tables_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mean = RowResult {
        title: "A title".to_owned(),
        description: "With <quirks>.".to_owned(),
        metric: "mean".to_owned(),
        validation_chosen: Some(55.5),
        ..result("a", 0, 56.0, false)
    };
    let results = [mean.clone(), RowResult { seed: 1, ..mean }, result("teacher", 0, 61.0, false)];
    write(&results, folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (md, html) = (read("report.md"), read("report.html"));
    assert!(md.contains("## A title\n\nWith <quirks>.\n") && md.contains("chosen on validation"), "{md}");
    assert!(md.contains("- teacher <b>: its accuracy is the test accuracy after the last epoch"), "{md}");
    assert!(
        html.contains("<h2>A title</h2>") && html.contains("&#60;quirks&#62;") && html.contains("55.50"),
        "{html}"
    );
}

#[test]
fn generated_images_are_never_compared() {
    let text = terminal(&[result("a", 0, 56.0, true)]);
    assert!(text.contains("not comparable") && !text.contains("57.00") && !text.contains("agrees"), "{text}");
}

/// The same beside a log that may be compared up to epoch `until`: 40.00 and 56.00 here.
fn logged(result: RowResult, until: usize, points: &[(usize, f64)]) -> RowResult {
    let points = points.iter().map(|(epoch, top1)| LogPoint { epoch: *epoch, top1: *top1 }).collect();
    RowResult { log: Some(LogValue { source: "a | log".to_owned(), until, points }), ..result }
}

#[test]
fn rows_stand_beside_their_logs() {
    let points = [(1, 41.5), (2, 55.0), (240, 71.0)];
    let results = [
        logged(result("a", 0, 56.0, false), 240, &points),
        logged(result("a", 1, 58.0, false), 240, &points),
        result("teacher", 0, 61.0, false),
    ];
    let text = terminal(&results);
    let (_, track) = text.split_once("\nOn track?\n").unwrap_or_else(|| panic!("{text}"));
    let cells: Vec<Vec<&str>> = track.lines().take(3).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["row", "epoch", "accuracy", "log", "difference"]);
    assert_eq!(cells[1], ["a", "<b>", "1", "40.00", "±", "0.00", "41.50", "-1.50"]);
    assert_eq!(cells[2], ["a", "<b>", "2", "57.00", "±", "1.41", "55.00", "+2.00"]);
    assert!(track.contains("A log is one run") && !track.contains("teacher"), "{track}");
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    let folder = tempfile::tempdir().unwrap();
    write(&results, folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (md, html) = (read("report.md"), read("report.html"));
    assert!(md.contains("### On track?\n\nTest accuracy") && md.contains("A log is one run"), "{md}");
    assert!(md.contains("| row | epoch | accuracy | log | difference |\n| --- | ---: |"), "{md}");
    assert!(md.contains("| a <b> | 2 | 57.00 ± 1.41 | 55.00 | +2.00 |"), "{md}");
    assert!(md.contains("log: a | log") && !md.contains("71.00"), "{md}");
    assert!(html.contains("<h3>On track?</h3>") && html.contains("<td class=\"n\">+2.00</td>"), "{html}");
    // Of the second seed only the first epoch is there yet.
    let mut shorter = results[1].clone();
    (shorter.incomplete, shorter.last) = (true, Some(40.0));
    shorter.epochs.truncate(1);
    let text = terminal(&[results[0].clone(), shorter]);
    assert!(text.contains("1  40.00 ± 0.00  41.50       -1.50"), "{text}");
    assert!(text.contains("2         56.00  55.00       +1.00"), "{text}");
}

#[test]
fn what_cannot_be_compared_with_a_log_is_not() {
    let one = || result("a", 0, 56.0, false);
    let points = [(2, 55.0), (3, 60.0)];
    let taken_back = RowResult {
        rewinds: vec![Rewind { epoch: 2, step: 4, term: "dkd".to_owned(), lr_factor: 0.5 }],
        ..logged(one(), 240, &points)
    };
    for (why, result) in [
        ("no log", one()),
        ("the rate has fallen", logged(one(), 1, &points)),
        ("not so far yet", logged(one(), 240, &[(3, 60.0)])),
        ("generated images", logged(result("a", 0, 56.0, true), 240, &points)),
        ("taken back", taken_back),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(std::slice::from_ref(&result), folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        for text in [terminal(std::slice::from_ref(&result)), read("report.md"), read("report.html")] {
            assert!(!text.contains("On track?") && !text.contains("a | log"), "{why}: {text}");
        }
    }
    // Of a whole curve the first and the last epoch: the picture has the others.
    let curve = vec![41.0, 45.0, 50.0];
    let mut long = logged(one(), 3, &[]);
    long.planned_epochs = 3;
    long.epochs.push(long.epochs[1].clone());
    long.published.as_mut().unwrap().curve = curve;
    let text = terminal(&[long]);
    assert!(text.contains("1     40.00  41.00       -1.00"), "{text}");
    assert!(text.contains("3     56.00  50.00       +6.00") && !text.contains("45.00"), "{text}");
}

#[test]
fn files_are_complete_and_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let mut bad = result("b", 0, 10.0, false);
    bad.diverged = Some(Diverged { epoch: 2, step: 9, term: "dkd".to_owned(), origin: String::new() });
    bad.skipped = 3;
    bad.rewinds = vec![Rewind { epoch: 1, step: 4, term: "dkd".to_owned(), lr_factor: 0.5 }];
    write(&[result("a", 0, 56.0, false), bad], folder.path()).unwrap();
    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(html.contains("a &#60;b&#62;") && !html.contains("<b>"));
    assert!(
        html.contains("<svg")
            && html.contains("diverged; below")
            && !html.contains("src=")
            && !html.contains("href=")
    );
    let md = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(md.contains("seed 0: epoch 2, step 9 (dkd)") && md.contains("| 56.00 | 57.00 | -1.00 |"), "{md}");
    assert!(
        md.contains("seed 0: 3 batches left out; seed 0: taken back once, learning rate times 0.5"),
        "{md}"
    );
    assert!(md.contains("(<p.svg>)"), "{md}");
    let picture = std::fs::read_to_string(folder.path().join("p.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("a &lt;b&gt;"), "{picture}");
    let back: Vec<RowResult> =
        serde_json::from_slice(&std::fs::read(folder.path().join("results.json")).unwrap()).unwrap();
    assert_eq!(back.len(), 2);
}

#[test]
fn results_that_nobody_measured_do_no_harm() {
    let values = ["null", "1e308", "-1e308", "0.0", "100.0", "1e-308", "-0.0", "101.5", "57.0", "1e300"];
    let row = |i: usize, value: &str| {
        let text = serde_json::to_string(&result(&format!("r{i}"), 0, 12.25, false)).unwrap();
        let text = text.replace("12.25", value).replace(r#""profile":"p""#, r#""profile":"../../evil/p""#);
        RowResult::from_bytes(text.as_bytes(), Path::new("a.json")).unwrap()
    };
    let results: Vec<RowResult> = values.iter().enumerate().map(|(i, value)| row(i, value)).collect();
    assert!(terminal(&results).contains("r3"));
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a/b/c");
    write(&merge(results).unwrap(), &folder).unwrap();
    assert!(folder.join(".._.._evil_p.svg").is_file());
    let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!((count(outer.path()), count(&outer.path().join("a")), count(&folder)), (1, 1, 4));
}
