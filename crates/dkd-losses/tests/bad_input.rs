//! Input that no loss can be computed from: errors that say which tensor, which row and what is expected.
#![allow(clippy::unwrap_used)]
mod support;

use candle_core::{DType, Device, Tensor};
use dkd_losses::{
    Batch, Checks, Curriculum, Distiller, Dkd, DkdWeights, Error, Form, Kd, Method, Objective, Part,
    Reduction, Result, Temperature, View, Warmup, cross_entropy, ctkd, decoupled, dist, dkd, kd, mlkd,
    mlkd_batch, mlkd_class, nckd, nkd, rld, tckd, tfkd, ttm, wttm,
};
use support::{labels, scalar};

const ONE: Temperature = Temperature::ONE;
const MEAN: Reduction = Reduction::BatchMean;

type Loss = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

/// Name, whether it reads the teacher, whether it reads the labels, and the function.
const LOSSES: [(&str, bool, bool, Loss); 16] = [
    ("ce", false, true, |s, _, y| cross_entropy(s, y, 0.0)),
    ("kd", true, false, |s, t, _| kd(s, t, ONE, MEAN)),
    ("tckd", true, true, |s, t, y| tckd(s, t, y, ONE, MEAN)),
    ("nckd", true, true, |s, t, y| nckd(s, t, y, ONE, MEAN)),
    ("dkd", true, true, |s, t, y| dkd(s, t, y, DkdWeights { alpha: 1.0, beta: 8.0 }, ONE, MEAN)),
    ("decoupled", true, true, |s, t, y| Ok(decoupled(s, t, y, ONE, MEAN)?.tckd)),
    ("dist", true, false, |s, t, _| Ok(dist(s, t, ONE)?.inter)),
    ("nkd", true, true, |s, t, y| Ok(nkd(s, t, y, ONE)?.target)),
    ("mlkd", true, false, |s, t, _| Ok(mlkd(s, t, ONE)?.instance)),
    ("mlkd_batch", true, false, |s, t, _| mlkd_batch(s, t, ONE)),
    ("mlkd_class", true, false, |s, t, _| mlkd_class(s, t, ONE)),
    ("ttm", true, false, |s, t, _| ttm(s, t, 0.5)),
    ("wttm", true, false, |s, t, _| wttm(s, t, 0.5)),
    ("ctkd", true, false, |s, t, _| ctkd(s, t, &Tensor::zeros(1, DType::F32, &Device::Cpu)?, FAST, 1)),
    ("rld", true, true, |s, t, y| Ok(rld(s, t, y, ONE, ONE)?.correlation)),
    ("tfkd", false, true, |s, _, y| tfkd(s, y, ONE, 0.9, Form::Paper)),
];

/// A temperature between 1 and 3 that is learned at full speed.
const FAST: Curriculum = Curriculum { temperature_min: 1.0, temperature_range: 2.0, epochs: 0 };

const LABELS: [u32; 3] = [0, 3, 1];

/// Logits [3, 4] with `value` at `row`, `column`.
fn logits(value: f32, row: usize, column: usize) -> Tensor {
    let mut values: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin()).collect();
    values[4 * row + column] = value;
    Tensor::from_vec(values, (3, 4), &Device::Cpu).unwrap()
}

fn assert_not_finite<T>(what: &str, outcome: Result<T>, name: &str, at: usize) {
    match outcome {
        Err(Error::NotFinite { tensor, row, .. }) => assert_eq!((tensor.as_str(), row), (name, at), "{what}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: no error"),
    }
}

#[test]
fn functions_name_logits_that_are_not_finite() {
    let (good, y) = (logits(0.5, 0, 0), labels(&LABELS));
    for (name, reads_teacher, _, loss) in LOSSES {
        loss(&good, &good, &y).unwrap();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Column 3 is the label of row 1, which NCKD leaves out, and another class in row 2.
            for row in [1, 2] {
                let bad = logits(value, row, 3);
                assert_not_finite(name, loss(&bad, &good, &y), "student logits", row);
                if reads_teacher {
                    assert_not_finite(name, loss(&good, &bad, &y), "teacher logits", row);
                }
            }
        }
    }
}

#[test]
fn functions_name_labels_shapes_and_temperatures() {
    let (good, y) = (logits(0.5, 0, 0), labels(&LABELS));
    let wide = Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap();
    for (name, reads_teacher, reads_labels, loss) in LOSSES {
        if reads_labels {
            let outcome = loss(&good, &good, &labels(&[0, 4, 1]));
            assert!(matches!(outcome, Err(Error::Label { label: 4, row: 1, classes: 4 })), "{name}");
            let message = loss(&good, &good, &labels(&[0, 1])).unwrap_err().to_string();
            assert!(message.contains("`labels` has shape [2], expected [3]"), "{name}: {message}");
        }
        if reads_teacher {
            let message = loss(&good, &wide, &y).unwrap_err().to_string();
            assert!(
                message.contains("`teacher logits` has shape [3, 5], expected [3, 4]"),
                "{name}: {message}"
            );
        }
        let outcome = loss(&good.flatten_all().unwrap(), &good, &y);
        assert!(matches!(&outcome, Err(Error::Shape { tensor, .. }) if tensor == "student logits"), "{name}");
    }
    for value in [0.0, -4.0, f64::NAN] {
        let message = Temperature::new(value).unwrap_err().to_string();
        assert!(message.contains("above 0"), "{message}");
    }
}

fn kd_and_dkd() -> Distiller {
    let distill = Kd { temperature: ONE, reduction: MEAN };
    let decouple = Dkd { weights: DkdWeights::default(), temperature: ONE, warmup: Warmup::NONE };
    Distiller::new().with(Part::new("kd", distill)).unwrap().with(Part::new("dkd", decouple)).unwrap()
}

#[test]
fn a_distiller_names_logits_that_are_not_finite() {
    let (good, y) = (logits(0.5, 0, 0), labels(&LABELS));
    let terms = |distiller: &mut Distiller, student: &Tensor, teacher: &Tensor| {
        let views = [View::new(student.clone(), Some(teacher.clone()))];
        distiller.terms(&Batch::new(&views, &y))
    };
    let mut strict = kd_and_dkd();
    assert_eq!(terms(&mut strict, &good, &good).unwrap().len(), 3);
    let (nan, infinite) = (logits(f32::NAN, 2, 0), logits(f32::INFINITY, 1, 0));
    assert_not_finite("student", terms(&mut strict, &nan, &good), "student logits", 2);
    assert_not_finite("teacher", terms(&mut strict, &good, &infinite), "teacher logits", 1);
    let message = terms(&mut strict, &nan, &good).unwrap_err().to_string();
    assert!(message.contains("`student logits` holds NaN in row 2"), "{message}");
    let mut lax = kd_and_dkd().checks(Checks::None);
    assert!(terms(&mut lax, &nan, &good).unwrap().iter().all(|t| scalar(&t.value).is_nan()));
}

/// What `Checks::None` promises holds for every method: a diverged row of a table goes on as it would in PyTorch.
#[test]
fn objectives_let_nan_through() {
    // A class that is not the label of row 2, and that the teacher puts below it: RLD compares no others.
    let views = [View::new(logits(f32::NAN, 2, 2), Some(logits(0.5, 0, 0)))];
    let y = labels(&LABELS);
    let all = Method::NAMES.map(|name| Method::named(name).unwrap());
    for method in all.into_iter().filter(|m| !m.reads_features()) {
        let name = method.name();
        let part = Part::boxed(name, method.build().unwrap());
        let mut distiller = Distiller::new().checks(Checks::None).with(part).unwrap();
        let terms = distiller.terms(&Batch::new(&views, &y)).unwrap();
        assert!(terms.iter().all(|t| scalar(&t.value).is_nan()), "{name}");
    }
}
