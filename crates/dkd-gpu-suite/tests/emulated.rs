//! The whole suite in small, on the emulated machine.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use dkd_gpu_suite::{Part, Report, Sizes, Suite, machine};
use dkd_kernels::Cpu;
use dkd_kernels::gpu::TensorMachine;
use dkd_kernels::gpu::convolution::Algorithms;
use dkd_trainer::Arithmetic;
use std::path::Path;
use std::sync::Arc;

fn emulated() -> anyhow::Result<Arc<dyn TensorMachine>> {
    machine::open("emulated", None, Algorithms::Ruled, true)
}

/// A part on some networks; where there is no C++ compiler nothing, said in one line.
fn suite(part: Part, models: &[&str], precisions: &[Arithmetic]) -> Option<Report> {
    let machine = match emulated() {
        Ok(machine) => machine,
        Err(e) if e.to_string().contains("cannot be emulated") => {
            eprintln!("skipped: {e}");
            return None;
        }
        Err(e) => panic!("{e:#}"),
    };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dkd-models/tests/fixtures/golden/models");
    let suite = Suite {
        machine,
        in_turn: Box::new(emulated),
        cpu: Cpu::new(2).unwrap(),
        goldens,
        data: None,
        models: models.iter().map(|name| (*name).to_owned()).collect(),
        setup: Vec::new(),
        precisions: precisions.to_vec(),
        sizes: Sizes::small(),
    };
    let mut report = Report::new(Box::new(|line| eprintln!("{line}")));
    suite.run(part, &mut report);
    eprintln!("{}", report.table());
    Some(report)
}

const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Tf32, Arithmetic::Bf16];

#[test]
fn reference_values_hold() {
    let models = ["resnet8", "ShuffleV1", "MobileNetV2"];
    let Some(report) = suite(Part::Goldens, &models, &[Arithmetic::F32, Arithmetic::Bf16]) else { return };
    assert!(report.ok(), "{}", report.table());
    assert_eq!(report.lines().len(), 3 * 2 * 3);
}

#[test]
fn networks_are_as_on_the_cpu() {
    let Some(report) = suite(Part::Compare, &["resnet8", "seed_student"], &ALL) else { return };
    assert!(report.ok(), "{}", report.table());
    assert_eq!(report.lines().len(), 2 * 3 * 3);
}

#[test]
fn training_is_as_on_the_cpu_and_repeats_itself() {
    let Some(report) = suite(Part::Curves, &[], &[Arithmetic::F32, Arithmetic::Bf16]) else { return };
    assert!(report.ok(), "{}", report.table());
    for case in ["bf16, kd: other bytes, two runs", "bf16, candle's: other bytes, in turn"] {
        let line = report.lines().iter().find(|line| line.case == case);
        assert_eq!(line.and_then(|line| line.value), Some(0.0), "{case}");
    }
}

#[test]
fn speed_is_measured() {
    let Some(report) = suite(Part::Bench, &[], &[Arithmetic::F32]) else { return };
    assert!(report.ok(), "{}", report.table());
    let rates: Vec<_> = report.lines().iter().filter(|line| line.unit == "img/s").collect();
    // A network, a student of DKD, a network in two ways, a cohort in three, one in two.
    assert_eq!(rates.len(), 9);
    assert!(report.lines().iter().any(|line| line.group == "resnet8, aside"));
    assert!(report.lines().iter().any(|line| line.group == "3 x resnet8, branches"));
    assert!(report.lines().iter().any(|line| line.group == "2 x seed_student, 8, 2 at once"));
    assert_eq!(rates.iter().filter(|line| line.bound.is_some()).count(), 7);
}

#[test]
fn a_step_is_taken_apart() {
    let Some(report) = suite(Part::Profile, &[], &[Arithmetic::F32, Arithmetic::Bf16]) else { return };
    assert!(report.ok(), "{}", report.table());
    let step = |end: &str| {
        let of = report.lines().iter().filter(|line| line.case.ends_with(end));
        of.map(|line| (line.case.as_str(), line.value.unwrap(), line.count.unwrap())).collect::<Vec<_>>()
    };
    let (single, half) = (step(", f32"), step(", bf16"));
    assert_eq!(single.len(), half.len());
    let ([first, parts @ .., last], "whole step, f32") = (&single[..], single[0].0) else {
        panic!("{single:?}")
    };
    assert!(last.0 == "all convolutions, f32" && first.2 == 1);
    let sum: f64 = parts.iter().map(|(_, micros, count)| micros * *count as f64).sum();
    assert!((sum / last.1 - 1.0).abs() < 1e-9);
    // The first of 9 convolutions and the linear layer need no gradient of their input where that is the image.
    assert_eq!(parts.iter().map(|(_, _, count)| count).sum::<usize>(), 3 * 10 - 1, "{single:?}");
}

#[test]
fn a_teachers_answers_are_the_same_in_one() {
    let Some(report) = suite(Part::Answers, &[], &[Arithmetic::F32, Arithmetic::Bf16]) else { return };
    assert!(report.ok(), "{}", report.table());
    let groups: Vec<_> = report.lines().iter().map(|line| line.group.as_str()).collect();
    let of_one = ["resnet8, 8, answers apart", "resnet8, 8, answers in one", "resnet8, answers in one"];
    assert_eq!(groups, [of_one, of_one].concat());
    let note = report.lines()[1].note.as_deref().unwrap();
    assert!(note.starts_with("9 of 9 in one, ready in "), "{note}");
    assert!(report.lines().iter().all(|line| line.value.is_some()));
}

#[test]
fn a_wrong_folder_is_told_and_the_others_go_on() {
    let Ok(machine) = emulated() else { return };
    let suite = Suite {
        machine,
        in_turn: Box::new(emulated),
        cpu: Cpu::new(1).unwrap(),
        goldens: "nowhere".into(),
        data: None,
        models: vec!["seed_student".to_owned()],
        setup: Vec::new(),
        precisions: vec![Arithmetic::F32],
        sizes: Sizes::small(),
    };
    let mut report = Report::new(Box::new(|_| ()));
    suite.run(Part::Goldens, &mut report);
    suite.run(Part::Compare, &mut report);
    let lines = report.lines();
    assert!(!report.ok() && lines.iter().filter(|line| line.ok).count() == 3, "{}", report.table());
    assert!(lines[0].note.as_ref().unwrap().contains("nowhere"));
}
