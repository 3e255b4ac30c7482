//! Event logs and results.

use super::{seed, with_damages};
use crate::Seed;
use dkd_trainer::record::{JsonLines, RowResult, read_records};
use dkd_trainer::{Event, Metrics, Sink, TermValue};
use serde_json::Value;

/// The first line of a log.
const VERSION: &str = "{\"event\":\"log\",\"format\":1}\n";

/// Two epochs of two rows, one of which diverges.
fn run() -> Vec<Event> {
    let rows: Vec<String> = ["none", "kd"].map(str::to_owned).to_vec();
    let mut all = vec![Event::Started { rows: rows.clone(), epochs: 2, batches: 1, images: 20, seed: 3 }];
    for epoch in 1..=2 {
        let step = epoch as u64 - 1;
        for row in &rows {
            let terms = vec![TermValue { name: "ce".to_owned(), value: 0.1 + epoch as f64 }];
            let gradient_norm = (row == "kd").then_some(1.5);
            let (row, loss) = (row.clone(), if row == "kd" { f64::NAN } else { 2.25 });
            let metrics = Metrics { top1: 40.0 + epoch as f64, top5: 90.0, loss, images: 5 };
            let evaluation =
                |split: &str| Event::Evaluation { row: row.clone(), epoch, split: split.to_owned(), metrics };
            all.extend([
                Event::Step {
                    row: row.clone(),
                    epoch,
                    step,
                    images: 20,
                    lr: 0.1,
                    loss,
                    terms,
                    gradient_norm,
                },
                Event::Epoch { row: row.clone(), epoch, loss, top1: 30.5 },
                evaluation("validation"),
                evaluation("test"),
            ]);
        }
        let (row, term) = (rows[1].clone(), "gradient of fc.weight".to_owned());
        all.push(match epoch {
            1 => Event::Rewound { row, epoch, step, term, lr_factor: 0.5 },
            _ => Event::Skipped { row, epoch, step, term },
        });
    }
    let (row, term) = (rows[1].clone(), "kd".to_owned());
    all.push(Event::Diverged { row, epoch: 2, step: 1, term, goes_on: true });
    all.push(Event::Finished { rows });
    all
}

/// The log of a run as the program writes it, and its results.
fn written() -> (Vec<u8>, Vec<RowResult>) {
    let folder = tempfile::tempdir().expect("there is space for a folder");
    let path = folder.path().join("events.jsonl");
    let mut log = JsonLines::append(&path).expect("there is space for a log");
    run().iter().for_each(|event| log.event(event).expect("there is space for a line"));
    drop(log);
    let mut results = read_records(folder.path()).expect("it was written just now");
    // Named after the folder otherwise.
    results.iter_mut().for_each(|r| r.profile = "table".to_owned());
    (std::fs::read(&path).expect("it was written just now"), results)
}

/// Event logs: one with all kinds of events, torn and damaged ones, other versions.
pub fn events() -> Vec<Seed> {
    let whole = written().0;
    let with = |lines: &str| format!("{VERSION}{lines}");
    let started = |rows: &str| {
        format!(
            "{{\"event\":\"started\",\"rows\":[{rows}],\"epochs\":1,\"batches\":1,\"images\":9,\"seed\":0}}\n"
        )
    };
    let epoch = "{\"event\":\"epoch\",\"row\":\"a\",\"epoch\":1,\"loss\":1,\"top1\":2}\n";
    let test = |n: &str| {
        format!(
            "{{\"event\":\"evaluation\",\"row\":\"a\",\"epoch\":{n},\"split\":\"test\",\"metrics\":{{\"top1\":1,\"top5\":2,\
             \"loss\":null,\"images\":3}}}}\n"
        )
    };
    let one = format!("{}{epoch}", started("\"a\""));
    let live = "{\"event\":\"batch\",\"epoch\":1,\"batch\":0,\"images\":64,\"wait_s\":0.001}\n\
        {\"event\":\"checkpoint\",\"path\":\"a\",\"error\":null}\n\
        {\"event\":\"resumed\",\"rows\":[],\"epochs\":2,\"batches\":3,\"seed\":4,\"epoch\":1,\"batch\":0}\n";
    let rewound =
        "{\"event\":\"rewound\",\"row\":\"a\",\"epoch\":1,\"step\":0,\"term\":\"kd\",\"lr_factor\":null}\n";
    let nested = format!("{{\"event\":\"finished\",\"rows\":{}", "[".repeat(3000));
    let others = vec![
        seed("ok-live-events", with(live)),
        seed("ok-unknown-kind", with(&format!("{{\"event\":\"new\",\"x\":[1,{{}}]}}\n{one}"))),
        seed("ok-torn", with(&format!("{one}{}", &test("1")[..40]))),
        seed("ok-a-row-that-starts-again", with(&format!("{one}{}{one}{}", test("1"), test("1")))),
        seed("ok-epoch-out-of-order", with(&format!("{one}{}", test("2")))),
        seed("ok-largest-epoch", with(&format!("{one}{}", test("18446744073709551615")))),
        seed("ok-no-training-loss", with(&format!("{}{}", started("\"a\""), test("1")))),
        seed("ok-row-that-has-not-started", with(epoch)),
        seed("ok-rewound-to-nothing", with(&format!("{one}{rewound}"))),
        seed("ok-names-that-lead-away", with(&started("\"../x\",\"/x\",\"\",\"teacher\""))),
        seed("bad-version-alone", VERSION),
        seed("bad-empty", []),
        seed("bad-no-version", one.clone()),
        seed("bad-newer-version", one.replace("started", "log").replace("\"rows\"", "\"format\":2,\"rows\"")),
        seed("bad-version-that-is-no-number", "{\"event\":\"log\",\"format\":1e0}\n"),
        seed("bad-number-too-large", with(&one.replace("\"loss\":1", "\"loss\":1e999"))),
        seed("bad-negative", with(&one.replace("\"epochs\":1", "\"epochs\":-1"))),
        seed("bad-no-field", with(&one.replace("\"top1\":2", "\"top2\":2"))),
        seed("bad-field-twice", with(&one.replace("\"top1\":2", "\"top1\":2,\"top1\":3"))),
        seed("bad-nested", with(&format!("{nested}\n"))),
        seed("bad-empty-line", with("\n")),
        seed("bad-no-text", [VERSION.as_bytes(), b"{\"event\":\"\xff\"}\n"].concat()),
        seed("bad-other-line-ends", with(&one).replace('\n', "\r")),
    ];
    with_damages(vec![seed("ok-run", whole)], others)
}

/// A row's result as the program writes it.
pub(super) fn row() -> Value {
    let results = written().1;
    serde_json::to_value(&results[1]).expect("results are JSON")
}

/// Results: one of a run, with and without what may be left out, and mistakes.
pub fn result() -> Vec<Seed> {
    let whole = row();
    let text = |value: &Value| serde_json::to_vec_pretty(value).expect("it is JSON");
    let with = |key: &str, value: Value| {
        let mut changed = whole.clone();
        changed[key] = value;
        text(&changed)
    };
    let without = |keys: &[&str]| {
        let mut changed = whole.clone();
        if let Some(map) = changed.as_object_mut() {
            keys.iter().for_each(|key| drop(map.remove(*key)));
        }
        text(&changed)
    };
    let json = |text: &str| text.parse::<Value>().expect("it is JSON");
    let source = String::from_utf8_lossy(&text(&whole)).into_owned();
    let others = vec![
        seed("ok-little", without(&["settings_sha256", "position", "rewinds", "skipped", "waited_seconds"])),
        seed("ok-no-epochs", with("epochs", json("[]"))),
        seed(
            "ok-published",
            with("published", json(r#"{"value":57.5,"source":"s","note":"n","curve":[1,2.5e300]}"#)),
        ),
        seed(
            "ok-log",
            with("log", json(r#"{"source":"s","until":2,"points":[{"epoch":0,"top1":-2.5e300}]}"#)),
        ),
        seed("ok-names-that-lead-away", with("profile", json(r#""../../x""#))),
        seed("ok-large-numbers", with("planned_epochs", json("18446744073709551615"))),
        seed("ok-unknown-key", with("later", json("{}"))),
        seed("ok-huge-accuracy", source.replace("41.0", "1.7976931348623157e308")),
        seed(
            "ok-rewound-to-nothing",
            with("rewinds", json(r#"[{"epoch":1,"step":0,"term":"kd","lr_factor":null}]"#)),
        ),
        seed("bad-version", with("format_version", json("2"))),
        seed("bad-version-that-is-no-number", with("format_version", json("1.0"))),
        seed("bad-no-version", without(&["format_version"])),
        seed("bad-no-epochs", without(&["epochs"])),
        seed("bad-seed", with("seed", json("-1"))),
        seed("bad-number-too-large", source.replace("41.0", "1e999")),
        seed("bad-list", "[1]"),
        seed("bad-nested", format!("{{\"format_version\":1,\"epochs\":{}", "[".repeat(3000))),
        seed("bad-empty", []),
        seed("bad-no-text", &b"{\"format_version\":1,\"row\":\"\xff\"}"[..]),
    ];
    with_damages(vec![seed("ok-run", text(&whole))], others)
}
