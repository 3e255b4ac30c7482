//! Single numbers that the reference's own functions give in f64, on inputs that any language can make.
//!
//! The inputs are those of a linear congruential generator: x becomes (1103515245 x + 12345) mod 2^31, and a value is x / 2^30 - 1.
#![allow(clippy::unwrap_used)]
mod support;

use candle_core::{Device, Tensor, Var};
use dkd_losses::{
    Batch, DkdWeights, Method, Reduction, Temperature, View, attention, cross_entropy, decoupled, dkd, hcl,
    kd, margin, nckd, nst, partial_l2, pkt, relational, similarity, tckd, vid,
};
use support::{numbers, scalar};

/// Values from `seed` in row-major order, times `scale`.
fn lcg(seed: u64, shape: &[usize], scale: f64) -> Tensor {
    let mut x = seed;
    let mut next = || {
        x = (1_103_515_245 * x + 12345) % (1 << 31);
        (x as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0) * scale
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn check(what: &str, value: &Tensor, expected: f64) {
    let value = scalar(value);
    assert!(
        (value - expected).abs() <= 6e-10 * expected.abs().max(1.0),
        "{what}: {value} instead of {expected}"
    );
}

fn temperature(t: f64) -> Temperature {
    Temperature::new(t).unwrap()
}

/// Student, teacher and labels of the losses on logits.
fn logits() -> (Tensor, Tensor, Tensor) {
    let labels = Tensor::new(&[3_u32, 0, 7, 9], &Device::Cpu).unwrap();
    (lcg(1, &[4, 10], 5.0), lcg(2, &[4, 10], 8.0), labels)
}

#[test]
fn the_generator() {
    let (s, t, _) = logits();
    let first = [numbers(&s)[..3].to_vec(), numbers(&t)[..2].to_vec()].concat();
    let expected = [0.13870078139, -3.24258696754, -1.91348483786, -7.55624947697, 3.14125692844];
    assert!(first.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-10), "{first:?}");
}

#[test]
fn losses_on_logits() {
    let (s, t, y) = logits();
    let mean = Reduction::BatchMean;
    check("ce", &cross_entropy(&s, &y, 0.0).unwrap(), 5.3436430729);
    for (at, all, target, others) in [
        (1.0, 4.8525316058, 0.1416586494, 4.8227404961),
        (2.0, 8.4873529140, 0.8270143667, 8.3345032650),
        (4.0, 11.8588816480, 2.0627899940, 10.9399956203),
    ] {
        let at = temperature(at);
        check("kd", &kd(&s, &t, at, mean).unwrap(), all);
        check("tckd", &tckd(&s, &t, &y, at, mean).unwrap(), target);
        check("nckd", &nckd(&s, &t, &y, at, mean).unwrap(), others);
        let parts = decoupled(&s, &t, &y, at, mean).unwrap();
        check("decoupled", &parts.tckd, target);
    }
    for (alpha, beta, at, expected) in [
        (1.0, 8.0, 4.0, 89.5827549565),
        (1.0, 6.0, 4.0, 67.7027637159),
        (1.0, 2.0, 4.0, 23.9427812347),
        (1.0, 0.5, 1.0, 2.5530288974),
        (1.0, 2.0, 1.0, 9.7871396416),
        (0.7, 0.25, 1.0, 1.3048461786),
    ] {
        let value = dkd(&s, &t, &y, DkdWeights { alpha, beta }, temperature(at), mean).unwrap();
        check(&format!("dkd {alpha} {beta} {at}"), &value, expected);
    }
    for (at, expected) in [(1.0, 3.3997012773), (5.0, 3.9532801299)] {
        let mut objective = Method::SeedKd { temperature: temperature(at), a: 0.5 }.build().unwrap();
        let views = [View::new(s.clone(), Some(t.clone()))];
        let terms = objective.terms(&Batch::new(&views, &y)).unwrap();
        let total: f64 = terms.iter().map(|t| t.weight * scalar(&t.value)).sum();
        assert!((total - expected).abs() < 1e-6, "seed_kd {at}: {total} instead of {expected}");
    }
}

#[test]
fn gradients_on_logits() {
    let (s, t, y) = logits();
    let s = Var::from_tensor(&s).unwrap();
    let (weights, mean) = (DkdWeights { alpha: 1.0, beta: 8.0 }, Reduction::BatchMean);
    let dkd = dkd(s.as_tensor(), &t, &y, weights, temperature(4.0), mean).unwrap();
    let kd = kd(s.as_tensor(), &t, temperature(4.0), mean).unwrap();
    let expected = [
        [
            0.85290351,
            -0.24631940,
            0.40070389,
            0.08352177,
            1.73866701,
            -0.68311528,
            -0.07703440,
            -0.73212079,
            0.39022326,
            -1.72742958,
        ],
        [
            0.09585667,
            -0.03364664,
            0.04396471,
            0.08352177,
            0.18777527,
            -0.08695404,
            -0.02270389,
            -0.09345596,
            0.03973973,
            -0.21409763,
        ],
    ];
    for (value, expected) in [dkd, kd].iter().zip(expected) {
        let store = value.backward().unwrap();
        let row = &numbers(store.get(&s).unwrap())[..10];
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 6e-9), "{row:?}");
    }
}

#[test]
fn losses_on_features() {
    let (s, t) = (lcg(3, &[4, 3, 4, 4], 1.0), lcg(4, &[4, 5, 8, 8], 1.0));
    let equal = lcg(5, &[4, 3, 4, 4], 1.0);
    let (ps, pt) = (lcg(6, &[4, 6], 1.0), lcg(7, &[4, 8], 1.0));
    check("at", &attention(&s, &t, 2).unwrap(), 0.0302670050);
    check("nst", &nst(&s, &t).unwrap(), 0.5539438455);
    check("sp", &similarity(&s, &t).unwrap(), 0.0051053549);
    check("pkt", &(pkt(&ps, &pt).unwrap() * 30_000.0).unwrap(), 502.2960103183);
    let parts = relational(&ps, &pt, false).unwrap();
    check("rkd, distance", &parts.distance, 0.0177075221);
    check("rkd, angle", &parts.angle, 0.0208434011);
    let sum = ((&parts.distance * 25.0).unwrap() + (&parts.angle * 50.0).unwrap()).unwrap();
    check("rkd", &sum, 1.4848581065);
    check("a level of reviewkd", &hcl(&s, &equal).unwrap(), 0.4035269438);
    let (a, b) = (lcg(8, &[2, 3, 8, 8], 1.0), lcg(9, &[2, 3, 8, 8], 1.0));
    check("a larger level of reviewkd", &hcl(&a, &b).unwrap(), 0.3922669108);
    let margins = Tensor::new(&[-0.3, -0.1, -0.5], &Device::Cpu).unwrap();
    check("ofd", &partial_l2(&s, &equal, &margins).unwrap(), 22.2428414121);
    for (scale, shift, expected) in
        [(1.0, 0.0, -0.79788456), (0.5, 0.2, -0.33437809), (-0.7, -0.4, -0.73120865), (0.1, 0.5, -0.3)]
    {
        let value = margin(scale, shift);
        assert!((value - expected).abs() < 6e-9, "margin of {scale}, {shift}: {value}");
    }
    // The variance is log(1 + exp(v)) + 1e-5 = 5.
    let fixed = Tensor::new(&[4.9932291827; 3], &Device::Cpu).unwrap();
    check("vid", &vid(&s, &equal, &fixed).unwrap(), 0.8673002434);
}
