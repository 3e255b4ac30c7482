//! Every way and every pass against plain loops in f64, and against each other.
#![allow(clippy::unwrap_used)]

use super::plan::{Plan, Way};
use super::{run, scratch_len};
use crate::gpu::convolution::{Arithmetic, Convolution, Pass};
use crate::gpu::testing::{assert_close, download, machines, numbers, stored, upload};
use crate::gpu::{Element, Emulated, View};

const PASSES: [Pass; 3] = [Pass::Forward, Pass::InputGradient, Pass::WeightGradient];

/// Square kernels of `(size, stride, padding)`.
fn square(
    images: usize,
    input: (usize, usize, usize),
    (outputs, groups): (usize, usize),
    (k, s, p): (usize, usize, usize),
) -> Convolution {
    let size = |n: usize| (n + 2 * p - k) / s + 1;
    Convolution {
        images,
        input,
        output: (size(input.0), size(input.1), outputs),
        kernel: (k, k),
        stride: (s, s),
        padding: (p, p),
        groups,
        arithmetic: Arithmetic::F32,
    }
}

fn cases() -> Vec<(Way, Convolution)> {
    let uneven = |c: Convolution| Convolution {
        output: ((c.input.0 + 2 - 3) / 2 + 1, c.input.1 + 4 - 5 + 1, c.output.2),
        kernel: (3, 5),
        stride: (2, 1),
        padding: (1, 2),
        ..c
    };
    vec![
        (Way::Depthwise, square(2, (5, 7, 8), (8, 8), (3, 1, 1))),
        (Way::Depthwise, square(2, (6, 5, 16), (16, 16), (3, 2, 1))),
        (Way::Depthwise, square(1, (7, 4, 5), (5, 5), (3, 1, 1))),
        (Way::Depthwise, square(3, (5, 6, 7), (7, 7), (3, 2, 1))),
        (Way::Depthwise, square(2, (5, 3, 58), (58, 58), (3, 1, 1))),
        (Way::Depthwise, square(1, (6, 4, 12), (12, 12), (3, 2, 1))),
        (Way::Depthwise, square(2, (9, 9, 8), (8, 8), (3, 3, 0))),
        (Way::Depthwise, square(2, (6, 6, 24), (24, 24), (5, 2, 2))),
        (Way::Depthwise, square(1, (4, 3, 3), (3, 3), (2, 1, 0))),
        (Way::Depthwise, square(2, (1, 1, 1), (1, 1), (3, 1, 1))),
        (Way::Depthwise, square(3, (17, 3, 132), (132, 132), (3, 1, 1))),
        (Way::Depthwise, uneven(square(2, (6, 6, 16), (16, 16), (3, 1, 1)))),
        (Way::Each, square(2, (6, 5, 3), (16, 1), (3, 1, 1))),
        (Way::Each, square(5, (1, 1, 40), (10, 1), (1, 1, 0))),
        (Way::Tiles, square(2, (6, 6, 36), (40, 1), (3, 2, 1))),
        (Way::Tiles, square(9, (1, 1, 33), (70, 1), (1, 1, 0))),
        (Way::Each, square(2, (5, 4, 6), (12, 6), (3, 1, 1))),
        (Way::Each, square(2, (5, 5, 12), (8, 4), (3, 2, 1))),
        (Way::Each, square(3, (4, 4, 24), (60, 3), (1, 1, 0))),
        (Way::Each, uneven(square(2, (5, 5, 10), (15, 5), (3, 1, 1)))),
        (Way::Each, square(2, (4, 4, 27), (33, 3), (1, 1, 0))),
        (Way::Tiles, square(2, (7, 6, 39), (51, 3), (1, 1, 0))),
        (Way::Tiles, square(1, (3, 3, 160), (136, 4), (1, 1, 0))),
        (Way::Tiles, square(2, (6, 5, 24), (26, 2), (3, 2, 1))),
        (Way::Tiles, uneven(square(2, (5, 5, 32), (40, 2), (3, 1, 1)))),
    ]
}

/// Operands of one pass: the result holds old values.
struct Operands {
    values: [Vec<f32>; 3],
    views: [View; 3],
    scratch: View,
}

fn operands(machine: &Emulated, pass: Pass, c: &Convolution) -> Operands {
    let element = c.arithmetic.element();
    let values = [0, 1, 2].map(|i| -> Vec<f32> {
        numbers(c.lengths()[i], 1 + i as u64).iter().map(|v| stored(*v, element)).collect()
    });
    let weights = if pass == Pass::WeightGradient { Element::F32 } else { element };
    let types = [element, weights, element];
    let views = [0, 1, 2].map(|i| upload(machine, &values[i], types[i]));
    let scratch = upload(machine, &vec![f32::NAN; scratch_len(c).unwrap()], Element::F32);
    Operands { values, views, scratch }
}

/// Place of the result among the operands.
fn result(pass: Pass) -> usize {
    match pass {
        Pass::Forward => 2,
        Pass::InputGradient => 0,
        Pass::WeightGradient => 1,
    }
}

#[test]
fn all_passes_are_those_of_plain_loops() {
    let mut results = Vec::new();
    for machine in machines() {
        let mut bits = Vec::new();
        for (way, c) in cases() {
            assert_eq!(Plan::new(&c).unwrap().way, way, "{c:?}");
            // Only gradients of the input are added up, as several may read it.
            let ways = PASSES.iter().map(|pass| (*pass, false)).chain([(Pass::InputGradient, true)]);
            for (pass, accumulate) in ways {
                for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
                    let c = Convolution { arithmetic, ..c };
                    let o = operands(&machine, pass, &c);
                    let [x, w, y] = &o.views;
                    run(&machine, pass, &c, [x, w, y], accumulate, Some(&o.scratch)).unwrap();
                    let got = download(&machine, &o.views[result(pass)]);
                    // The emulation's own convolution has plain loops and sums in f64.
                    let plain = Convolution { arithmetic: Arithmetic::F32, ..c };
                    let [x, w, y] = [0, 1, 2].map(|i| upload(&machine, &o.values[i], Element::F32));
                    plain.run(&machine, pass, [&x, &w, &y], accumulate).unwrap();
                    let want = download(&machine, [&x, &w, &y][result(pass)]);
                    let rounded = arithmetic == Arithmetic::Bf16 && pass != Pass::WeightGradient;
                    assert_close(&got, &want, if rounded { 0.005 } else { 2e-5 });
                    bits.extend(got.iter().map(|v| v.to_bits()));
                }
            }
        }
        results.push(bits);
    }
    assert!(results.windows(2).all(|two| two[0] == two[1]), "both orders give the same bits");
}

#[test]
fn gradients_are_adjoint() {
    for machine in machines() {
        for (_, c) in cases() {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            // <conv(x, w), y> is linear in each operand.
            let all = PASSES.map(|pass| {
                let o = operands(&machine, pass, &c);
                let [x, w, y] = &o.views;
                run(&machine, pass, &c, [x, w, y], false, Some(&o.scratch)).unwrap();
                dot(&download(&machine, &o.views[result(pass)]), &o.values[result(pass)])
            });
            let near = |a: f64| (a - all[0]).abs() < 1e-4 * (1.0 + all[0].abs());
            assert!(near(all[1]) && near(all[2]), "{all:?} {c:?}");
        }
    }
}

#[test]
fn views_off_the_packs_are_taken_one_by_one() {
    let c = square(2, (4, 5, 8), (8, 8), (3, 1, 1));
    for machine in machines() {
        for pass in PASSES {
            let o = operands(&machine, pass, &c);
            let [x, w, y] = &o.views;
            // The same numbers, one further on.
            let [moved_x, moved_w, moved_y] = [0, 1, 2].map(|i| {
                let values: Vec<f32> = [0.0].iter().chain(&o.values[i]).copied().collect();
                upload(&machine, &values, Element::F32).part(1..values.len()).unwrap()
            });
            run(&machine, pass, &c, [x, w, y], true, Some(&o.scratch)).unwrap();
            run(&machine, pass, &c, [&moved_x, &moved_w, &moved_y], true, Some(&o.scratch)).unwrap();
            let got = download(&machine, [&moved_x, &moved_w, &moved_y][result(pass)]);
            assert_close(&got, &download(&machine, &o.views[result(pass)]), 1e-5);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let c = square(1, (4, 4, 4), (4, 4), (3, 1, 1));
    for machine in machines() {
        let o = operands(&machine, Pass::Forward, &c);
        let [x, w, y] = [&o.views[0], &o.views[1], &o.views[2]];
        run(&machine, Pass::Forward, &c, [x, w, y], false, None).unwrap();
        assert!(run(&machine, Pass::Forward, &c, [x, y, w], false, None).is_err());
        assert!(run(&machine, Pass::Forward, &c, [x, w, x], false, None).is_err());
        assert!(run(&machine, Pass::WeightGradient, &c, [x, w, y], false, None).is_err());
        let short = o.scratch.part(1..o.scratch.len()).unwrap();
        assert!(run(&machine, Pass::WeightGradient, &c, [x, w, y], false, Some(&short)).is_err());
        let bf16 = Convolution { arithmetic: Arithmetic::Bf16, ..c };
        assert!(run(&machine, Pass::Forward, &bf16, [x, w, y], false, None).is_err());
        let b = operands(&machine, Pass::Forward, &bf16);
        let [x, w, y] = [&b.views[0], &b.views[1], &b.views[2]];
        // A weight gradient is f32, whatever the maps are.
        assert!(run(&machine, Pass::WeightGradient, &bf16, [x, w, y], false, Some(&b.scratch)).is_err());
    }
    for wrong in [
        Convolution { groups: 3, ..c },
        Convolution { groups: 0, ..c },
        Convolution { stride: (0, 1), ..c },
        Convolution { output: (5, 4, 4), ..c },
        Convolution { output: (0, 4, 4), ..c },
        Convolution { images: 1 << 30, ..c },
    ] {
        assert!(scratch_len(&wrong).is_err(), "{wrong:?}");
    }
}
