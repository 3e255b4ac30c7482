//! Searches over settings.

use super::*;
use crate::config::Config;
use dkd_datasets::synthetic;
use std::path::Path;

const BASE: &str = "
data = { dataset = 'synthetic', train_limit = 200, test_limit = 10, validation = 20 }
train = { epochs = 3, batch_size = 16 }
optimizer = { lr = 0.05 }
student.model = 'resnet8'
teacher = { model = 'resnet8', mode = 'train' }
loss = [{ method = 'ce' }, { method = 'kd', temperature = 2.0 }]
";

/// A search that stands in a file beside its base.
fn search(text: &str) -> crate::Result<Search> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.toml"), BASE).unwrap();
    std::fs::write(folder.path().join("two.toml"), format!("{BASE}[[rows]]\nid = 'a'\n[[rows]]\nid = 'b'"))
        .unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, text).unwrap();
    Search::load(&path)
}

fn with_keys(head: &str, keys: &str) -> String {
    format!("base = 'base.toml'\n{head}\n{keys}")
}

const LR: &str = "[keys.'optimizer.lr']\nlow = 0.01\nhigh = 0.1\nscale = 'log'\npoints = 2\n";

#[test]
fn trials_that_share_their_images_and_teacher_are_trained_together() {
    let keys = format!("{LR}[keys.'loss.1.temperature']\nvalues = [1.0, 4.0]");
    let search = search(&with_keys("strategy = 'grid'", &keys)).unwrap();
    search.check().unwrap();
    assert_eq!((search.name.as_str(), search.validation, search.plan.epochs), ("s", 20, 3));
    let cohorts = search.cohorts(search.plan.next(&[]).unwrap()).unwrap();
    assert_eq!((cohorts.len(), cohorts[0].proposals.len()), (1, 4));
    let recipe = &cohorts[0].recipe;
    let rows: Vec<(&str, f64, String)> =
        recipe.rows.iter().map(|r| (r.id.as_str(), r.optimizer.lr, r.setting())).collect();
    let setting = |t: f64| format!("CE + KD (T={t})");
    // The keys by name: the last changes fastest.
    let expected = [
        ("t0001", 0.01, setting(1.0)),
        ("t0002", 0.1, setting(1.0)),
        ("t0003", 0.01, setting(4.0)),
        ("t0004", 0.1, setting(4.0)),
    ];
    assert_eq!(rows, expected);
    assert!(recipe.rows.iter().all(|r| r.nonfinite == crate::NonFinite::Mark));
    assert_eq!((recipe.data.validation, recipe.data.train_limit, recipe.data.test_limit), (0, None, None));
    // The teacher's settings are the base's, not the trials'.
    let teacher = recipe.teacher.as_ref().unwrap();
    assert_eq!((teacher.optimizer.lr, teacher.epochs), (0.05, 3));
    assert!(recipe.rows.iter().all(|r| r.teacher_mode == crate::TeacherMode::Train));
}

#[test]
fn trials_that_differ_in_more_than_their_rows_are_trained_apart() {
    let keys = format!("{LR}[keys.'train.batch_size']\nvalues = [16, 32]");
    let search = search(&with_keys("strategy = 'grid'\nepochs = 2", &keys)).unwrap();
    search.check().unwrap();
    let cohorts = search.cohorts(search.plan.next(&[]).unwrap()).unwrap();
    let shape: Vec<(usize, usize, usize)> = cohorts
        .iter()
        .map(|c| (c.recipe.train.batch_size, c.recipe.train.epochs, c.recipe.rows.len()))
        .collect();
    assert_eq!(shape, [(16, 2, 2), (32, 2, 2)]);
}

#[test]
fn no_test_image_is_among_those_of_a_search() {
    let search = search(&with_keys("strategy = 'random'\nvalidation = 50", LR)).unwrap();
    let data = synthetic::generate(&synthetic::Options { train: 300, test: 40, seed: 1 });
    let cut = search.cut(&data).unwrap();
    assert_eq!((cut.train.len(), cut.test.len()), (150, 50));
    let held = |i: &usize| cut.test.origin.contains(&(*i as u32));
    assert!(cut.test.origin.iter().all(|o| *o < 200));
    assert_eq!(cut.test.images, data.train.select(&(0..200).filter(held).collect::<Vec<_>>()).images);
    let others = data.train.select(&(0..200).filter(|i| !held(i)).collect::<Vec<_>>());
    assert_eq!((&cut.train.images, &cut.train.labels), (&others.images, &others.labels));
    assert_eq!(cut.train.origin, (0..150).collect::<Vec<_>>());
    let few = synthetic::generate(&synthetic::Options { train: 50, test: 40, seed: 1 });
    let message = search.cut(&few).unwrap_err().to_string();
    assert!(message.contains("s.toml: `validation` is 50") && message.contains("of 50"), "{message}");
}

#[test]
fn mistakes_are_named_with_file_and_key() {
    let random = |keys: &str| with_keys("strategy = 'random'", keys);
    for (text, expected) in [
        (with_keys("strategy = 'rndom'", LR), "s.toml:2: unknown variant `rndom`, expected one of `grid`"),
        (
            with_keys("strategy = 'grid'\nepoch = 3", LR),
            "s.toml:3: unknown key `epoch`; did you mean `epochs`",
        ),
        (with_keys("strategy = 'grid'\ntrials = 3", LR), "`trials` means nothing"),
        (with_keys("strategy = 'tpe'\neta = 3", LR), "`eta` means something with strategy = \"halving\""),
        (
            with_keys("strategy = 'halving'\nfirst_epochs = 4", LR),
            "`first_epochs` is 4; it must be from 1 to 3",
        ),
        (with_keys("strategy = 'random'\nvalidation = 0", LR), "`validation` is 0"),
        (random(LR).replace("base.toml", "two.toml"), "two.toml has 2 rows"),
        (random(LR).replace("base.toml", "none.toml"), "none.toml"),
        (random("keys = {}"), "no keys"),
        (random("[keys.optimizer.lr]\nvalues = [1]"), "in quotes, as in [keys.\"optimizer.lr\"]"),
        (random("[keys.'optimizer.lr']\nvalues = [1]\nlow = 1"), "`keys.\"optimizer.lr\"`: expected `values"),
        (random("[keys.'optimizer.lr']\nlow = 1\nhigh = 0"), "`keys.\"optimizer.lr\"`: from 1 to 0"),
        (random("[keys.'optimizer.lrr']\nvalues = [1, 2]"), "unknown key `lrr`; did you mean `lr`"),
        (random("[keys.'optimizer.lr']\nvalues = [0.1, 'much']"), "`keys.\"optimizer.lr\"` = \"much\": "),
        (random("[keys.'optimizer.lr']\nvalues = [0.1, -1]"), "s.toml: `optimizer.lr` is -1"),
        (random("[keys.'student.model']\nvalues = ['resnet8', 'resnet9']"), "resnet9"),
        (random("[keys.'loss.2.beta']\nvalues = [1.0, 2.0]"), "has no entry `2`"),
        (random("[keys.'train.seed']\nvalues = [1, 2]"), "`keys.\"train.seed\"` changes no result"),
        (random("[keys.'train.epochs']\nvalues = [1, 2]"), "changes no result"),
        (random("[keys.'data.test_limit']\nvalues = [1, 2]"), "changes no result"),
        (random("[keys.'data.dataset']\nvalues = ['cifar10', 'cifar100']"), "the same images"),
        (with_keys("strategy = 'grid'", &LR.replace("points = 2\n", "")), "a grid needs `points`"),
    ] {
        let error = search(&text).and_then(|s| s.check()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{text}: {message}");
        let file = matches!(error, crate::Error::File(_));
        assert!(file || matches!(error, crate::Error::Config { .. }), "{message}");
    }
}

#[test]
fn settings_tell_searches_apart() {
    let of = |head: &str| search(&with_keys(head, LR)).unwrap().settings().unwrap();
    let random = of("strategy = 'random'\ntrials = 5");
    assert_eq!(random, of("strategy = 'random'\ntrials = 9\ntogether = 2"), "more of the same");
    let tpe = of("strategy = 'tpe'");
    assert_ne!(tpe, of("strategy = 'tpe'\ntogether = 2"));
    let halving = of("strategy = 'halving'");
    for other in [
        random.clone(),
        tpe,
        of("strategy = 'halving'\ntrials = 9"),
        of("strategy = 'halving'\nseed = 1"),
        of("strategy = 'halving'\nepochs = 2"),
        of("strategy = 'halving'\nvalidation = 2"),
        of("strategy = 'halving'\nmetric = 'loss'"),
    ] {
        assert_ne!(other, halving);
    }
    let other = search(&with_keys("strategy = 'random'", &LR.replace("0.1", "0.2"))).unwrap();
    assert_ne!(other.settings().unwrap(), random);
    // They are settings, and read as such.
    assert!(random.parse::<toml::Table>().unwrap().contains_key("search"));
}

#[test]
fn searches_of_the_repository_can_be_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/search");
    let mut seen = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_file() {
            let search = Search::load(&path).unwrap();
            search.check().unwrap_or_else(|e| panic!("{e}"));
            assert!(Config::load(&path).is_err(), "a search is no run");
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen}");
}
