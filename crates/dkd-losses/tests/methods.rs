//! Every method by its name: gradients against central differences, extremes, and what ties a method to another.
#![allow(clippy::unwrap_used)]
mod support;

use candle_core::{DType, Device, Tensor, Var};
use dkd_losses::{
    Batch, Curriculum, Distiller, Form, Method, Objective, Part, Reduction, Temperature, Term, View,
    cross_entropy, ctkd, kd, mlkd, mlkd_batch, mlkd_class, nckd, nkd, rld, standardized, tckd, tfkd, total,
    ttm, wttm,
};
use support::{central_differences, labels, largest, matrix, numbers, scalar, value_and_gradient};

const MEAN: Reduction = Reduction::BatchMean;
const LABELS: [u32; 4] = [0, 4, 2, 2];

fn at(value: f64) -> Temperature {
    Temperature::new(value).unwrap()
}

fn logits(rows: usize, classes: usize, scale: f64, salt: f64) -> Tensor {
    let value = |i: usize| ((i as f64 * 12.9898 + salt).sin() * 43_758.547).fract() * 2.0 - 1.0;
    matrix(&(0..rows * classes).map(|i| scale * value(i)).collect::<Vec<_>>(), rows)
}

/// The method `name` at the temperature `t`, as far as it has one.
fn method(name: &str, t: f64, form: Form) -> Method {
    let mut method = Method::named(name).unwrap();
    match &mut method {
        Method::Ce { .. } => {}
        Method::Kd { temperature, .. }
        | Method::Dkd { temperature, .. }
        | Method::Tckd { temperature }
        | Method::Nckd { temperature }
        | Method::Dist { temperature, .. }
        | Method::Nkd { temperature, .. }
        | Method::SeedKd { temperature, .. }
        | Method::DkdReference { temperature, .. } => *temperature = at(t),
        Method::Mlkd { temperature, form: f } | Method::TfKd { temperature, form: f, .. } => {
            (*temperature, *f) = (at(t), form);
        }
        Method::Ttm { gamma } | Method::Wttm { gamma } => *gamma = 1.0 / t,
        Method::Ctkd { curriculum } => curriculum.temperature_min = t,
        Method::Rld { settings, .. } => {
            (settings.temperature, settings.alpha_temperature) = (at(t), at(t));
        }
        _ => panic!("{name} reads feature maps"),
    }
    method
}

/// Those that compare logits; tests/features.rs has the others.
fn on_logits() -> impl Iterator<Item = &'static str> {
    Method::NAMES.into_iter().filter(|name| !Method::named(name).unwrap().reads_features())
}

/// The method as part of a distiller.
fn distiller(method: Method, standardize: bool) -> Distiller {
    let part = Part::boxed(method.name(), method.build().unwrap());
    Distiller::new().with(if standardize { part.standardized() } else { part }).unwrap()
}

fn terms(objective: &mut impl Objective, student: &[Tensor], teacher: &[Tensor], y: &Tensor) -> Vec<Term> {
    let views: Vec<View> =
        student.iter().zip(teacher).map(|(s, t)| View::new(s.clone(), Some(t.clone()))).collect();
    objective.terms(&Batch { epoch: 3, ..Batch::new(&views, y) }).unwrap()
}

fn sum(objective: &mut impl Objective, student: &Tensor, teacher: &Tensor, y: &Tensor) -> Tensor {
    let terms = terms(objective, std::slice::from_ref(student), std::slice::from_ref(teacher), y);
    total(&terms).unwrap().remove(0).1
}

#[test]
fn gradients_match_differences() {
    let (s, t, y) = (logits(4, 5, 3.0, 0.1), logits(4, 5, 3.0, 0.7), labels(&LABELS));
    for name in on_logits() {
        for (temperature, form, standardize) in
            [(0.5, Form::Paper, false), (4.0, Form::Paper, true), (4.0, Form::Reference, false)]
        {
            let loss =
                |s: &Tensor| Ok(sum(&mut distiller(method(name, temperature, form), standardize), s, &t, &y));
            let (_, gradient) = value_and_gradient(&s, loss);
            let want = central_differences(&s, loss);
            let bound = 1e-6 * largest(&want).max(1.0);
            for (a, b) in gradient.iter().zip(&want) {
                assert!((a - b).abs() < bound, "{name} at T = {temperature}, {form:?}: {a} instead of {b}");
            }
        }
    }
}

#[test]
fn the_learned_temperature_climbs_as_the_curriculum_says() {
    let (s, t) = (logits(4, 5, 3.0, 0.1), logits(4, 5, 3.0, 0.7));
    let curriculum = Curriculum { temperature_min: 0.5, temperature_range: 6.0, epochs: 4 };
    for theta in [-2.0, 0.0, 1.5] {
        let theta = matrix(&[theta], 1);
        for (epoch, strength) in [(1, 0.5 - 0.125_f64.sqrt()), (2, 0.5), (4, 1.0), (9, 1.0)] {
            let loss = |theta: &Tensor| ctkd(&s, &t, theta, curriculum, epoch);
            let (value, gradient) = value_and_gradient(&theta, loss);
            let want = -strength * central_differences(&theta, loss)[0];
            assert!((gradient[0] - want).abs() < 1e-7 * want.abs().max(1.0), "{} {want}", gradient[0]);
            let temperature =
                0.5 + 6.0 / (1.0 + (-scalar(&theta.flatten_all().unwrap().get(0).unwrap())).exp());
            let plain = |s: &Tensor| kd(s, &t, at(temperature), MEAN);
            let (same, of_student) = value_and_gradient(&s, plain);
            assert!((value - same).abs() < 1e-12 * same.max(1.0));
            let (_, gradient) = value_and_gradient(&s, |s| ctkd(s, &t, &theta, curriculum, epoch));
            assert!(gradient.iter().zip(&of_student).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}

/// Descending along the gradients raises CTKD's own loss: the objective's parameter is the one the trainer updates.
#[test]
fn the_parameter_is_the_objectives() {
    let mut objective = Method::named("ctkd").unwrap().build().unwrap();
    let (name, theta) = objective.parameters().remove(0);
    assert_eq!((name.as_str(), theta.as_tensor().to_vec1::<f32>().unwrap()), ("theta", vec![1.0]));
    let float = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let (s, t, y) = (float(logits(4, 5, 3.0, 0.1)), float(logits(4, 5, 3.0, 0.7)), labels(&LABELS));
    let views = [View::new(s, Some(t))];
    let mut value =
        || objective.terms(&Batch { epoch: 10, ..Batch::new(&views, &y) }).unwrap().remove(0).value;
    let first = value();
    let gradients = first.backward().unwrap();
    let step = (gradients.get(theta.as_tensor()).unwrap() * 0.1).unwrap();
    theta.set(&(theta.as_tensor().detach() - step).unwrap()).unwrap();
    assert!(scalar(&value()) > scalar(&first));
}

/// Logits [rows, classes] of student and teacher in the regimes that break naive losses.
fn regimes(rows: usize, classes: usize, y: &[u32]) -> Vec<(&'static str, Tensor, Tensor)> {
    let peak = |height: f64, shift: usize| {
        let value =
            |i: usize| if i % classes == (y[i / classes] as usize + shift) % classes { height } else { 0.0 };
        matrix(&(0..rows * classes).map(value).collect::<Vec<_>>(), rows)
    };
    let constant = |value: f64| matrix(&vec![value; rows * classes], rows);
    let random = |scale, salt| logits(rows, classes, scale, salt);
    let sign = |salt| {
        ((random(1.0, salt).ge(0.0).unwrap().to_dtype(DType::F64).unwrap() * 2e4).unwrap() - 1e4).unwrap()
    };
    vec![
        ("ordinary", random(3.0, 0.1), random(3.0, 0.7)),
        ("equal", random(3.0, 0.1), random(3.0, 0.1)),
        ("extreme", random(1e4, 0.1), random(1e4, 0.7)),
        ("equal and extreme", random(1e4, 0.1), random(1e4, 0.1)),
        ("signs", sign(0.1), sign(0.7)),
        ("constant student", constant(1234.567), random(3.0, 0.7)),
        ("constant teacher", random(3.0, 0.1), constant(-0.3)),
        ("constant both", constant(-1e4), constant(1e4)),
        ("zero both", constant(0.0), constant(0.0)),
        ("saturated teacher", random(3.0, 0.1), peak(1e4, 0)),
        ("saturated both", peak(1e4, 0), peak(1e4, 0)),
        ("opposed", peak(1e4, 1), peak(1e4, 0)),
        ("both wrong", peak(-1e4, 0), peak(-1e4, 0)),
        ("nearly constant", random(1e-6, 0.1), random(1e-6, 0.7)),
    ]
}

#[test]
fn extremes_have_finite_values_and_gradients() {
    let float = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let mut checked = 0;
    for (rows, classes) in [(4, 5), (3, 2), (1, 4)] {
        let y: Vec<u32> = (0..rows as u32).map(|i| i * 3 % classes as u32).collect();
        for (regime, s, t) in regimes(rows, classes, &y) {
            let (s, t, y) = (float(&s), float(&t), labels(&y));
            // The reference's arithmetic is there to show that it fails.
            for name in on_logits().filter(|n| *n != "dkd_reference") {
                for temperature in [0.05, 1.0, 100.0] {
                    for (form, standardize) in
                        [(Form::Paper, false), (Form::Reference, false), (Form::Paper, true)]
                    {
                        let what = format!(
                            "{name}, {regime} {rows}x{classes}, T = {temperature}, {form:?}, {standardize}"
                        );
                        let mut objective = distiller(method(name, temperature, form), standardize);
                        let student = Var::from_tensor(&s).unwrap();
                        let terms = terms(
                            &mut objective,
                            &[student.as_tensor().clone()],
                            std::slice::from_ref(&t),
                            &y,
                        );
                        assert!(terms.iter().all(|t| t.value.dtype() == DType::F32), "{what}");
                        assert!(terms.iter().all(|t| scalar(&t.value).is_finite()), "{what}: {terms:?}");
                        let gradients = total(&terms).unwrap().remove(0).1.backward().unwrap();
                        let finite = |var: &Var| {
                            numbers(gradients.get(var.as_tensor()).unwrap()).iter().all(|g| g.is_finite())
                        };
                        assert!(finite(&student), "{what}: gradient");
                        assert!(
                            objective.parameters().iter().all(|(_, var)| finite(var)),
                            "{what}: parameter"
                        );
                        checked += 1;
                    }
                }
            }
        }
    }
    assert_eq!(checked, 3 * 14 * 14 * 9);
}

#[test]
fn an_extreme_parameter_has_a_finite_gradient() {
    let (s, t) = (logits(4, 5, 3.0, 0.1), logits(4, 5, 3.0, 0.7));
    for theta in [-1e4, -80.0, 0.0, 80.0, 1e4] {
        let theta = Tensor::new(&[theta as f32], &Device::Cpu).unwrap();
        let (value, gradient) = value_and_gradient(&theta, |x| ctkd(&s, &t, x, Curriculum::default(), 10));
        assert!(value.is_finite() && gradient[0].is_finite(), "{value} {gradient:?}");
    }
}

#[test]
fn methods_agree_where_they_are_the_same() {
    let (s, t, y) = (logits(4, 5, 3.0, 0.1), logits(4, 5, 3.0, 0.7), labels(&LABELS));
    let close = |a: Tensor, b: Tensor| assert!((scalar(&a) - scalar(&b)).abs() < 1e-12, "{a} {b}");
    // The exponent 1 leaves the teacher as it is, and its power sum is 1.
    let plain = || kd(&s, &t, Temperature::ONE, MEAN).unwrap();
    close(ttm(&s, &t, 1.0).unwrap(), plain());
    close(wttm(&s, &t, 1.0).unwrap(), plain());
    // A teacher that is right about every sample needs no refinement.
    let on_label = |i: usize| if LABELS[i / 5] as usize == i % 5 { 15.0 } else { 0.0 };
    let right = (&t + matrix(&(0..20).map(on_label).collect::<Vec<_>>(), 4)).unwrap();
    let refined = rld(&s, &right, &y, at(2.0), at(3.0)).unwrap();
    close(refined.confidence, tckd(&s, &right, &y, at(2.0), MEAN).unwrap());
    close(refined.correlation, nckd(&s, &right, &y, at(3.0), MEAN).unwrap());
    // At T = 1 the virtual teacher is a smoothed label, and a divergence a cross-entropy less the entropy.
    let (smoothing, classes) = (0.2_f64, 5.0);
    let (label, other) = (1.0 - smoothing + smoothing / classes, smoothing / classes);
    let entropy = -(label * label.ln() + 4.0 * other * other.ln());
    let smoothed = (cross_entropy(&s, &y, smoothing).unwrap() - entropy).unwrap();
    close(tfkd(&s, &y, Temperature::ONE, label, Form::Paper).unwrap(), smoothed);
    let (s, t, y) = (logits(3, 2, 3.0, 0.1), logits(3, 2, 3.0, 0.7), labels(&[0, 1, 1]));
    assert_eq!(scalar(&nkd(&s, &t, &y, at(2.0)).unwrap().nontarget), 0.0);
}

/// A teacher that errs: only the classes that it puts below the label are compared, and its own answer's probability is
/// the goal for the label's.
#[test]
fn refined_logits_leave_out_what_contradicts_the_label() {
    let s = matrix(&[0.3, -0.2, 1.0, 0.5, 2.0, -1.0, 0.0, 0.4], 2);
    let t = matrix(&[1.0, 4.0, 0.5, -2.0, 7.0, 6.0, 5.0, -1.0], 2);
    let refined = rld(&s, &t, &labels(&[0, 3]), Temperature::ONE, Temperature::ONE).unwrap();
    let log_sum = |x: &[f64]| x.iter().map(|v| v.exp()).sum::<f64>().ln();
    let kl = |p: [f64; 2], q: [f64; 2]| (0..2).map(|i| p[i] * (p[i] / q[i]).ln()).sum::<f64>();
    let softmax = |x: &[f64], of: usize| (x[of] - log_sum(x)).exp();
    let (s, t) = (numbers(&s), numbers(&t));
    let pair = |p: f64| [p, 1.0 - p];
    let confidence = 0.5
        * (kl(pair(softmax(&t[..4], 1)), pair(softmax(&s[..4], 0)))
            + kl(pair(softmax(&t[4..], 0)), pair(softmax(&s[4..], 3))));
    assert!((scalar(&refined.confidence) - confidence).abs() < 1e-12);
    // Row 0 compares classes 2 and 3. The label of row 1 is the teacher's last choice: nothing is compared.
    let correlation = 0.5 * kl(pair(softmax(&t[2..4], 0)), pair(softmax(&s[2..4], 0)));
    assert!((scalar(&refined.correlation) - correlation).abs() < 1e-12);
}

#[test]
fn the_reference_takes_probabilities_for_logits() {
    let (confidence, t) = (0.99_f64, 20.0);
    let value = tfkd(&matrix(&[0.0; 20], 2), &labels(&[3, 0]), at(t), confidence, Form::Reference).unwrap();
    let (label, other) = ((confidence / t).exp(), ((1.0 - confidence) / 9.0 / t).exp());
    let sum = label + 9.0 * other;
    let divergence = [(label, 1.0), (other, 9.0)].map(|(e, n)| n * e / sum * (10.0 * e / sum).ln());
    assert!((scalar(&value) - divergence.iter().sum::<f64>() / 10.0).abs() < 1e-15, "{value}");
}

#[test]
fn several_levels_and_views() {
    let y = labels(&LABELS);
    let [s0, s1, t0, t1] = [0.1, 0.4, 0.7, 0.9].map(|salt| logits(4, 5, 3.0, salt));
    let values = |form, views: usize| {
        let mut objective = method("mlkd", 4.0, form).build().unwrap();
        let views: Vec<View> = [(&s0, &t0), (&s1, &t1)][..views]
            .iter()
            .map(|(s, t)| View::new((*s).clone(), Some((*t).clone())))
            .collect();
        let terms = objective.terms(&Batch::new(&views, &y)).unwrap();
        assert_eq!(terms.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["instance", "batch", "class"]);
        [0, 1, 2].map(|i| scalar(&terms[i].value))
    };
    let all = [2.0, 3.0, 4.0, 5.0, 6.0];
    let over = |all: &[f64], loss: &dyn Fn(Temperature) -> dkd_losses::Result<Tensor>| {
        all.iter().map(|v| scalar(&loss(at(*v)).unwrap())).sum::<f64>()
    };
    let levels = |s: &Tensor, t: &Tensor| {
        [
            over(&all, &|v| kd(s, t, v, MEAN)),
            over(&all, &|v| mlkd_batch(s, t, v)),
            over(&all, &|v| mlkd_class(s, t, v)),
        ]
    };
    let check = |what: &str, ours: [f64; 3], want: [f64; 3]| {
        assert!(
            ours.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12 * b.max(1.0)),
            "{what}: {ours:?} {want:?}"
        );
    };
    let (first, second) = (levels(&s0, &t0), levels(&s1, &t1));
    let free = mlkd(&s0, &t0, at(4.0)).unwrap();
    check("function", [free.instance, free.batch, free.class].map(|t| scalar(&t)), first);
    check("one view", values(Form::Paper, 1), first);
    check("two views", values(Form::Paper, 2), [0, 1, 2].map(|i| first[i] + second[i]));
    // Half of four different confidences are up to their median, and three of five.
    let shares = [0.5 * first[0], 0.5 * first[1], 0.6 * first[2]];
    check("reference, one view", values(Form::Reference, 1), shares);
    let more =
        over(&[4.0, 3.0, 5.0], &|v| kd(&s1, &t1, v, MEAN)) + over(&[2.0, 6.0], &|v| kd(&s0, &t0, v, MEAN));
    check("reference, two views", values(Form::Reference, 2), [shares[0] + more, shares[1], shares[2]]);
}

#[test]
fn only_a_standardised_part_sees_standardised_logits() {
    let float = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let (s, t, y) = (float(logits(4, 5, 3.0, 0.1)), float(logits(4, 5, 30.0, 0.7)), labels(&LABELS));
    let z = standardized(&s).unwrap();
    assert_eq!(z.dtype(), DType::F32);
    for row in z.to_vec2::<f32>().unwrap() {
        let mean = row.iter().sum::<f32>() / 5.0;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 4.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{row:?}");
    }
    let part = |name: &str| Part::boxed(name, method("kd", 2.0, Form::Paper).build().unwrap());
    let mut both = Distiller::new().with(part("plain")).unwrap().with(part("z").standardized()).unwrap();
    let terms = terms(&mut both, std::slice::from_ref(&s), std::slice::from_ref(&t), &y);
    let want = [kd(&s, &t, at(2.0), MEAN), kd(&z, &standardized(&t).unwrap(), at(2.0), MEAN)];
    for (term, want) in terms.iter().zip(want) {
        assert_eq!(scalar(&term.value), scalar(&want.unwrap()), "{}", term.name);
    }
}
