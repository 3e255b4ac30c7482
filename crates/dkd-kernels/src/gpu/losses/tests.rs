//! Losses and gradients against plain loops and differences.
#![allow(clippy::unwrap_used)]

mod goldens;
mod reference;

use super::*;
use crate::gpu::Emulated;
use crate::gpu::testing::{download, machines, numbers, upload};

/// What is asked of one row or more.
#[derive(Clone, Copy, Debug)]
struct Case<'a> {
    student: &'a [f32],
    teacher: Option<&'a [f32]>,
    labels: &'a [u32],
    weights: Weights,
    /// KD, DKD, standardised.
    asked: (bool, bool, bool),
}

/// DKD as it should be.
fn stable(dkd: bool) -> Option<Decoupling> {
    dkd.then_some(Decoupling::Stable)
}

const WEIGHTS: Weights =
    Weights { ce: 0.7, kd: 0.9, alpha: 1.5, beta: 8.0, kd_temperature: 4.0, dkd_temperature: 4.0 };

fn at(temperature: f32) -> Weights {
    Weights { kd_temperature: temperature, dkd_temperature: temperature, ..WEIGHTS }
}

struct Result {
    gradient: Vec<f32>,
    rows: Vec<f32>,
    totals: Totals,
    bad: u32,
}

fn zeros(machine: &dyn Machine, n: usize, element: Element) -> View {
    machine.alloc(n * element.bytes()).unwrap().view(element, 0, n).unwrap()
}

fn words(machine: &dyn Machine, values: &[u32]) -> View {
    let view = zeros(machine, values.len(), Element::U32);
    machine.write(&view, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    view
}

fn run(machine: &dyn Machine, case: &Case<'_>) -> Result {
    run_as(machine, case, stable(case.asked.1))
}

fn run_as(machine: &dyn Machine, case: &Case<'_>, dkd: Option<Decoupling>) -> Result {
    let Case { student, teacher, labels, weights, asked: (kd, _, standardize) } = *case;
    let n = labels.len();
    let teacher = teacher.map(|t| upload(machine, t, Element::F32));
    let weight_view = zeros(machine, Weights::LEN, Element::F32);
    weights.write(machine, &weight_view).unwrap();
    let (gradient, rows) =
        (zeros(machine, student.len(), Element::F32), zeros(machine, n * Losses::COLUMNS, Element::F32));
    let (totals, bad) = (zeros(machine, Totals::LEN, Element::F64), zeros(machine, 1, Element::U32));
    Losses {
        student: &upload(machine, student, Element::F32),
        labels: &words(machine, labels),
        weights: &weight_view,
        distillation: teacher.as_ref().map(|teacher| Distillation { teacher, kd, dkd, standardize }),
        gradient: &gradient,
        rows: &rows,
        totals: &totals,
        bad: &bad,
    }
    .run(machine)
    .unwrap();
    let mut flag = [0; 4];
    machine.read(&bad, &mut flag).unwrap();
    Result {
        gradient: download(machine, &gradient),
        rows: download(machine, &rows),
        totals: Totals::read(machine, &totals).unwrap(),
        bad: u32::from_le_bytes(flag),
    }
}

/// `log softmax(z / t)`.
fn log_softmax(z: &[f64], t: f64) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|v| ((v - max) / t).exp()).sum();
    z.iter().map(|v| (v - max) / t - sum.ln()).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn standardized(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let square: f64 = x.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (square / (x.len() - 1).max(1) as f64).sqrt() + 1e-7;
    x.iter().map(|v| (v - mean) / deviation).collect()
}

/// Label against the rest by log-sum-exp, and the rest.
fn split(z: &[f64], label: usize, t: f64) -> ([f64; 2], Vec<f64>) {
    let others: Vec<f64> = (0..z.len()).filter(|j| *j != label).map(|j| z[j]).collect();
    let max = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let rest = others.iter().map(|v| ((v - max) / t).exp()).sum::<f64>().ln();
    let binary = log_softmax(&[(z[label] - max) / t, rest], 1.0);
    ([binary[0], binary[1]], log_softmax(&others, t))
}

/// The four terms of one row.
fn terms(case: &Case<'_>, student: &[f64], teacher: &[f64], label: usize) -> [f64; 4] {
    let (kd, dkd, standardize) = case.asked;
    let ce = -log_softmax(student, 1.0)[label];
    if case.teacher.is_none() {
        return [ce, 0.0, 0.0, 0.0];
    }
    let [s, t] = [student, teacher].map(|z| if standardize { standardized(z) } else { z.to_vec() });
    let (a, b) = (f64::from(case.weights.kd_temperature), f64::from(case.weights.dkd_temperature));
    let whole = if kd { a * a * divergence(&log_softmax(&t, a), &log_softmax(&s, a)) } else { 0.0 };
    if !dkd {
        return [ce, whole, 0.0, 0.0];
    }
    let ((p, p_others), (q, q_others)) = (split(&t, label, b), split(&s, label, b));
    [ce, whole, b * b * divergence(&p, &q), b * b * divergence(&p_others, &q_others)]
}

fn weighted(weights: &Weights, terms: [f64; 4]) -> f64 {
    let all = [weights.ce, weights.kd, weights.alpha, weights.beta];
    all.iter().zip(terms).map(|(w, t)| f64::from(*w) * t).sum()
}

/// Runs a case on all machines, compares terms with plain loops and gradients with their differences, and
/// bits with each other.
fn check_case(machines: &[Emulated], case: &Case<'_>) {
    let n = case.labels.len();
    let classes = case.student.len() / n;
    let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|v| f64::from(*v)).collect() };
    let (student, teacher) = (wide(case.student), wide(case.teacher.unwrap_or(case.student)));
    let mut first: Option<Result> = None;
    for machine in machines {
        let got = run(machine, case);
        if let Some(first) = &first {
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got.gradient), bits(&first.gradient));
            assert_eq!(bits(&got.rows), bits(&first.rows));
            assert_eq!(got.totals, first.totals);
            continue;
        }
        let mut sums = [0.0; 4];
        for i in 0..n {
            let (s, t) = (&student[i * classes..][..classes], &teacher[i * classes..][..classes]);
            let label = case.labels[i] as usize;
            let want = terms(case, s, t, label);
            for (k, want) in want.iter().enumerate() {
                let got = f64::from(got.rows[i * Losses::COLUMNS + k]);
                assert!(
                    (got - want).abs() <= 1e-7 * want.abs() + 1e-12,
                    "term {k}: {got}, not {want}, {case:?}"
                );
                sums[k] += want;
            }
            // A row that is standardised has its own scale.
            let spread =
                s.iter().fold(f64::MIN, |a, v| a.max(*v)) - s.iter().fold(f64::MAX, |a, v| a.min(*v));
            let h = if case.asked.2 { 1e-5 * spread } else { 3e-5 };
            let loss = weighted(&case.weights, terms(case, s, t, label));
            let tolerance = 8.0 * f64::EPSILON * loss / h;
            let mut moved = s.to_vec();
            for j in 0..classes {
                let mut value = |z: f64| {
                    moved[j] = z;
                    let value = weighted(&case.weights, terms(case, &moved, t, label));
                    moved[j] = s[j];
                    value
                };
                let want = (value(s[j] + h) - value(s[j] - h)) / (2.0 * h) / n as f64;
                let got = f64::from(got.gradient[i * classes + j]);
                let close = (got - want).abs() <= 3e-6 * want.abs().max(1.0) + tolerance;
                assert!(close, "gradient {j}: {got}, not {want}, {case:?}");
            }
        }
        let totals = got.totals;
        for (got, want) in [totals.ce, totals.kd, totals.tckd, totals.nckd].iter().zip(sums) {
            assert!((got - want).abs() <= 1e-7 * want.abs() + 1e-11, "{got}, not {want}");
        }
        let best = |row: &[f32]| (0..classes).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
        let right =
            case.student.chunks(classes).zip(case.labels).filter(|(r, y)| best(r) == Some(**y as usize));
        assert_eq!((totals.correct, totals.rows, got.bad), (right.count() as f64, n as f64, 0));
        first = Some(got);
    }
}

const ASKED: [(bool, bool, bool); 5] = [
    (true, false, false),
    (false, true, false),
    (true, true, false),
    (true, false, true),
    (true, true, true),
];

#[test]
fn terms_and_gradients_follow_the_formulas() {
    let machines = machines();
    for (n, classes) in [(1, 2), (5, 3), (9, 10), (2, 257)] {
        let [student, teacher] =
            [1, 2].map(|seed| numbers(n * classes, seed).iter().map(|v| 3.0 * v).collect::<Vec<_>>());
        let labels: Vec<u32> = (0..n).map(|i| (i * 7 % classes) as u32).collect();
        let case =
            Case { student: &student, teacher: None, labels: &labels, weights: WEIGHTS, asked: ASKED[2] };
        check_case(&machines, &case);
        let all = ASKED.map(|asked| (4.0, asked));
        let both = [0.5, 1.0].iter().flat_map(|t| [ASKED[2], ASKED[4]].map(|asked| (*t, asked)));
        for (t, asked) in both.chain(all) {
            check_case(&machines, &Case { teacher: Some(&teacher), weights: at(t), asked, ..case });
        }
        let weights = Weights { kd_temperature: 2.0, dkd_temperature: 3.0, ..WEIGHTS };
        check_case(&machines, &Case { teacher: Some(&teacher), weights, ..case });
    }
    let [student, teacher] = [numbers(2000, 3), numbers(2000, 4)];
    let case =
        Case { student: &student, teacher: None, labels: &[999, 0], weights: WEIGHTS, asked: ASKED[2] };
    check_case(&machines, &Case { teacher: Some(&teacher), ..case });
}

#[test]
fn extreme_logits_give_finite_numbers() {
    let machines = machines();
    let one =
        |at: usize, value: f32| -> Vec<f32> { (0..10).map(|j| if j == at { value } else { 0.0 }).collect() };
    let mixed: Vec<f32> = numbers(10, 1).iter().map(|v| 1e4 * v).collect();
    let shifted: Vec<f32> = numbers(10, 2).iter().map(|v| v + 1e4).collect();
    // Rows far from 0, and rows with all the weight on one class, right or wrong.
    let plain = [mixed, shifted, one(3, 1e4), one(4, 1e4), one(3, -1e4), numbers(10, 7)];
    for (student, teacher) in plain.iter().flat_map(|s| plain.iter().map(move |t| (s, t))) {
        for (t, asked) in [0.5, 1.0, 4.0].iter().flat_map(|t| [ASKED[2], ASKED[4]].map(|a| (*t, a))) {
            // Steps on the scale of such a row are too large for the cross-entropy, which is of the row as it
            // is.
            let weights = Weights { ce: if asked.2 { 0.0 } else { WEIGHTS.ce }, ..at(t) };
            check_case(&machines, &Case { student, teacher: Some(teacher), labels: &[3], weights, asked });
        }
    }
    for machine in machines {
        for (student, teacher) in [([7.0; 4], [1.0, 2.0, 3.0, 4.0]), ([1e37, -1e37, 0.0, 1.0], [1e37; 4])] {
            for asked in ASKED {
                let case = Case {
                    student: &student,
                    teacher: Some(&teacher),
                    labels: &[1],
                    weights: at(1.0),
                    asked,
                };
                let got = run(&machine, &case);
                // Of a constant row the gradient is finite, if large.
                assert!(got.gradient.iter().all(|g| g.is_finite()), "{asked:?} {:?}", got.gradient);
                assert!(got.bad == 0 && got.totals.ce.is_finite(), "{asked:?}");
            }
        }
    }
}

#[test]
fn nothing_is_to_be_learnt_from_an_equal() {
    let logits: Vec<f32> = numbers(60, 5).iter().map(|v| 5.0 * v).collect();
    let (labels, weights) = ([0, 5, 9, 3, 3, 2], Weights { ce: 0.0, ..WEIGHTS });
    for machine in machines() {
        for asked in ASKED {
            let case = Case { student: &logits, teacher: Some(&logits), labels: &labels, weights, asked };
            let got = run(&machine, &case);
            assert!(got.gradient.iter().all(|g| *g == 0.0), "{asked:?} {:?}", got.gradient);
            assert_eq!((got.totals.kd, got.totals.tckd, got.totals.nckd), (0.0, 0.0, 0.0));
        }
        let case = Case {
            student: &[1.0, 2.0],
            teacher: Some(&[5.0, -3.0]),
            labels: &[0],
            weights,
            asked: ASKED[2],
        };
        let got = run(&machine, &case).totals;
        assert!(got.nckd == 0.0 && got.tckd > 0.0 && (got.kd - got.tckd).abs() < 1e-5);
    }
}

#[test]
fn what_is_not_finite_raises_the_flag() {
    for machine in machines() {
        let fine = numbers(30, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut wrong = fine.clone();
            wrong[13] = bad;
            let case = Case {
                student: &wrong,
                teacher: None,
                labels: &[0, 3, 9],
                weights: WEIGHTS,
                asked: ASKED[2],
            };
            let got = run(&machine, &case);
            assert_eq!(got.bad, 1, "{bad}");
            assert!(got.gradient[..10].iter().chain(&got.gradient[20..]).all(|g| g.is_finite()));
            let got = run(&machine, &Case { student: &fine, teacher: Some(&wrong), ..case });
            assert_eq!(got.bad, 1, "of the teacher: {bad}");
        }
        let case = Case {
            student: &[1.0, 2.0, 3.0, 4.0],
            teacher: None,
            labels: &[1, 2],
            weights: WEIGHTS,
            asked: ASKED[0],
        };
        let got = run(&machine, &case);
        assert_eq!((got.bad, got.totals.correct, got.totals.rows), (1, 1.0, 2.0));
        assert!(got.gradient[2..].iter().all(|g| g.is_nan()) && got.totals.ce.is_nan());
        // Weights that are too large for f32.
        let weights = Weights { ce: f32::MAX, ..WEIGHTS };
        let case =
            Case { student: &[1e4, 0.0], teacher: Some(&[0.0, 1e4]), labels: &[1], weights, asked: ASKED[2] };
        assert_eq!(run(&machine, &case).bad, 0);
        let case = Case { weights: Weights { kd: f32::MAX, ..weights }, ..case };
        assert_eq!(run(&machine, &case).bad, 1);
    }
}

#[test]
fn totals_grow_from_batch_to_batch() {
    let student = numbers(3000, 1);
    let labels: Vec<u32> = (0..300).map(|i| i % 10).collect();
    let mut bits = Vec::new();
    for machine in machines() {
        let weights = zeros(&machine, Weights::LEN, Element::F32);
        WEIGHTS.write(&machine, &weights).unwrap();
        let (totals, bad) = (zeros(&machine, Totals::LEN, Element::F64), zeros(&machine, 1, Element::U32));
        let mut want = 0.0;
        for n in [300, 7] {
            let logits = &student[..n * 10];
            Losses {
                student: &upload(&machine, logits, Element::F32),
                labels: &words(&machine, &labels[..n]),
                weights: &weights,
                distillation: None,
                gradient: &zeros(&machine, n * 10, Element::F32),
                rows: &zeros(&machine, n * Losses::COLUMNS, Element::F32),
                totals: &totals,
                bad: &bad,
            }
            .run(&machine)
            .unwrap();
            for (row, label) in logits.chunks(10).zip(&labels) {
                want -=
                    log_softmax(&row.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1.0)[*label as usize];
            }
        }
        let got = Totals::read(&machine, &totals).unwrap();
        assert!((got.ce / want - 1.0).abs() < 1e-7 && got.rows == 307.0 && got.kd == 0.0);
        bits.push(got.ce.to_bits());
    }
    assert!(bits.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn what_does_not_fit_is_refused() {
    for machine in machines() {
        let new = |n, element| zeros(&machine, n, element);
        let (student, teacher, labels) = (new(6, Element::F32), new(6, Element::F32), new(2, Element::U32));
        let (weights, gradient) = (new(Weights::LEN, Element::F32), new(6, Element::F32));
        let (rows, totals, bad) =
            (new(12, Element::F32), new(Totals::LEN, Element::F64), new(1, Element::U32));
        WEIGHTS.write(&machine, &weights).unwrap();
        let distillation =
            Some(Distillation { teacher: &teacher, kd: true, dkd: stable(true), standardize: true });
        let good = Losses {
            student: &student,
            labels: &labels,
            weights: &weights,
            distillation,
            gradient: &gradient,
            rows: &rows,
            totals: &totals,
            bad: &bad,
        };
        good.run(&machine).unwrap();
        let (four, six, none) = (new(4, Element::U32), new(6, Element::U32), new(0, Element::U32));
        let (short, half) = (new(5, Element::F32), new(6, Element::Bf16));
        let of = |teacher| Some(Distillation { teacher, kd: true, dkd: stable(true), standardize: false });
        for wrong in [
            Losses { labels: &four, ..good },
            Losses { labels: &none, ..good },
            // One class.
            Losses { labels: &six, ..good },
            Losses { student: &half, ..good },
            Losses { distillation: of(&short), ..good },
            Losses { gradient: &short, ..good },
            Losses { gradient: &student, ..good },
            Losses { gradient: &teacher, ..good },
            Losses { rows: &gradient, ..good },
            Losses { weights: &short, ..good },
            Losses { totals: &rows, ..good },
            Losses { bad: &labels, ..good },
        ] {
            assert!(wrong.run(&machine).is_err(), "{wrong:?}");
        }
        for t in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(at(t).write(&machine, &weights).is_err(), "{t}");
        }
        assert!(WEIGHTS.write(&machine, &short).is_err() && Totals::read(&machine, &rows).is_err());
    }
}
