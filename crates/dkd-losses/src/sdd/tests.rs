//! Scale-decoupled distillation against its definition, finite differences, and bad settings.
use super::*;
use crate::feature::lcg;
use crate::{Outputs, StepDraw, dkd, kd, nkd, total};
use candle_core::{Device, Var};
use dkd_kernels::Cpu;
use std::collections::BTreeMap;

const ROWS: usize = 3;
const CLASSES: usize = 4;
const LABELS: [u32; ROWS] = [0, 2, 3];

/// Map, logits and classifier of a network.
#[derive(Clone)]
struct Side {
    map: Tensor,
    logits: Tensor,
    weight: Tensor,
    bias: Tensor,
}

impl Side {
    fn new(seed: u64, dims: [usize; 3]) -> Self {
        let [channels, h, w] = dims;
        let values = |i, shape: &[usize]| (lcg(seed + i, shape) * 2.0).unwrap();
        Self {
            map: values(1, &[ROWS, channels, h, w]),
            logits: values(2, &[ROWS, CLASSES]),
            weight: values(3, &[CLASSES, channels]),
            bias: values(4, &[CLASSES]),
        }
    }

    fn parts(&mut self) -> [&mut Tensor; 4] {
        [&mut self.map, &mut self.logits, &mut self.weight, &mut self.bias]
    }

    fn dims(&self) -> Vec<usize> {
        self.map.dims()[1..].to_vec()
    }

    fn outputs(&self) -> Outputs {
        let taps = BTreeMap::from([("map".to_owned(), self.map.clone())]);
        Outputs { taps, ..Outputs::new(self.logits.clone()) }
    }

    fn parameters(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::from([
            ("fc.weight".to_owned(), self.weight.clone()),
            ("fc.bias".to_owned(), self.bias.clone()),
        ])
    }
}

fn head() -> Head {
    Head { map: "map".to_owned(), weight: "fc.weight".to_owned(), bias: Some("fc.bias".to_owned()) }
}

fn settings(base: SddBase, scales: &[usize]) -> SddSettings {
    SddSettings { base, scales: Scales::new(scales).unwrap(), complementary_weight: 2.0 }
}

fn bases() -> [SddBase; 3] {
    SddBase::NAMES.map(|name| SddBase::named(name).unwrap())
}

fn prepared(
    settings: SddSettings,
    student: Vec<usize>,
    teacher: Vec<usize>,
    heads: [bool; 2],
) -> Result<Sdd> {
    let mut sdd = Sdd::new(settings)?;
    let taps = |dims: Vec<usize>| BTreeMap::from([("map".to_owned(), dims)]);
    let head = head();
    let cpu = Cpu::new(1).unwrap();
    sdd.prepare(&Setup {
        device: &Device::Cpu,
        cpu: &cpu,
        num_classes: CLASSES,
        train_labels: &[],
        student_taps: &taps(student),
        teacher_taps: &taps(teacher),
        teacher_norms: &BTreeMap::new(),
        student_head: heads[0].then_some(&head),
        teacher_head: heads[1].then_some(&head),
        draw: &StepDraw { seed: 0, step: 0 },
    })?;
    Ok(sdd)
}

/// The terms of one batch.
fn terms(settings: SddSettings, student: &Side, teacher: &Side) -> Vec<Term> {
    let mut sdd = prepared(settings, student.dims(), teacher.dims(), [true; 2]).unwrap();
    let views = [View { student: student.outputs(), teacher: Some(teacher.outputs()) }];
    let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
    let (own, theirs) = (student.parameters(), teacher.parameters());
    let batch = Batch { student: &own, teacher: &theirs, ..Batch::new(&views, &labels) };
    let terms = sdd.terms(&batch).unwrap();
    assert_eq!([&terms[0].name, &terms[1].name], ["consistent", "complementary"]);
    terms
}

fn scalar(t: &Tensor) -> f64 {
    t.to_scalar().unwrap()
}

fn loss(settings: SddSettings, student: &Side, teacher: &Side) -> f64 {
    scalar(&total(&terms(settings, student, teacher)).unwrap()[0].1)
}

fn base_loss(base: SddBase, s: &Tensor, t: &Tensor, y: &[u32]) -> f64 {
    let y = Tensor::new(y, &Device::Cpu).unwrap();
    match base {
        SddBase::Kd { temperature } => scalar(&kd(s, t, temperature, Reduction::BatchMean).unwrap()),
        SddBase::Dkd { weights, temperature } => {
            scalar(&dkd(s, t, &y, weights, temperature, Reduction::BatchMean).unwrap())
        }
        SddBase::Nkd { temperature, gamma } => {
            let parts = nkd(s, t, &y, temperature).unwrap();
            scalar(&parts.target) + gamma * scalar(&parts.nontarget)
        }
    }
}

/// The logits of region (i, j) of m x m of an image, by loops.
fn local(side: &Side, image: usize, m: usize, (i, j): (usize, usize)) -> Vec<f64> {
    let map: Vec<Vec<Vec<f64>>> = side.map.get(image).unwrap().to_vec3().unwrap();
    let (weight, bias) = (side.weight.to_vec2::<f64>().unwrap(), side.bias.to_vec1::<f64>().unwrap());
    let cut = |of: usize, i: usize| i * of / m..((i + 1) * of).div_ceil(m);
    let means: Vec<f64> = map
        .iter()
        .map(|plane| {
            let (rows, columns) = (cut(plane.len(), i), cut(plane[0].len(), j));
            let all: Vec<f64> = rows.flat_map(|r| plane[r][columns.clone()].to_vec()).collect();
            all.iter().sum::<f64>() / all.len() as f64
        })
        .collect();
    let row = |(w, b): (&Vec<f64>, &f64)| w.iter().zip(&means).map(|(w, x)| w * x).sum::<f64>() + b;
    weight.iter().zip(&bias).map(row).collect()
}

fn largest(row: &[f64]) -> u32 {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32
}

#[test]
fn the_loss_is_the_mean_over_regions_by_hand() {
    let (student, mut teacher) = (Side::new(1, [3, 5, 4]), Side::new(50, [2, 4, 6]));
    // The teacher knows the first two images, whatever it says about their regions.
    let sure = [[9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [9.0, 0.0, 0.0, 0.0]];
    teacher.logits = (teacher.logits + Tensor::new(&sure, &Device::Cpu).unwrap()).unwrap();
    for base in bases() {
        let scales = [1, 2, 3];
        let found = terms(settings(base, &scales), &student, &teacher);
        let (mut sums, mut counts) = ([0.0; 2], [0; 2]);
        for (image, &label) in LABELS.iter().enumerate() {
            let global = |side: &Side| side.logits.get(image).unwrap().to_vec1::<f64>().unwrap();
            let right = largest(&global(&teacher)) == label;
            for m in scales {
                for at in (0..m * m).map(|r| (r / m, r % m)) {
                    let of = |side| if m == 1 { global(side) } else { local(side, image, m, at) };
                    let (s, t) = (of(&student), of(&teacher));
                    let k = usize::from((largest(&t) == label) != right);
                    let row = |v: Vec<f64>| Tensor::from_vec(v, (1, CLASSES), &Device::Cpu).unwrap();
                    sums[k] += base_loss(base, &row(s), &row(t), &[label]);
                    counts[k] += 1;
                }
            }
        }
        // Both kinds occur, or this would show little.
        assert!(counts[0] > ROWS && counts[1] > ROWS, "{counts:?}");
        assert_eq!(counts[0] + counts[1], ROWS * Scales::new(&scales).unwrap().regions());
        let all = (counts[0] + counts[1]) as f64;
        for (k, factor) in [(0, 1.0), (1, 2.0)] {
            let expected = factor * sums[k] / all;
            let value = scalar(&found[k].value);
            assert!((value - expected).abs() < 1e-10 * (1.0 + expected), "{base:?} {value} {expected}");
        }
    }
}

#[test]
fn constant_maps_give_the_loss_of_the_whole_images() {
    let (mut student, mut teacher) = (Side::new(7, [3, 4, 4]), Side::new(9, [2, 8, 8]));
    for side in [&mut student, &mut teacher] {
        let pixel = side.map.narrow(2, 0, 1).unwrap().narrow(3, 0, 1).unwrap();
        let flat = pixel.flatten_from(1).unwrap();
        side.logits = flat.matmul(&side.weight.t().unwrap()).unwrap().broadcast_add(&side.bias).unwrap();
        side.map = pixel.broadcast_as(side.map.dims()).unwrap();
    }
    for base in bases() {
        let found = terms(settings(base, &[1, 2, 4]), &student, &teacher);
        let expected = base_loss(base, &student.logits, &teacher.logits, &LABELS);
        let value = scalar(&found[0].value);
        assert!((value - expected).abs() < 1e-10 * (1.0 + expected), "{base:?} {value} {expected}");
        assert_eq!(scalar(&found[1].value), 0.0);
    }
}

#[test]
fn the_order_of_regions_does_not_matter() {
    let (student, teacher) = (Side::new(3, [3, 4, 4]), Side::new(5, [2, 8, 8]));
    // Left and right halves change places: at the scales 1, 2 and 4 whole regions move.
    let swapped = |side: &Side| {
        let half = side.map.dim(3).unwrap() / 2;
        let [left, right] = [0, half].map(|start| side.map.narrow(3, start, half).unwrap());
        Side { map: Tensor::cat(&[&right, &left], 3).unwrap(), ..side.clone() }
    };
    for base in bases() {
        let settings = settings(base, &[1, 2, 4]);
        let as_it_is = loss(settings, &student, &teacher);
        let moved = loss(settings, &swapped(&student), &swapped(&teacher));
        assert!((as_it_is - moved).abs() < 1e-12 * as_it_is, "{as_it_is} {moved}");
        assert!((as_it_is - loss(settings, &swapped(&student), &teacher)).abs() > 1e-6);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let teacher = Side::new(50, [2, 3, 3]);
    for base in bases() {
        let settings = settings(base, &[1, 2, 3]);
        for part in 0..4 {
            let mut student = Side::new(1, [2, 3, 4]);
            let start = student.parts()[part].clone();
            let var = Var::from_tensor(&start).unwrap();
            *student.parts()[part] = var.as_tensor().clone();
            let sum = total(&terms(settings, &student, &teacher)).unwrap().remove(0).1;
            let store = sum.backward().unwrap();
            let gradient =
                store.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let base_values = start.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (i, found) in gradient.iter().enumerate() {
                let mut at = |delta: f64| {
                    let mut moved = base_values.clone();
                    moved[i] += delta;
                    *student.parts()[part] = Tensor::from_vec(moved, start.dims(), &Device::Cpu).unwrap();
                    loss(settings, &student, &teacher)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{base:?} {part} {i}");
            }
            assert!(gradient.iter().any(|g| g.abs() > 1e-3), "{base:?} {part}");
        }
    }
}

#[test]
fn the_whole_map_alone_is_the_base_and_reads_no_classifier() {
    let (student, teacher) = (Side::new(1, [3, 5, 4]), Side::new(50, [2, 4, 6]));
    for base in bases() {
        let sdd = prepared(settings(base, &[1]), student.dims(), teacher.dims(), [true; 2]).unwrap();
        assert!(sdd.student_parameters().is_empty());
        let value = loss(settings(base, &[1]), &student, &teacher);
        assert!((value - base_loss(base, &student.logits, &teacher.logits, &LABELS)).abs() < 1e-12);
        let sdd = prepared(settings(base, &[1, 2]), student.dims(), teacher.dims(), [true; 2]).unwrap();
        assert_eq!(sdd.student_parameters(), ["fc.weight", "fc.bias"]);
    }
}

#[test]
fn what_cannot_be_is_refused_before_the_first_step() {
    for (scales, part) in [
        (&[][..], "`number of scales` of method `sdd` is 0"),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9], "is 9: it must be from 1 to 8"),
        (&[1, 0], "`scales` of method `sdd` is 0: it must be whole numbers from 1"),
        (&[2, 1, 2], "is 2: it must be there only once"),
    ] {
        let message = Scales::new(scales).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(format!("{:?}", Scales::new(&[4, 1]).unwrap()), "[4, 1]");
    let defaults = SddSettings::default();
    assert_eq!((defaults.scales, defaults.scales.regions()), (Scales::new(&[1, 2, 4]).unwrap(), 21));
    for weight in [-1.0, f64::NAN] {
        let wrong = SddSettings { complementary_weight: weight, ..defaults };
        assert!(matches!(Sdd::new(wrong), Err(Error::Setting { key: "complementary_weight", .. })));
    }
    let refused = |student: [usize; 3], teacher: [usize; 3], heads| {
        prepared(defaults, student.to_vec(), teacher.to_vec(), heads).err().unwrap().to_string()
    };
    let message = refused([8, 2, 2], [8, 4, 4], [true; 2]);
    assert!(message.contains("`scales` has 4, but the student's last map `map` is [8, 2, 2]"), "{message}");
    let message = refused([8, 4, 4], [8, 4, 3], [true; 2]);
    assert!(message.contains("the teacher's last map"), "{message}");
    let message = refused([8, 4, 4], [8, 4, 4], [false, true]);
    assert!(message.contains("the student is not known to make its logits"), "{message}");
    let message = refused([8, 4, 4], [8, 4, 4], [true, false]);
    assert!(message.contains("the teacher is not known"), "{message}");
}

#[test]
fn numbers_that_are_not_finite_are_not_hidden() {
    let mut student = Side::new(1, [3, 4, 4]);
    student.map = (student.map * f64::NAN).unwrap();
    assert!(loss(SddSettings::default(), &student, &Side::new(50, [2, 4, 4])).is_nan());
}
