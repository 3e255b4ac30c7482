//! Gradients against central differences, identities, and extremes.
#![allow(clippy::unwrap_used)]
mod support;

use candle_core::{DType, Tensor};
use dkd_losses::{DkdWeights, Reduction, Result, Temperature, cross_entropy, decoupled, dkd, kd, nckd, tckd};
use proptest::prelude::*;
use support::{central_differences, labels, largest, matrix, numbers, scalar, value_and_gradient};

type Loss<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

const MEAN: Reduction = Reduction::BatchMean;

fn logits(rows: usize, classes: usize, scale: f64, salt: f64) -> Tensor {
    let value = |i: usize| ((i as f64 * 12.9898 + salt).sin() * 43_758.547).fract() * 2.0 - 1.0;
    matrix(&(0..rows * classes).map(|i| scale * value(i)).collect::<Vec<_>>(), rows)
}

#[test]
fn gradients_match_differences() {
    let (s, t, y) = (logits(4, 5, 3.0, 0.1), logits(4, 5, 3.0, 0.7), labels(&[0, 4, 2, 2]));
    for temperature in [0.5, 1.0, 4.0] {
        let at = Temperature::new(temperature).unwrap();
        let weights = DkdWeights { alpha: 0.7, beta: 2.0 };
        let losses: Vec<(&str, Box<Loss<'_>>)> = vec![
            ("ce", Box::new(|s| cross_entropy(s, &y, 0.0))),
            ("ce smoothed", Box::new(|s| cross_entropy(s, &y, 0.2))),
            ("kd", Box::new(|s| kd(s, &t, at, MEAN))),
            ("tckd", Box::new(|s| tckd(s, &t, &y, at, MEAN))),
            ("nckd", Box::new(|s| nckd(s, &t, &y, at, MEAN))),
            ("dkd", Box::new(|s| dkd(s, &t, &y, weights, at, MEAN))),
        ];
        for (name, loss) in &losses {
            let (_, gradient) = value_and_gradient(&s, loss);
            let want = central_differences(&s, loss);
            let bound = 1e-6 * largest(&want).max(1.0);
            assert!(
                gradient.iter().zip(&want).all(|(a, b)| (a - b).abs() < bound),
                "{name} at T = {temperature}"
            );
        }
    }
}

#[test]
fn two_classes_have_no_other_classes() {
    let (s, t, y) = (logits(3, 2, 5.0, 0.3), logits(3, 2, 5.0, 0.9), labels(&[0, 1, 1]));
    for scale in [1.0, 1e3] {
        let s = (&s * scale).unwrap();
        let (value, gradient) = value_and_gradient(&s, |s| nckd(s, &t, &y, Temperature::ONE, MEAN));
        assert_eq!(value, 0.0);
        assert!(gradient.iter().all(|g| *g == 0.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn always_finite(
        rows in 1_usize..5, classes in 2_usize..12, scale in prop::sample::select(vec![0.0, 1.0, 30.0, 1e4]),
        temperature in 0.05_f64..100.0, salt in 0.0_f64..10.0, equal: bool,
    ) {
        let at = Temperature::new(temperature).unwrap();
        let s = logits(rows, classes, scale, salt).to_dtype(DType::F32).unwrap();
        let t = if equal { s.clone() } else { logits(rows, classes, scale, salt + 1.0).to_dtype(DType::F32).unwrap() };
        let y = labels(&(0..rows as u32).map(|i| i % classes as u32).collect::<Vec<_>>());
        let weights = DkdWeights::default();
        for (value, gradient) in [
            value_and_gradient(&s, |s| kd(s, &t, at, MEAN)),
            value_and_gradient(&s, |s| dkd(s, &t, &y, weights, at, MEAN)),
            value_and_gradient(&s, |s| cross_entropy(s, &y, 0.1)),
        ] {
            prop_assert!(value.is_finite() && value >= -1e-6, "{value}");
            prop_assert!(gradient.iter().all(|g| g.is_finite()));
        }
        if equal {
            prop_assert!(scalar(&kd(&s, &t, at, MEAN).unwrap()).abs() < 1e-6);
        }
    }

    #[test]
    fn kd_is_its_two_parts(rows in 1_usize..4, classes in 3_usize..9, temperature in 0.3_f64..8.0, salt in 0.0_f64..10.0) {
        let at = Temperature::new(temperature).unwrap();
        let (s, t) = (logits(rows, classes, 4.0, salt), logits(rows, classes, 4.0, salt + 2.0));
        // Row by row, since the weight 1 - p_y is the row's own.
        for row in 0..rows {
            let (s, t) = (s.narrow(0, row, 1).unwrap(), t.narrow(0, row, 1).unwrap());
            let label = (row * 7 % classes) as u32;
            let parts = decoupled(&s, &t, &labels(&[label]), at, MEAN).unwrap();
            let p = dkd_losses::log_softmax(&t, at).unwrap().exp().unwrap();
            let p_y = numbers(&p)[label as usize];
            let sum = scalar(&parts.tckd) + (1.0 - p_y) * scalar(&parts.nckd);
            let whole = scalar(&kd(&s, &t, at, MEAN).unwrap());
            prop_assert!((sum - whole).abs() < 1e-9 * (1.0 + whole), "{sum} {whole}");
        }
    }

    #[test]
    fn a_shift_of_all_logits_changes_nothing(shift in -50.0_f64..50.0, salt in 0.0_f64..10.0) {
        let (s, t, y) = (logits(3, 6, 4.0, salt), logits(3, 6, 4.0, salt + 1.0), labels(&[0, 5, 3]));
        let at = Temperature::new(2.0).unwrap();
        let both = |s: &Tensor, t: &Tensor| {
            let d = decoupled(s, t, &y, at, MEAN).unwrap();
            [scalar(&kd(s, t, at, MEAN).unwrap()), scalar(&d.tckd), scalar(&d.nckd)]
        };
        let (plain, moved) = (both(&s, &t), both(&(&s + shift).unwrap(), &(&t - shift).unwrap()));
        prop_assert!(plain.iter().zip(moved).all(|(a, b)| (a - b).abs() < 1e-9), "{plain:?} {moved:?}");
    }
}
