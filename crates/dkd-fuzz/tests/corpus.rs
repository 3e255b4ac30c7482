//! Every file of the corpus through its target, without a fuzzer.
#![allow(clippy::unwrap_used)]

use dkd_fuzz::TARGETS;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Largest file, and largest corpus.
const FILE: usize = 32 << 10;
const CORPUS: usize = 1 << 20;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// A target's files by name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(fuzz().join("corpus").join(target)).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn no_file_does_harm() {
    let mut wrong = Vec::new();
    for target in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for (name, bytes) in corpus(target.name) {
            let expected =
                [("ok-", true), ("bad-", false)].into_iter().find(|(start, _)| name.starts_with(start));
            match (catch_unwind(|| (target.run)(&bytes)), expected.map(|(_, e)| e)) {
                (Err(_), _) => wrong.push(format!("{}/{name}: the target panics, see above", target.name)),
                (Ok(found), Some(wanted)) if found != wanted => {
                    wrong.push(format!("{}/{name}: accepted is {found}", target.name));
                }
                (Ok(true), _) => accepted += 1,
                (Ok(false), _) => refused += 1,
            }
        }
        assert!(accepted >= 2 && refused >= 5, "{}: {accepted} accepted, {refused} refused", target.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_corpus_is_small_and_has_the_seeds() {
    let mut total = 0;
    for target in TARGETS {
        let files = corpus(target.name);
        for (name, bytes) in &files {
            assert!(bytes.len() <= FILE, "{}/{name} has {} bytes", target.name, bytes.len());
            total += bytes.len();
        }
        for seed in (target.seeds)() {
            // What is written has changed, and so must the corpus, or the fuzzer begins with files that nobody writes.
            assert!(
                files.get(&seed.name) == Some(&seed.bytes),
                "{}/{} is not what the program makes: `cargo run -p dkd-fuzz --example seeds`",
                target.name,
                seed.name
            );
        }
    }
    assert!(total <= CORPUS, "{total} bytes");
}

#[test]
fn every_target_has_a_binary() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let source = fuzz().join(format!("fuzz_targets/{}.rs", target.name));
        let text = std::fs::read_to_string(&source).unwrap();
        assert!(text.contains(&format!("dkd_fuzz::{}(", target.name)), "{}", source.display());
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
    }
    assert_eq!(std::fs::read_dir(fuzz().join("fuzz_targets")).unwrap().count(), TARGETS.len());
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
