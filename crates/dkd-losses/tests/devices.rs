//! Which losses may be computed on a GPU, and that their text keeps what that promises.
#![allow(clippy::unwrap_used)]
mod support;

use dkd_losses::{
    Checks, Distiller, Form, LossFunction, Method, Objective, Part, Temperature, register_loss,
};
use std::fs;
use std::path::{Path, PathBuf};
use support::Networks;

/// Those that may, between networks whose maps have the same sizes.
const ON_DEVICE: [&str; 18] = [
    "ce",
    "kd",
    "dkd",
    "tckd",
    "nckd",
    "dist",
    "nkd",
    "mlkd",
    "ttm",
    "wttm",
    "tfkd",
    "at",
    "nst",
    "pkt",
    "rkd",
    "sp",
    "seed_kd",
    "dkd_reference",
];

/// Files that read values to the host or compute on the CPU only. [`ON_DEVICE`] uses three of them, but not these lines.
const ON_HOST: [&str; 12] = [
    // Labels, which are there; and checks that a trainer turns off.
    "check.rs",
    "feature/crd.rs",
    "feature/eigen.rs",
    "feature/fitnet.rs",
    "feature/hierarchy.rs",
    "feature/layers.rs",
    "feature/overhaul.rs",
    "feature/review.rs",
    // Maps of different sizes.
    "feature/stages.rs",
    // The authors' form.
    "mlkd.rs",
    "rld.rs",
    "sdd.rs",
];

fn networks(teacher_side: usize) -> Networks {
    let stages = |side: usize| {
        let maps = ["feats", "preact_feats"]
            .map(|kind| (0..4).map(move |i| (format!("{kind}.{i}"), vec![4, side >> i, side >> i])));
        let mut all: Vec<(String, Vec<usize>)> = maps.into_iter().flatten().collect();
        all.push(("pooled_feat".to_owned(), vec![8]));
        all
    };
    let (student, teacher) = (stages(32), stages(teacher_side));
    let [student, teacher] = [&student, &teacher].map(|taps| -> Vec<(&str, &[usize])> {
        taps.iter().map(|(name, dims)| (name.as_str(), dims.as_slice())).collect()
    });
    Networks::new(&student, &teacher)
}

/// Whether the method may, if it can be prepared for these networks.
fn on_device(name: &str, networks: &Networks) -> Option<bool> {
    let mut objective = Method::named(name).unwrap().build().unwrap();
    networks.prepare(&mut *objective).ok()?;
    Some(objective.on_device())
}

#[test]
fn the_list_is_what_objectives_say() {
    let (same, other) = (networks(32), networks(64));
    for name in Method::NAMES {
        // The networks here have no classifier for this one.
        let Some(found) = on_device(name, &same) else {
            assert_eq!(name, "sdd");
            continue;
        };
        assert_eq!(found, ON_DEVICE.contains(&name), "{name}");
        let averages = ["at", "nst"].contains(&name);
        // One of them takes maps of equal sizes only.
        assert_eq!(on_device(name, &other).unwrap_or(false), found && !averages, "{name}");
    }
    let reference = Method::Mlkd { temperature: Temperature::FOUR, form: Form::Reference };
    assert!(!reference.build().unwrap().on_device());
}

#[test]
fn a_sum_may_if_all_its_parts_may_and_nothing_is_checked() {
    let function: LossFunction = |batch| Ok(batch.student_logits()?.mean_all()?);
    register_loss("from outside", function).unwrap();
    let of = |names: &[&str], checks: Checks| {
        let mut all = Distiller::new().checks(checks);
        for name in names {
            let part = Part::boxed(*name, Method::named(name).unwrap().build().unwrap());
            all = all.with(part.standardized()).unwrap();
        }
        all.on_device()
    };
    assert!(of(&["ce", "dist"], Checks::None));
    assert!(!of(&["ce", "dist"], Checks::Strict));
    assert!(!of(&["ce", "rld"], Checks::None));
    assert!(!of(&["ce", "from outside"], Checks::None));
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.file_name().is_some_and(|n| n != "tests.rs") {
            all.push(path);
        }
    }
}

/// A GPU is not there to say so: whoever writes a line that waits for one, or that it cannot run, hears of it here.
#[test]
fn nothing_else_reads_values_to_the_host() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let marks =
        [".to_vec1", ".to_vec2", ".to_vec0", ".to_scalar", "CustomOp", "dkd_kernels::tensor", "Cpu, tensor}"];
    let mut found = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        if code.into_iter().any(|line| marks.iter().any(|mark| line.contains(mark))) {
            found.push(path.strip_prefix(&source).unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
    assert_eq!(found, ON_HOST);
}
