//! Defaults, inheritance and mistakes.

use super::*;
use crate::recipe::{NonFinite, TeacherMode};

fn check(text: &str) -> Result<Recipe> {
    Config::parse(&format!("student.model = 'resnet8'\n{text}"), "t.toml")?.check()
}

#[test]
fn defaults_and_inheritance() {
    let r = check(
        "[optimizer]\nlr = 0.1\n[teacher]\nmodel = 'resnet20'\nmode = 'train'\n[teacher.optimizer]\nlr = 0.2\n\
         [[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nteacher_mode = 'eval'\noptimizer.momentum = 0.5\n\
         loss = [{ method = 'ce', weight = 0.5 }, { method = 'dkd', beta = 2.0, warmup_epochs = 5 }]",
    );
    let r = r.unwrap();
    assert_eq!(
        (r.rows[0].optimizer.lr, r.rows[1].optimizer.lr, r.rows[1].optimizer.momentum),
        (0.1, 0.1, 0.5)
    );
    assert_eq!(r.teacher.as_ref().unwrap().optimizer.lr, 0.2);
    assert_eq!((r.rows[0].teacher_mode, r.rows[1].teacher_mode), (TeacherMode::Train, TeacherMode::Eval));
    assert_eq!(r.rows[1].setting(), "0.5 x CE + DKD (T=4, alpha=1, beta=2) with 5 epochs of warm-up");
    assert_eq!((r.rows[0].position, r.rows[1].position), (1, 2));
    assert_eq!(r.rows[1].parts[1].warmup.epochs, 5);
    assert_eq!((r.train.epochs, r.train.batch_size), (30, 64));
    // Without a word about it, DKD has the reference's warm-up, and a table goes on without a row that diverged.
    let r = check(
        "teacher.model = 'resnet20'\n[[rows]]\nid = 'a'\nloss = [{ method = 'dkd' }, { method = 'kd' }]\n[[rows]]\nid = 'b'",
    );
    let row = &r.unwrap().rows[0];
    assert_eq!(row.parts.iter().map(|p| p.warmup.epochs).collect::<Vec<_>>(), [20, 0]);
    assert_eq!(row.nonfinite, NonFinite::Mark);
    assert_eq!(check("").unwrap().rows[0].nonfinite, NonFinite::Stop);
}

#[test]
fn mistakes_are_named() {
    let log = |text: &str| format!("[[rows]]\nid = 'a'\nlog = {{ {text} }}");
    let points = |text: &str| log(&format!("epochs = 3, steady_epochs = 3, points = [{{ epoch = {text} }}]"));
    for (text, expected) in [
        ("optimizer.lr = -1", "`optimizer.lr` is -1"),
        ("optimizer.nesterov = true\noptimizer.momentum = 0", "nesterov"),
        ("schedule.kind = 'cosin'", "`schedule.kind` is cosin"),
        ("schedule.gamma = 0.1", "no meaning"),
        ("train.epochs = 0", "`train.epochs` is 0"),
        ("data.augment = 'mixup'", "crop-flip"),
        ("data.mixup = true", "losses that use no labels with `data.mixup`, such as `kd`; `ce` does"),
        (
            "data.mixup = true\ncache.teacher = 'f32'\nteacher.model = 'resnet20'\nloss = [{ method = 'kd' }]",
            "`cache.teacher` is on; it must be `off` with `data.mixup`",
        ),
        (
            "train.views = 2\ncache.teacher = 'f32'\nteacher.model = 'resnet20'\nloss = [{ method = 'kd' }]",
            "`cache.teacher` is on; it must be `off` where row `run` has two views",
        ),
        ("train.views = 0", "`train.views` is 0; it must be 1, or 2"),
        ("[[rows]]\nid = 'a'\nviews = 3", "`rows.a.views` is 3; it must be 1, or 2"),
        (
            "train.views = 2\nteacher.model = 'resnet20'\nloss = [{ method = 'mlkd', form = 'reference' }]",
            "`rows.run.views` is 2; it must be 1 with `mlkd` of form `reference`",
        ),
        ("cache.teacher = 'f64'", "`cache.teacher` is f64; it must be `off`, `f32` or `f16`"),
        ("cache.max_gb = 0", "`cache.max_gb` is 0"),
        ("[[loss]]\nmethod = 'kd'", "[teacher]"),
        ("[[loss]]\nmethod = 'kdd'", "ce, kd, dkd"),
        ("teacher.model = 'resnet20'\n[[loss]]\nmethod = 'kd'\ntemperature = 0", "temperature is 0"),
        (
            "teacher.model = 'resnet20'\n[[loss]]\nmethod = 'dkd'\nbeta = nan",
            "`rows.run.loss.0.beta` is NaN; it must be a finite number",
        ),
        ("[[loss]]\nmethod = 'ce'\nbeta = 1", "no setting of method `ce`"),
        ("[[loss]]\nmethod = 'ce'\nstandardize = true", "`rows.run.loss.0.standardize` is no setting"),
        ("[[loss]]\nmethod = 'ttm'\ntemperature = 2", "`ttm`; it has: gamma, standardize"),
        ("[[loss]]\nmethod = 'ttm'\ngamma = 0", "setting `gamma` of method `ttm` is 0"),
        ("[[loss]]\nmethod = 'dist'\nbeta = -1", "at least 0"),
        ("[[loss]]\nmethod = 'tfkd'\nconfidence = 1", "above 0 and below 1"),
        ("[[loss]]\nmethod = 'mlkd'\nform = 'code'", "`rows.run.loss.0.form` is code; it must be `paper`"),
        ("[[loss]]\nmethod = 'ctkd'\ntemperature_min = 0", "setting `temperature_min` of method `ctkd`"),
        ("[[rows]]\nid = 'a'\n[[rows]]\nid = 'a'", "no other row"),
        ("[[rows]]\nid = 'a/b'", "letters"),
        ("rows = []", "`rows` is empty; it must be at least one row"),
        ("name = '../a'", "`name` is `../a`; it must be the name of a folder"),
        ("name = ''", "`name` is ``"),
        ("[[rows]]\nid = 'a'\npublished = { value = nan }", "`rows.a.published.value` is NaN"),
        (
            "[[rows]]\nid = 'a'\npublished.value = 1.0\npublished.curve = [1.0, inf]",
            "`rows.a.published.curve` is inf",
        ),
        ("[teacher]\nmodel = 'resnet20'\npublished.value = -inf", "`teacher.published.value` is -inf"),
        (&log("epochs = 0, steady_epochs = 0, points = []"), "`rows.a.log.epochs` is 0"),
        (
            &log("epochs = 3, steady_epochs = 4, points = []"),
            "`rows.a.log.steady_epochs` is 4; it must be at most the log's 3 epochs",
        ),
        (&log("epochs = 3, steady_epochs = 3, points = []"), "`rows.a.log.points` is empty"),
        (&log("epochs = 3, points = []"), "missing field `steady_epochs`"),
        (
            &points("0, top1 = 1"),
            "`rows.a.log.points.0.epoch` is 0; it must be from 1 to the log's last epoch, 3",
        ),
        (&points("4, top1 = 1"), "`rows.a.log.points.0.epoch` is 4"),
        (
            &points("2, top1 = 1 }, { epoch = 2, top1 = 1"),
            "`rows.a.log.points.1.epoch` is 2; it must be from 3",
        ),
        (&points("3, top1 = 1 }, { epoch = 2, top1 = 1"), "`rows.a.log.points.1.epoch` is 2"),
        (&points("1, top1 = 100.5"), "`rows.a.log.points.0.top1` is 100.5; it must be from 0 to 100"),
        (&points("1, top1 = nan"), "`rows.a.log.points.0.top1` is NaN"),
        (
            "[[rows]]\nid = 'a'\nbaseline = 'c'\n[[rows]]\nid = 'b'",
            "`rows.a.baseline` is c; it must be another row: b",
        ),
        ("[[rows]]\nid = 'a'\nbaseline = 'a'", "`rows.a.baseline` is a"),
        ("[[rows]]\nid = 'a'\nmodel = 'resnet21'", "resnet20"),
        ("train.nonfinite = 'ignore'", "`stop`, `mark`, `continue`, `skip`, `rewind`"),
        ("train.rewind_factor = 2.0", "`train.rewind_factor` is 2; it must be above 0 and at most 1"),
        ("optimizer.clip_norm = -1.0", "`optimizer.clip_norm` is -1"),
        ("checkpoints.keep_last = 0", "`checkpoints.keep_last` is 0"),
        ("checkpoints.every_minutes = -1.0", "at least 0"),
        ("checkpoints.on_failure = 'ignore'", "`continue` or `stop`"),
        ("checkpoints.every_step = 3", "every_steps"),
    ] {
        let message = check(text).unwrap_err().to_string();
        assert!(message.starts_with("t.toml") && message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn every_method_is_one_line() {
    for (line, setting) in [
        ("'dist', beta = 1, gamma = 0.5", "DIST (T=4, beta=1, gamma=0.5)"),
        ("'nkd', temperature = 2", "NKD (T=2, gamma=1.5)"),
        ("'mlkd'", "MLKD (T=4 and 2, 3, 5, 6)"),
        ("'mlkd', form = 'reference'", "MLKD (T=4 and 2, 3, 5, 6, reference)"),
        ("'ttm', weight = 45", "45 x TTM (gamma=0.1)"),
        ("'wttm', gamma = 0.2", "WTTM (gamma=0.2)"),
        ("'ctkd', temperature_range = 4, curriculum_epochs = 5", "CTKD (T from 1 to 5, 5 epochs)"),
        ("'rld'", "RLD (T=1 and 4, alpha=1, beta=8) with 20 epochs of warm-up"),
        (
            "'sdd'",
            "SDD (scales [1, 2, 4], complementary 2) of DKD (T=4, alpha=1, beta=8) with 20 epochs of warm-up",
        ),
        (
            "'sdd', base = 'nkd', scales = [1, 2]",
            "SDD (scales [1, 2], complementary 2) of NKD (T=1, gamma=1.5)",
        ),
        ("'tfkd'", "Tf-KD (T=20, confidence=0.99)"),
        ("'fitnet'", "100 x FitNet (stage 2)"),
        ("'at', weight = 1", "AT (p=2)"),
        ("'reviewkd'", "ReviewKD with 20 epochs of warm-up"),
        ("'kd', temperature = 2, weight = 9, standardize = true", "9 x standardised KD (T=2)"),
    ] {
        let text = format!("teacher.model = 'resnet20'\nloss = [{{ method = 'ce' }}, {{ method = {line} }}]");
        let recipe = check(&text).unwrap();
        assert_eq!(recipe.rows[0].setting(), format!("CE + {setting}"));
        recipe.rows[0].objective().unwrap();
        assert_eq!(recipe.rows[0].needs_teacher(), !line.starts_with("'tfkd'"), "{line}");
    }
    assert!(!check("loss = [{ method = 'tfkd' }]").unwrap().rows[0].needs_teacher());
}

#[test]
fn standardised_logits_are_another_setting() {
    let hash = |more: &str| {
        let recipe =
            check(&format!("teacher.model = 'resnet20'\nloss = [{{ method = 'kd'{more} }}]")).unwrap();
        recipe.rows[0].settings_sha256(&recipe)
    };
    assert_eq!(hash(""), hash(", standardize = false"));
    assert_ne!(hash(""), hash(", standardize = true"));
    // A result of earlier versions, which knew nothing of it, is still one of these settings.
    let part = &check("teacher.model = 'resnet20'\nloss = [{ method = 'tckd' }]").unwrap().rows[0].parts[0];
    let text = "PartRecipe { name: \"tckd\", method: Tckd { temperature: Temperature(4.0) }, weight: 1.0, \
                warmup: Warmup { epochs: 0 } }";
    assert_eq!(format!("{part:?}"), text);
}

#[test]
fn policies_about_numbers_and_checkpoints() {
    let r = check(
        "[train]\nnonfinite = 'rewind'\nrewind_factor = 0.25\n[optimizer]\nclip_norm = 2.0\n\
         [checkpoints]\nevery_steps = 200\nevery_minutes = 0\nkeep_last = 3\nkeep_best = true\non_failure = 'stop'\n\
         [[rows]]\nid = 'a'\noptimizer.clip_norm = 0\n[[rows]]\nid = 'b'\nnonfinite = 'skip'",
    );
    let r = r.unwrap();
    assert_eq!((r.rows[0].clip_norm, r.rows[1].clip_norm), (None, Some(2.0)));
    assert_eq!((r.rows[0].nonfinite, r.rows[1].nonfinite), (NonFinite::Rewind, NonFinite::Skip));
    assert_eq!(r.train.rewind_factor, 0.25);
    let (policy, stop) = (r.checkpoints.policy, r.checkpoints.stop_on_failure);
    assert_eq!((policy.every_epochs, policy.every_steps, policy.every_minutes), (1, 200, 0.0));
    assert_eq!((policy.keep_last, policy.keep_best, stop), (3, true, true));
    // What is not used changes no hash, so that earlier results stay comparable.
    let hash = |text: &str| {
        let recipe = check(text).unwrap();
        recipe.rows[0].settings_sha256(&recipe)
    };
    assert_eq!(hash("train.rewind_factor = 0.25\n[checkpoints]\nkeep_last = 5"), hash(""));
    assert_ne!(hash("optimizer.clip_norm = 1.0"), hash(""));
    let rewinding = "[train]\nnonfinite = 'rewind'\nrewind_factor = ";
    assert_ne!(hash(&format!("{rewinding}0.25")), hash(&format!("{rewinding}0.5")));
}

#[test]
fn every_momentum_has_an_optimizer_and_the_first_the_weight_decay() {
    let loss = "[[loss]]\nmethod = 'ce'\nown_momentum = 0.825\n[[loss]]\nmethod = 'kd'\nown_momentum = 0.975\n\
                [[loss]]\nmethod = 'dist'\nown_momentum = 0.975";
    let text =
        format!("optimizer = {{ momentum = 0.9, weight_decay = 5e-4 }}\nteacher.model = 'resnet8'\n{loss}");
    let row = check(&text).unwrap().rows.remove(0);
    let all: Vec<_> = row.optimizers().iter().map(|o| (o.momentum, o.weight_decay)).collect();
    assert_eq!(all, [(0.825, 5e-4), (0.975, 0.0)]);
    assert!(row.setting().contains("KD (T=4) with momentum 0.975"), "{}", row.setting());
    let message = check("[[loss]]\nmethod = 'ce'\nown_momentum = 1.0").unwrap_err().to_string();
    assert!(message.contains("own_momentum") && message.contains("below 1"), "{message}");
}

#[test]
fn a_network_may_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "mine.toml",
        "layers = [{ op = 'global_avg_pool' }, { op = 'linear', name = 'fc', out = 'classes' }]",
    );
    write(
        "other.json",
        "{\"layers\": [{\"op\": \"flatten\"}, {\"op\": \"linear\", \"name\": \"fc\", \"out\": \"classes\"}]}",
    );
    write(
        "run.toml",
        "student.model = 'mine.toml'\n[[rows]]\nid = 'a'\n[[rows]]\nid = 'b'\nmodel = 'other.json'",
    );
    let recipe = Config::load(&folder.path().join("run.toml")).unwrap().check().unwrap();
    assert_eq!(recipe.rows.iter().map(|r| r.model.as_str()).collect::<Vec<_>>(), ["mine", "other"]);
    assert_eq!(recipe.networks.keys().collect::<Vec<_>>(), ["mine", "other"]);
    // What is stored does not need the files.
    let stored = recipe.to_toml();
    std::fs::remove_file(folder.path().join("mine.toml")).unwrap();
    assert_eq!(Config::parse(&stored, "stored").unwrap().check().unwrap(), recipe);
    // Another network of the same name has other results.
    let changed = stored.replace("global_avg_pool", "flatten");
    let changed = Config::parse(&changed, "changed").unwrap().check().unwrap();
    assert_ne!(changed.rows[0].settings_sha256(&changed), recipe.rows[0].settings_sha256(&recipe));
    assert_eq!(changed.rows[1].settings_sha256(&changed), recipe.rows[1].settings_sha256(&recipe));
    let fails = |file: &str| {
        write("bad.toml", &format!("student.model = '{file}'"));
        Config::load(&folder.path().join("bad.toml")).unwrap().check().unwrap_err().to_string()
    };
    let message = fails("mine.toml");
    assert!(message.contains("`student.model`") && message.contains("mine.toml"), "{message}");
    for (file, text, expected) in [
        ("resnet20.toml", "layers = []", "a name that no other network has"),
        ("a b.toml", "layers = []", "a name that no other network has"),
        ("odd.toml", "layers = 3", "odd.toml"),
    ] {
        write(file, text);
        let message = fails(file);
        assert!(message.contains(expected), "{message}");
    }
    let message = check("[networks.resnet20]\nlayers = []").unwrap_err().to_string();
    assert!(message.contains("`networks` has a network called `resnet20`"), "{message}");
}
