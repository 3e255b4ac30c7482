//! The cache of the teacher's answers changes nothing but the time.
#![allow(clippy::unwrap_used)]

use dkd_datasets::{Dataset, synthetic};
use dkd_kernels::Cpu;
use dkd_trainer::config::Config;
use dkd_trainer::teacher_cache::CacheLayout;
use dkd_trainer::{Context, Recipe, Result, Silent, run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const SEED: u64 = 5;

fn data() -> Dataset {
    synthetic::generate(&synthetic::Options { train: 90, test: 20, seed: 1 })
}

/// A teacher in both modes, read by its logits and its features; 80 images in batches of 32 and one of 16.
fn recipe(augment: &str, cache: &str, folder: &Path) -> Recipe {
    let folder = folder.join("cache");
    // Maps of all views would take gigabytes.
    let maps = if augment == "none" { "{ method = 'at' }," } else { "" };
    let text = format!(
        "data = {{ dataset = 'synthetic', augment = '{augment}', validation = 10 }}
        train = {{ epochs = 3, batch_size = 32 }}
        cache = {{ teacher = '{cache}', folder = '{}', max_gb = 0.4 }}
        optimizer.lr = 0.02
        student.model = 'resnet8'
        teacher = {{ model = 'resnet14', epochs = 1 }}
        [[rows]]
        id = 'dkd'
        loss = [{{ method = 'ce' }}, {{ method = 'dkd' }}]
        [[rows]]
        id = 'maps'
        loss = [{{ method = 'ce' }}, {maps} {{ method = 'rkd' }}]
        [[rows]]
        id = 'train-mode'
        teacher_mode = 'train'
        loss = [{{ method = 'ce' }}, {{ method = 'kd' }}]",
        folder.display()
    );
    Config::parse(&text, "test").unwrap().check().unwrap()
}

/// Trains and returns all weights and results, the latter without times.
fn train(recipe: &Recipe, threads: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = tempfile::tempdir().unwrap();
    let mut context = Context {
        compute: Cpu::new(threads).unwrap().into(),
        sink: &mut Silent,
        weights: Some(folder.path().to_owned()),
        host: None,
        last: None,
        stop: &AtomicBool::new(false),
        checkpoints: None,
        resume: None,
        probe: None,
    };
    let mut all = BTreeMap::new();
    for result in run(recipe, &data(), SEED, &mut context)? {
        all.insert(format!("{}: accuracy", result.row), format!("{:?}", result.epochs).into_bytes());
    }
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path.file_name().unwrap().to_string_lossy().into_owned(), bytes);
        }
    }
    assert_eq!(all.len(), 8, "{:?}", all.keys());
    Ok(all)
}

/// The only file in `folder` with this ending.
fn file(folder: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(folder.join("cache")).unwrap().map(|f| f.unwrap().path());
    let found: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    let [path] = &found[..] else { panic!("{found:?}") };
    path.clone()
}

#[test]
fn a_run_with_the_cache_has_the_bits_of_one_without() {
    for (augment, threads) in [("none", 1), ("crop-flip", 2)] {
        let folder = tempfile::tempdir().unwrap();
        let plain = train(&recipe(augment, "off", folder.path()), 2).unwrap();
        assert!(!folder.path().join("cache").exists());
        let cached = recipe(augment, "f32", folder.path());
        assert!(train(&cached, threads).unwrap() == plain, "{augment}: empty");
        let entries = file(folder.path(), "entries");
        let filled = std::fs::read(&entries).unwrap();
        assert_eq!(filled.len() as u64, CacheLayout::of(&cached, &data()).unwrap().unwrap().file_bytes());
        assert!(train(&cached, 3).unwrap() == plain, "{augment}: filled");
        assert!(std::fs::read(&entries).unwrap() == filled, "{augment}: the same entries");
        // What was damaged is computed again.
        let mut damaged = filled.clone();
        let size = filled.len() / (90 * if augment == "none" { 1 } else { 162 });
        let whole = (0..damaged.len() / size).filter(|i| damaged[i * size] != 0).collect::<Vec<_>>();
        assert!(whole.len() >= 80, "{}", whole.len());
        for i in whole.iter().step_by(3) {
            damaged[i * size + 8 + i % (size - 8)] ^= 0x10;
        }
        std::fs::write(&entries, &damaged).unwrap();
        assert!(train(&cached, 2).unwrap() == plain, "{augment}: damaged");
        assert!(std::fs::read(&entries).unwrap() == filled, "{augment}: mended");
    }
}

#[test]
fn half_precision_does_not_depend_on_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let plain = recipe("none", "off", folder.path());
    let cached = recipe("none", "f16", folder.path());
    let first = train(&cached, 2).unwrap();
    assert!(train(&cached, 2).unwrap() == first);
    let exact = train(&plain, 2).unwrap();
    for (row, changes) in [("dkd", true), ("maps", true), ("train-mode", false)] {
        let name = format!("{row}-{SEED}.safetensors");
        assert_eq!(first[&name] != exact[&name], changes, "{row}");
        // Results are told apart by their settings.
        let hash =
            |recipe: &Recipe| recipe.rows.iter().find(|r| r.id == row).unwrap().settings_sha256(recipe);
        assert_eq!(hash(&cached) != hash(&plain), changes, "{row}");
    }
    let exact = recipe("none", "f32", folder.path());
    assert_eq!(exact.rows[0].settings_sha256(&exact), plain.rows[0].settings_sha256(&plain));
}

#[test]
fn what_belongs_to_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cached = recipe("none", "f32", folder.path());
    train(&cached, 1).unwrap();
    let path = file(folder.path(), "json");
    let description = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [("\"none\"", "\"crop-flip\""), ("\"resnet14\"", "\"resnet20\"")] {
        assert!(description.contains(from));
        std::fs::write(&path, description.replace(from, to)).unwrap();
        let message = train(&cached, 1).unwrap_err().to_string();
        let key = if from.contains("none") { "augment" } else { "model" };
        assert!(message.contains(key) && message.contains(&path.display().to_string()), "{message}");
    }
    std::fs::write(&path, "{").unwrap();
    assert!(train(&cached, 1).unwrap_err().to_string().contains("is damaged"));
    std::fs::write(&path, &description).unwrap();
    let entries = file(folder.path(), "entries");
    std::fs::write(&entries, "short").unwrap();
    let message = train(&cached, 1).unwrap_err().to_string();
    assert!(message.contains("has 5 bytes") && message.contains("can be removed"), "{message}");
    // Other weights have a cache of their own.
    std::fs::remove_file(&entries).unwrap();
    let mut other = cached.clone();
    other.teacher.as_mut().unwrap().optimizer.lr = 0.01;
    train(&other, 1).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("cache")).unwrap().count(), 3);
}

#[test]
fn what_may_become_too_large_is_refused_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let mut large = recipe("crop-flip", "f32", folder.path());
    large.cache.as_mut().unwrap().max_bytes = 1_000_000;
    let message = train(&large, 1).unwrap_err().to_string();
    assert!(
        message.contains("90 images x 162 views") && message.contains("the 1 MB of cache.max_gb"),
        "{message}"
    );
    assert!(!folder.path().join("cache").exists());
    // Only a teacher in training mode: there is nothing to keep.
    large.rows.retain(|r| r.id == "train-mode");
    assert_eq!(CacheLayout::of(&large, &data()).unwrap(), None);
}
