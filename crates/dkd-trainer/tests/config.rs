//! Any configuration that can be used comes back from its stored form as the same recipe, and no text makes the reader panic.
#![allow(clippy::unwrap_used)]

use dkd_losses::Method;
use dkd_trainer::config::Config;
use proptest::prelude::*;

/// Writes `key = value` for each value that is there.
fn table(name: &str, entries: &[(&str, Option<String>)]) -> String {
    let lines = entries.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_ref()?)));
    format!("[{name}]\n{}", lines.collect::<String>())
}

fn maybe<S: Strategy>(of: S) -> impl Strategy<Value = Option<String>>
where
    S::Value: std::fmt::Debug,
{
    proptest::option::of(of.prop_map(|v| format!("{v:?}")))
}

fn word(all: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(all)
}

fn loss() -> impl Strategy<Value = String> {
    let temperature = maybe(0.05..100.0_f64);
    let numbers = (maybe(0.0..3.0_f64), maybe(0.0..9.0_f64), maybe(0_usize..30));
    (word(&Method::NAMES), temperature, numbers, maybe(any::<bool>())).prop_map(
        |(method, temperature, (weight, beta, warmup), standardize)| {
            let mut text = format!("method = '{method}'");
            let mut add = |key: &str, value: Option<String>| {
                if let Some(value) = value {
                    text.push_str(&format!(", {key} = {value}"));
                }
            };
            add("weight", weight);
            add("warmup_epochs", warmup);
            let on_logits = method != "ce" && !Method::named(method).unwrap().reads_features();
            if on_logits {
                add("standardize", standardize);
            }
            if on_logits && !["ttm", "wttm", "ctkd"].contains(&method) || method == "crd" {
                add("temperature", temperature);
            }
            if ["dkd", "dkd_reference", "dist", "rld"].contains(&method) {
                add("beta", beta);
            }
            format!("{{ {text} }}")
        },
    )
}

fn optimizer() -> impl Strategy<Value = [(&'static str, Option<String>); 5]> {
    (
        maybe(1e-6..10.0_f64),
        maybe(0.01..0.999_f64),
        maybe(any::<bool>()),
        maybe(0.0..0.1_f64),
        maybe(prop_oneof![Just(0.0), 1e-3..100.0]),
    )
        .prop_map(|(lr, momentum, nesterov, weight_decay, clip_norm)| {
            [
                ("lr", lr),
                ("momentum", momentum),
                ("nesterov", nesterov),
                ("weight_decay", weight_decay),
                ("clip_norm", clip_norm),
            ]
        })
}

fn schedule() -> impl Strategy<Value = String> {
    let shape = prop_oneof![
        Just("kind = 'constant'".to_owned()),
        (0.0..=1.0_f64).prop_map(|last| format!("kind = 'cosine', last = {last:?}")),
        (proptest::collection::btree_set(1_usize..200, 1..5), 0.01..1.0_f64).prop_map(|(epochs, gamma)| {
            format!(
                "kind = 'milestones', milestones = {:?}, gamma = {gamma:?}",
                epochs.into_iter().collect::<Vec<_>>()
            )
        }),
    ];
    (shape, 0_usize..9)
        .prop_map(|(shape, warmup)| format!("schedule = {{ {shape}, warmup_epochs = {warmup} }}\n"))
}

fn config() -> impl Strategy<Value = String> {
    let data = (
        word(&["cifar10", "cifar100", "synthetic"]),
        word(&["none", "crop-flip"]),
        word(&["dataset", "half"]),
        maybe(0_usize..5000),
        maybe(1_usize..50_000),
    );
    let train = (
        maybe(1_usize..400),
        maybe(1_usize..512),
        maybe(0..i64::MAX),
        maybe(word(&["stop", "mark", "continue", "skip", "rewind"])),
        maybe(0.01..=1.0_f64),
        maybe(word(&["last", "mean"])),
    );
    let checkpoints = (
        maybe(0_usize..9),
        maybe(0_u64..1000),
        maybe(0.0..60.0_f64),
        maybe(1_usize..9),
        maybe(any::<bool>()),
        maybe(word(&["continue", "stop"])),
    );
    let cache = (maybe(word(&["off", "f32", "f16"])), maybe(word(&["a", "b/c"])), maybe(0.001..1e6_f64));
    let checkpoints = (checkpoints, cache);
    let rows =
        proptest::collection::vec((proptest::collection::vec(loss(), 1..4), schedule(), any::<bool>()), 1..4);
    (data, train, checkpoints, optimizer(), schedule(), rows, maybe("[a-zA-Zäß \"'\\\\\n]{0,20}")).prop_map(
        |(d, t, (c, cache), optimizer, schedule, rows, title)| {
            let mut text = format!("student.model = 'resnet8'\nteacher.model = 'resnet20'\n{schedule}");
            if let Some(title) = title {
                // A Rust string with these characters is also one of TOML.
                text.push_str(&format!("title = {title}\n"));
            }
            let word = |w: &str| Some(format!("'{w}'"));
            text += &table(
                "data",
                &[
                    ("dataset", word(d.0)),
                    ("augment", word(d.1)),
                    ("normalization", word(d.2)),
                    ("validation", d.3),
                    ("train_limit", d.4),
                ],
            );
            let keys = ["epochs", "batch_size", "seed", "nonfinite", "rewind_factor", "metric"];
            text += &table("train", &zip(keys, [t.0, t.1, t.2, t.3, t.4, t.5]));
            let keys =
                ["every_epochs", "every_steps", "every_minutes", "keep_last", "keep_best", "on_failure"];
            text += &table("checkpoints", &zip(keys, [c.0, c.1, c.2, c.3, c.4, c.5]));
            text += &table("cache", &zip(["teacher", "folder", "max_gb"], [cache.0, cache.1, cache.2]));
            text += &table("optimizer", &optimizer);
            for (i, (losses, schedule, quick)) in rows.into_iter().enumerate() {
                let named =
                    losses.iter().enumerate().map(|(k, l)| l.replacen('{', &format!("{{ name = 'p{k}',"), 1));
                let losses = named.collect::<Vec<_>>().join(", ");
                text += &format!("[[rows]]\nid = 'r{i}'\nquick = {quick}\n{schedule}loss = [{losses}]\n");
            }
            text
        },
    )
}

fn zip<const N: usize>(
    keys: [&'static str; N],
    values: [Option<String>; N],
) -> Vec<(&'static str, Option<String>)> {
    keys.into_iter().zip(values).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn stored_settings_give_the_same_recipe(text in config()) {
        let recipe = Config::parse(&text, "t").and_then(|c| c.check());
        let recipe = recipe.map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        let stored = recipe.to_toml();
        let again = Config::parse(&stored, "stored").unwrap().check().unwrap();
        prop_assert_eq!(&again, &recipe);
        prop_assert_eq!(again.to_toml(), stored);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in config(), at in any::<proptest::sample::Index>(), with in "\\PC{0,6}") {
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..(at + 3).min(chars.len()), with.chars());
        let broken: String = chars.into_iter().collect();
        // An error or not, but an answer; an error names the place.
        if let Err(e) = Config::parse(&broken, "t.toml").and_then(|c| c.check()) {
            prop_assert!(e.to_string().starts_with("t.toml"), "{}", e);
        }
    }
}

/// Every key that the reader knows is in docs/configuration.md: the reader itself names those of each table.
#[test]
fn the_documentation_names_every_key() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut seen = 0;
    for (text, prefix) in [
        ("qqq = 1", ""),
        ("data.qqq = 1", ""),
        ("train.qqq = 1", ""),
        ("optimizer.qqq = 1", ""),
        ("schedule.qqq = 1", ""),
        ("checkpoints.qqq = 1", ""),
        ("cache.qqq = 1", ""),
        ("student.qqq = 1", "student."),
        ("teacher.qqq = 1", "teacher."),
        ("[[loss]]\nmethod = 'ce'\nqqq = 1", ""),
        ("[[rows]]\nid = 'a'\nqqq = 1", ""),
        ("[[rows]]\nid = 'a'\npublished = { value = 1.0, qqq = 1 }", ""),
        ("[[rows]]\nid = 'a'\nlog = { qqq = 1 }", ""),
        ("[[rows]]\nid = 'a'\nlog = { points = [{ qqq = 1 }] }", ""),
    ] {
        let message = Config::parse(text, "t").unwrap_err().to_string();
        let known = message.split("Known here: ").nth(1).unwrap_or_else(|| panic!("{text}: {message}"));
        for key in known.trim().split(", ") {
            let named = page.contains(&format!("`{prefix}{key}`")) || page.contains(&format!("[{key}]"));
            assert!(named, "`{prefix}{key}` ({text}) is not in docs/configuration.md");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Settings that came later must not change what earlier results are told by: `dkd table` would train them again.
#[test]
fn results_of_the_repository_belong_to_its_tables() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut checked = 0;
    for folder in std::fs::read_dir(root.join("docs/results")).unwrap() {
        let folder = folder.unwrap();
        // A table that is not among the configurations lies with its results.
        let own = folder.path().join("table.toml");
        let table = root.join("configs/tables").join(folder.file_name()).with_extension("toml");
        let table = if own.exists() { own } else { table };
        let recipe = Config::load(&table).unwrap().check().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = std::fs::read(file).unwrap();
            let result: dkd_trainer::record::RowResult = serde_json::from_slice(&text).unwrap();
            let row = recipe.rows.iter().find(|row| row.id == result.row);
            // The first results have no hash; the teacher is no row.
            if let Some(row) = row.filter(|_| !result.settings_sha256.is_empty()) {
                assert_eq!(row.settings_sha256(&recipe), result.settings_sha256, "{}", result.file_name());
                checked += 1;
            }
        }
    }
    assert!(checked >= 14, "{checked}");
}
