//! Settings.

use super::{seed, with_damages};
use crate::Seed;
use dkd_trainer::config::Config;

/// Everything at once.
const ALL: &str = r#"name = "all"
title = """
A "title"
of two lines\t"""
student.model = 'resnet8'
schedule = { kind = 'milestones', milestones = [2, 4], gamma = 0.2, warmup_epochs = 1 }
[data]
dataset = "synthetic"
augment = "crop-flip"
normalization = "half"
validation = 10
train_limit = 100
test_limit = 50
[train]
epochs = 3
batch_size = 16
seed = 4
nonfinite = "rewind"
rewind_factor = 0.25
metric = "mean"
[checkpoints]
every_epochs = 0
every_steps = 7
every_minutes = 0.5
keep_last = 3
keep_best = true
on_failure = "stop"
[cache]
teacher = "f16"
folder = "kept"
max_gb = 0.5
[optimizer]
lr = 1e-1
momentum = 0.9
nesterov = true
weight_decay = 5e-4
clip_norm = 2.0
[teacher]
model = "resnet20"
weights = "/t.safetensors"
mode = "train"
epochs = 2
optimizer.lr = 0.2
schedule = { kind = "cosine", last = 0.1 }
published = { value = 57.0, source = "a log", note = "", curve = [50.0, 57.0] }
[[rows]]
id = "a"
label = "A"
loss = [{ method = "ce", label_smoothing = 0.1 }, { method = "kd", temperature = 2, reduction = "mean", weight = 0.3 }]
quick = true
[[rows]]
id = "b"
model = "resnet14"
baseline = "a"
teacher_mode = "eval"
nonfinite = "skip"
metric = "last"
seed_offset = 3
note = "ä"
published = { value = 58.5 }
optimizer.momentum = 0.5
loss = [{ method = "dkd", alpha = 2.0, beta = 8.0, warmup_epochs = 5 }, { method = "tckd" }, { method = "nckd" }]
[[rows]]
id = "c"
loss = [{ method = "seed_kd", a = 0.2 }, { method = "dkd_reference", name = "x" }]
[[rows]]
id = "d"
loss = [{ method = "dist", gamma = 1.0, standardize = true }, { method = "ttm", gamma = 0.2 }, { method = "rld", alpha_temperature = 2.0 },
    { method = "ctkd", temperature_min = 2.0, temperature_range = 8.0, curriculum_epochs = 3 },
    { method = "mlkd", form = "reference" }, { method = "tfkd", confidence = 0.9, form = "paper" },
    { method = "crd", negatives = 5 }, { method = "rkd", angle_weight = 1.0 }, { method = "at", power = 3 },
    { method = "sdd", base = "nkd", scales = [1, 2], complementary_weight = 3.0 }]
"#;

/// Settings: those of the repository as they are stored with a run, texts by hand, and mistakes.
pub fn config() -> Vec<Seed> {
    let recipe = |text: &str| Config::parse(text, "seed").and_then(|c| c.check());
    let stored = recipe(ALL).map(|recipe| recipe.to_toml()).expect("the settings above can be used");
    let begin = vec![seed("ok-all", ALL), seed("ok-stored", stored)];
    let small = |text: &str| format!("student.model = 'resnet8'\n{text}\n");
    let row = |text: &str| small(&format!("[[rows]]\nid = 'a'\n{text}"));
    let teacher = |text: &str| small(&format!("[teacher]\nmodel = 'resnet20'\n{text}"));
    let others = vec![
        seed("ok-small", small("")),
        seed("ok-windows", small("[train]\nepochs = 2").replace('\n', "\r\n")),
        seed("ok-mark-before-the-text", format!("\u{feff}{}", small(""))),
        seed("ok-strings", small("title = \"\\u0007\\r\\n'''\"\ndescription = '''\n\"\"\"\\'''")),
        seed("ok-numbers", small("optimizer = { lr = 5e-324, weight_decay = 1.7976931348623157e308 }")),
        seed(
            "ok-zeros",
            row(
                "optimizer = { dampening = -0.0, clip_norm = -0.0 }\nloss = [{ method = 'ce', weight = -0.0 }]",
            ),
        ),
        seed(
            "ok-large-numbers",
            small("train = { epochs = 9223372036854775807, seed = 9223372036854775807 }"),
        ),
        seed(
            "ok-long-warm-up",
            small("schedule = { kind = 'cosine', last = 0.5, warmup_epochs = 9223372036854775807 }"),
        ),
        seed(
            "ok-set",
            row(
                "#set train.epochs=3\n#set rows.a.optimizer.lr = 0.5\n#set rows.0.label=text\n#set data.dataset=synthetic",
            ),
        ),
        seed(
            "ok-set-what-cannot-be",
            row(
                "#set train.epoch=3\n#set rows.b.note=x\n#set =\n#set train\n#set train.epochs=[\n#set name.x=1",
            ),
        ),
        seed("ok-set-many-parts", small(&format!("#set {}b=1", "a.".repeat(400)))),
        seed("ok-set-deep-value", small(&format!("#set title={}", "[".repeat(400)))),
        seed("bad-set-a-wrong-value", small("#set train.epochs=0")),
        seed("bad-unknown-key", small("[optimizer]\nmomentun = 0.9")),
        seed("bad-unknown-key-with-quotes", small("\"`a`b` or `c\" = 1")),
        seed("bad-type", small("[train]\nepochs = 'ten'")),
        seed("bad-number-too-large", small("train.seed = 18446744073709551615")),
        seed("bad-negative", small("train.epochs = -1")),
        seed("bad-no-model", "[[loss]]\nmethod = 'ce'\n"),
        seed("bad-no-rows", small("rows = []")),
        seed("bad-no-loss", row("loss = []")),
        seed("bad-same-rows", row("[[rows]]\nid = 'a'")),
        seed("bad-published-nan", row("published = { value = nan }")),
        seed("bad-published-curve", row("published = { value = 1.0, curve = [-inf] }")),
        seed(
            "ok-log",
            row(
                "log = { epochs = 9223372036854775807, steady_epochs = 0, points = [{ epoch = 9223372036854775807, top1 = 100 }] }",
            ),
        ),
        seed(
            "bad-log-twice-the-same-epoch",
            row(
                "log = { epochs = 2, steady_epochs = 2, points = [{ epoch = 1, top1 = 1 }, { epoch = 1, top1 = 1 }] }",
            ),
        ),
        seed("bad-published-teacher", teacher("published = { value = inf }")),
        seed("bad-name-that-leads-away", small("name = '../a'")),
        seed("bad-name-of-the-root", small("name = '/a'")),
        seed("bad-weight", row("loss = [{ method = 'ce', weight = nan }]")),
        seed("bad-temperature", teacher("[[loss]]\nmethod = 'kd'\ntemperature = 0")),
        seed("bad-smoothing", row("loss = [{ method = 'ce', label_smoothing = nan }]")),
        seed("bad-alpha", teacher("[[loss]]\nmethod = 'dkd'\nalpha = nan")),
        seed("ok-set-nan", small("title = 'x'\n#set train.epochs=nan\n#set train.epoch=3")),
        seed("bad-deep-lists", small(&format!("a = {}", "[".repeat(2000)))),
        seed("bad-deep-tables", small(&format!("a = {}", "{a=".repeat(2000)))),
        seed("bad-deep-key", small(&format!("{}a = 1", "a.".repeat(2000)))),
        seed("bad-cut-in-a-character", &b"title = '\xc3"[..]),
        seed("bad-no-text", &b"\x00\xff\xfe"[..]),
    ];
    with_damages(begin, others)
}
