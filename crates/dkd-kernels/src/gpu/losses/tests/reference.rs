//! DKD in the reference's arithmetic: the same numbers as DKD's on ordinary logits, its defects elsewhere.

use super::*;

const DKD: (bool, bool, bool) = (false, true, false);

fn both(machine: &dyn Machine, case: &Case<'_>) -> [Result; 2] {
    [Decoupling::Stable, Decoupling::Reference].map(|d| run_as(machine, case, Some(d)))
}

/// One row of ten classes in which class 0 is `margin` above the others, which differ a little.
fn ahead(margin: f32) -> [f32; 10] {
    std::array::from_fn(|j| if j == 0 { margin } else { -0.01 * j as f32 })
}

#[test]
fn ordinary_logits_have_the_values_of_dkd() {
    let mut bits = Vec::new();
    for machine in machines() {
        let mut all = Vec::new();
        for (n, classes) in [(1, 2), (5, 3), (9, 10), (2, 257)] {
            let [student, teacher] =
                [1, 2].map(|seed| numbers(n * classes, seed).iter().map(|v| 3.0 * v).collect::<Vec<_>>());
            let labels: Vec<u32> = (0..n).map(|i| (i * 7 % classes) as u32).collect();
            for t in [0.5, 1.0, 4.0] {
                for asked in [DKD, ASKED[2], ASKED[4]] {
                    let case = Case {
                        student: &student,
                        teacher: Some(&teacher),
                        labels: &labels,
                        weights: at(t),
                        asked,
                    };
                    let [want, got] = both(&machine, &case);
                    // Terms are T^2 times small differences of f32 numbers.
                    let near = |got: f64, want: f64, scale: f64| {
                        (got - want).abs() <= 1e-5 * scale * want.abs().max(1.0)
                    };
                    let scale = f64::from((t * t).max(1.0)) * n as f64;
                    let (g, w) = (got.totals, want.totals);
                    assert!(
                        near(g.tckd, w.tckd, scale) && near(g.nckd, w.nckd, scale),
                        "{case:?}: {g:?}, not {w:?}"
                    );
                    assert_eq!((g.ce, g.kd, g.correct, got.bad), (w.ce, w.kd, w.correct, 0));
                    for (got, want) in got.gradient.iter().zip(&want.gradient) {
                        let (got, want) = (f64::from(*got), f64::from(*want));
                        assert!(near(got, want, 10.0), "{case:?}: {got}, not {want}");
                    }
                    all.extend(got.gradient.iter().map(|g| g.to_bits()));
                }
            }
        }
        bits.push(all);
    }
    assert!(bits.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn beyond_what_f32_holds_it_breaks_where_the_reference_does() {
    let weights = Weights { ce: 0.0, kd: 0.0, alpha: 1.0, beta: 1.0, ..at(1.0) };
    for machine in machines() {
        let at_margin = |margin: f32, weights: Weights| {
            let case = Case {
                student: &ahead(margin),
                teacher: Some(&ahead(2.0)),
                labels: &[0],
                weights,
                asked: DKD,
            };
            both(&machine, &case)
        };
        let finite = |r: &Result| r.gradient.iter().all(|g| g.is_finite());
        for margin in [80.0, 95.0, 110.0, 300.0, 1200.0] {
            let [stable, reference] = at_margin(margin, weights);
            assert!(finite(&stable) && stable.bad == 0, "{margin}");
            let close = (reference.totals.tckd / stable.totals.tckd - 1.0).abs() < 1e-3;
            // The value holds out longer than its gradient.
            assert_eq!(close, margin < 104.0, "{margin}: {reference:?}", reference = reference.totals);
            assert_eq!(finite(&reference), margin < 90.0, "{margin}: {:?}", reference.gradient);
            assert_eq!(reference.bad == 0, margin < 90.0, "{margin}");
            // From 990 on the label is among the others again.
            let close = (reference.totals.nckd - stable.totals.nckd).abs() < 1e-4;
            assert_eq!(close, margin < 990.0, "{margin}");
        }
        // A weight of 0 does not help, and a teacher as sure as the student makes it worse: the value is NaN.
        let [_, reference] = at_margin(110.0, Weights { alpha: 0.0, ..weights });
        assert!(reference.gradient.iter().all(|g| g.is_nan()) && reference.bad == 1);
        let sure = ahead(110.0);
        let case = Case { student: &sure, teacher: Some(&sure), labels: &[0], weights, asked: DKD };
        let [stable, reference] = both(&machine, &case);
        assert!(stable.totals.tckd == 0.0 && reference.totals.tckd.is_nan() && reference.bad == 1);
        // A larger temperature shifts the border.
        let [_, reference] = at_margin(300.0, Weights { dkd_temperature: 4.0, ..weights });
        assert!(finite(&reference) && reference.bad == 0);
    }
}
