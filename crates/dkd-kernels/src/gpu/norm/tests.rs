//! Batch normalisation against plain loops in f64, and its gradients against differences.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::channels::ChannelMap;
use crate::gpu::Emulated;
use crate::gpu::channels::Table;
use crate::gpu::testing::{assert_close, download, machines, numbers, stored, upload};

const EPS: f32 = 1e-5;

/// Parameters, state and scratch of one normalisation.
struct Norm {
    gamma: View,
    beta: View,
    running: [View; 2],
    state: Channels,
    scratch: View,
    d_gamma: View,
    d_beta: View,
}

impl Norm {
    fn new(machine: &Emulated, rows: usize, channels: usize, seed: u64) -> Self {
        let up = |v: &[f32]| upload(machine, v, Element::F32);
        Self {
            gamma: up(&numbers(channels, seed)),
            beta: up(&numbers(channels, seed + 1)),
            running: [up(&vec![0.5; channels]), up(&vec![2.0; channels])],
            state: Channels::new(machine, channels).unwrap(),
            scratch: up(&vec![f32::NAN; scratch_len(rows, channels)]),
            d_gamma: up(&vec![f32::NAN; channels]),
            d_beta: up(&vec![f32::NAN; channels]),
        }
    }

    fn affine(&self) -> Affine<'_> {
        let [mean, var] = &self.running;
        Affine {
            gamma: &self.gamma,
            beta: &self.beta,
            lacking: None,
            running: [mean, var],
            eps: EPS,
            momentum: 0.1,
        }
    }

    fn moments(&self, machine: &Emulated, z: &View) {
        moments(machine, z, &self.affine(), &self.scratch, &self.state).unwrap();
    }

    fn gradients(&self) -> Gradients<'_> {
        Gradients { gamma: &self.gamma, d_gamma: &self.d_gamma, d_beta: &self.d_beta }
    }
}

/// Mean and biased variance of a channel.
fn mean_var(z: &[f32], channels: usize, c: usize) -> (f64, f64) {
    let column: Vec<f64> = z.iter().skip(c).step_by(channels).map(|v| f64::from(*v)).collect();
    let n = column.len() as f64;
    let mean = column.iter().sum::<f64>() / n;
    (mean, column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

/// A map normalised with its own statistics, in f64.
fn normalized(z: &[f32], channels: usize, gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let of: Vec<(f64, f64)> = (0..channels).map(|c| mean_var(z, channels, c)).collect();
    let value = |(i, v): (usize, &f32)| {
        let (mean, var) = of[i % channels];
        let xhat = (f64::from(*v) - mean) / (var + f64::from(EPS)).sqrt();
        xhat * f64::from(gamma[i % channels]) + f64::from(beta[i % channels])
    };
    z.iter().enumerate().map(value).collect()
}

fn sizes() -> Vec<(usize, usize, Element)> {
    let all = [(1, 3), (2, 16), (50, 7), (300, 24), (5000, 8), (40, 136)];
    all.iter().flat_map(|(r, c)| [(*r, *c, Element::F32), (*r, *c, Element::Bf16)]).collect()
}

#[test]
fn moments_follow_plain_loops() {
    for machine in machines() {
        for (rows, channels, element) in sizes() {
            let n = Norm::new(&machine, rows, channels, 1);
            let z: Vec<f32> =
                numbers(rows * channels, 3).iter().map(|v| stored(v * 2.0 + 1.0, element)).collect();
            n.moments(&machine, &upload(&machine, &z, element));
            let (gamma, beta) = (download(&machine, &n.gamma), download(&machine, &n.beta));
            let all: Vec<(f64, f64)> = (0..channels).map(|c| mean_var(&z, channels, c)).collect();
            let want = |f: &dyn Fn(usize, f64, f64) -> f64| -> Vec<f32> {
                all.iter().enumerate().map(|(c, (mean, var))| f(c, *mean, *var) as f32).collect()
            };
            let inverse = |var: f64| 1.0 / (var + f64::from(EPS)).sqrt();
            let near = |view: &View, want: Vec<f32>| assert_close(&download(&machine, view), &want, 2e-5);
            near(n.state.mean(), want(&|_, mean, _| mean));
            near(n.state.inverse(), want(&|_, _, var| inverse(var)));
            near(n.state.scale(), want(&|c, _, var| f64::from(gamma[c]) * inverse(var)));
            let shift = |c: usize, mean, var| f64::from(beta[c]) - mean * f64::from(gamma[c]) * inverse(var);
            near(n.state.shift(), want(&shift));
            near(&n.running[0], want(&|_, mean, _| 0.9 * 0.5 + 0.1 * mean));
            let unbiased = |var: f64| var * rows as f64 / (rows.max(2) - 1) as f64;
            near(&n.running[1], want(&|_, _, var| 0.9 * 2.0 + 0.1 * unbiased(var)));
        }
    }
}

#[test]
fn a_large_mean_does_not_drown_the_variance() {
    for machine in machines() {
        let n = Norm::new(&machine, 4000, 4, 1);
        let z: Vec<f32> = numbers(16_000, 3).iter().map(|v| 0.1 * v + 1000.0).collect();
        n.moments(&machine, &upload(&machine, &z, Element::F32));
        let want: Vec<f32> = (0..4).map(|c| (1.0 / mean_var(&z, 4, c).1.sqrt()) as f32).collect();
        assert_close(&download(&machine, n.state.inverse()), &want, 1e-3);
    }
}

#[test]
fn running_statistics_give_the_affine_map() {
    for machine in machines() {
        let n = Norm::new(&machine, 4, 5, 1);
        running(&machine, &n.affine(), &n.state).unwrap();
        let (gamma, beta) = (download(&machine, &n.gamma), download(&machine, &n.beta));
        let scale: Vec<f32> = gamma.iter().map(|g| g / (2.0 + EPS).sqrt()).collect();
        let shift: Vec<f32> = beta.iter().zip(&scale).map(|(b, s)| b - 0.5 * s).collect();
        assert_close(&download(&machine, n.state.scale()), &scale, 1e-6);
        assert_close(&download(&machine, n.state.shift()), &shift, 1e-6);
    }
}

#[test]
fn what_is_lacking_moves_the_running_mean_alone() {
    for machine in machines() {
        let (rows, channels) = (300, 24);
        let bias = numbers(channels, 9);
        let lacking = upload(&machine, &bias, Element::F32);
        let z = upload(&machine, &numbers(rows * channels, 3), Element::F32);
        let [with, without] = [Some(&lacking), None].map(|lacking| {
            let n = Norm::new(&machine, rows, channels, 1);
            let affine = Affine { lacking, ..n.affine() };
            moments(&machine, &z, &affine, &n.scratch, &n.state).unwrap();
            let all = [n.state.mean(), n.state.inverse(), n.state.scale(), n.state.shift(), &n.running[1]];
            let state = all.map(|view| download(&machine, view));
            let mean = download(&machine, &n.running[0]);
            running(&machine, &affine, &n.state).unwrap();
            (state, mean, download(&machine, n.state.mean()), download(&machine, n.state.shift()))
        });
        assert_eq!(with.0, without.0);
        let moved: Vec<f32> = without.1.iter().zip(&bias).map(|(m, b)| m + 0.1 * b).collect();
        assert_close(&with.1, &moved, 1e-6);
        let back: Vec<f32> = moved.iter().zip(&bias).map(|(m, b)| m - b).collect();
        assert_close(&with.2, &back, 1e-6);
        assert_ne!(with.3, without.3);
    }
}

#[test]
fn more_or_fewer_values_that_are_lacking_are_refused() {
    for machine in machines() {
        let n = Norm::new(&machine, 4, 5, 1);
        let bias = upload(&machine, &[0.0; 4], Element::F32);
        let affine = Affine { lacking: Some(&bias), ..n.affine() };
        assert!(running(&machine, &affine, &n.state).is_err());
    }
}

/// Every kind of addend, with and without a rectifier.
const CASES: [(u32, bool); 6] = [(0, false), (0, true), (1, false), (1, true), (2, false), (2, true)];

/// The output in f64 for z and the addend.
fn output(
    z: &[f32],
    other: &[f32],
    channels: usize,
    own: &Norm,
    second: &Norm,
    m: &Emulated,
    case: (u32, bool),
) -> Vec<f64> {
    let of = |z: &[f32], n: &Norm| normalized(z, channels, &download(m, &n.gamma), &download(m, &n.beta));
    let mut y = of(z, own);
    match case.0 {
        1 => y.iter_mut().zip(other).for_each(|(y, o)| *y += f64::from(*o)),
        2 => y.iter_mut().zip(of(other, second)).for_each(|(y, o)| *y += o),
        _ => {}
    }
    if case.1 { y.iter().map(|v| v.max(0.0)).collect() } else { y }
}

fn addend<'a>(case: (u32, bool), other: &'a View, second: &'a Norm) -> Addend<'a> {
    match case.0 {
        0 => Addend::None,
        1 => Addend::Value(other),
        _ => Addend::Normalized(other, &second.state),
    }
}

#[test]
fn outputs_follow_plain_loops() {
    for machine in machines() {
        for (rows, channels, element) in sizes() {
            for case in CASES {
                let (own, second) =
                    (Norm::new(&machine, rows, channels, 1), Norm::new(&machine, rows, channels, 5));
                let make = |seed| -> Vec<f32> {
                    numbers(rows * channels, seed).iter().map(|v| stored(*v, element)).collect()
                };
                let (z, other) = (make(3), make(4));
                let (dz, dother) = (upload(&machine, &z, element), upload(&machine, &other, element));
                own.moments(&machine, &dz);
                second.moments(&machine, &dother);
                let y = upload(&machine, &vec![0.0; z.len()], element);
                apply(&machine, &dz, &own.state, addend(case, &dother, &second), case.1, &y).unwrap();
                let want = output(&z, &other, channels, &own, &second, &machine, case);
                let want: Vec<f32> = want.iter().map(|v| *v as f32).collect();
                let tolerance = if element == Element::Bf16 { 1e-2 } else { 1e-4 };
                assert_close(&download(&machine, &y), &want, tolerance);
            }
        }
    }
}

#[test]
fn gradients_match_differences() {
    let (rows, channels) = (30, 4);
    for machine in machines() {
        for case in CASES {
            let (own, second) =
                (Norm::new(&machine, rows, channels, 1), Norm::new(&machine, rows, channels, 5));
            let make = |seed| numbers(rows * channels, seed);
            let (z, other, g, residual) = (make(3), make(4), make(6), make(7));
            let up = |v: &[f32]| upload(&machine, v, Element::F32);
            let (dz, dother, dg, dr) = (up(&z), up(&other), up(&g), up(&residual));
            own.moments(&machine, &dz);
            second.moments(&machine, &dother);
            let y = up(&vec![0.0; z.len()]);
            let added = addend(case, &dother, &second);
            apply(&machine, &dz, &own.state, added, case.1, &y).unwrap();
            let seen = Output { y: Some(&y), z: &dz, state: &own.state, addend: added, relu: case.1 };
            let of_second = second.gradients();
            let of_second = (case.0 == 2).then_some(&of_second);
            complete(&machine, &dg, Incoming::Plus(&dr), &seen, &own.gradients(), of_second, &own.scratch)
                .unwrap();
            let to = up(&vec![1.0; z.len()]);
            input_gradient(&machine, &dg, &dz, &own.state, &to, true).unwrap();
            let got: Vec<f32> = download(&machine, &to).iter().map(|v| v - 1.0).collect();
            // The loss is the output times (g + residual).
            let loss = |z: &[f32], other: &[f32]| -> f64 {
                let y = output(z, other, channels, &own, &second, &machine, case);
                y.iter().zip(g.iter().zip(&residual)).map(|(y, (g, r))| y * f64::from(g + r)).sum()
            };
            let difference = |at: usize, second: bool| -> f32 {
                let side = |h: f32| {
                    let (mut z, mut other) = (z.clone(), other.clone());
                    if second {
                        other[at] += h
                    } else {
                        z[at] += h
                    }
                    loss(&z, &other)
                };
                ((side(1e-3) - side(-1e-3)) / 2e-3) as f32
            };
            let far = |got: &[f32], second: bool| {
                let off = |i: usize| (got[i] - difference(i, second)).abs() > 2e-2;
                (0..z.len()).filter(|i| off(*i)).count()
            };
            // A difference may step over a rectifier's edge, here and there.
            assert!(far(&got, false) <= 2, "{case:?}");
            if case.0 == 2 {
                input_gradient(&machine, &dg, &dother, &second.state, &to, false).unwrap();
                assert!(far(&download(&machine, &to), true) <= 2, "{case:?}");
            }
            let completed = download(&machine, &dg);
            let sum = |c: usize| completed.iter().skip(c).step_by(channels).sum::<f32>();
            assert_close(&download(&machine, &own.d_beta), &(0..channels).map(sum).collect::<Vec<_>>(), 1e-4);
            let gamma_gradient = |c: usize| -> f32 {
                let (mean, var) = mean_var(&z, channels, c);
                let xhat = |v: &f32| (f64::from(*v) - mean) / (var + f64::from(EPS)).sqrt();
                let pairs = completed.iter().zip(&z).skip(c).step_by(channels);
                pairs.map(|(g, z)| f64::from(*g) * xhat(z)).sum::<f64>() as f32
            };
            let want: Vec<f32> = (0..channels).map(gamma_gradient).collect();
            assert_close(&download(&machine, &own.d_gamma), &want, 1e-3);
        }
    }
}

/// Channels here and there in maps of 5 and twice as many channels, every sixth nowhere.
fn scattered(channels: usize) -> ChannelMap {
    let widths = [channels.div_ceil(3) + 5, 2 * channels];
    let place = |c: usize| match c % 6 {
        4 => None,
        0 | 3 => Some((0, widths[0] - 1 - c / 3)),
        _ => Some((1, 2 * c + 1)),
    };
    ChannelMap::new(&widths, &(0..channels).map(place).collect::<Vec<_>>())
}

#[test]
fn gathered_gradients_are_completed_like_those_in_one_place() {
    for machine in machines() {
        for (rows, channels, element) in sizes() {
            for relu in [false, true] {
                let map = scattered(channels);
                let table = Table::new(&machine, &map).unwrap();
                let make = |n: usize, seed| -> Vec<f32> {
                    numbers(rows * n, seed).iter().map(|v| stored(*v, element)).collect()
                };
                let gradients: Vec<_> = map.sources().iter().map(|n| make(*n, 10 + *n as u64)).collect();
                let views: Vec<_> = gradients.iter().map(|v| upload(&machine, v, element)).collect();
                let views: Vec<&View> = views.iter().collect();
                let together = |i: usize| {
                    let from = map.from()[i % channels];
                    from.map_or(0.0, |(s, c)| gradients[s][i / channels * map.sources()[s] + c])
                };
                let own = upload(&machine, &(0..rows * channels).map(together).collect::<Vec<_>>(), element);
                let gathered = upload(&machine, &vec![f32::NAN; rows * channels], element);
                let z = upload(&machine, &make(channels, 3), element);
                let (a, b) = (Norm::new(&machine, rows, channels, 1), Norm::new(&machine, rows, channels, 1));
                for (n, g, incoming) in
                    [(&a, &own, Incoming::Own), (&b, &gathered, Incoming::Gathered(&table, &views))]
                {
                    n.moments(&machine, &z);
                    let seen = Output { y: None, z: &z, state: &n.state, addend: Addend::None, relu };
                    complete(&machine, g, incoming, &seen, &n.gradients(), None, &n.scratch).unwrap();
                }
                let [got, want] = [&gathered, &own].map(|view| download(&machine, view));
                assert_eq!(got, want, "{rows} {channels} {element:?} {relu}");
                let sums = [(&b.d_gamma, &a.d_gamma), (&b.d_beta, &a.d_beta)];
                for (got, want) in
                    sums.into_iter().chain(b.state.coefficients().iter().zip(a.state.coefficients()))
                {
                    assert_close(&download(&machine, got), &download(&machine, want), 1e-4);
                }
            }
        }
    }
}

#[test]
fn orders_give_the_same_bits() {
    for element in [Element::F32, Element::Bf16] {
        let results: Vec<Vec<Vec<f32>>> = machines()
            .iter()
            .map(|machine| {
                let (rows, channels) = (2000, 24);
                let (own, second) =
                    (Norm::new(machine, rows, channels, 1), Norm::new(machine, rows, channels, 5));
                let up = |seed| upload(machine, &numbers(rows * channels, seed), element);
                let (z, other, g, y) = (up(3), up(4), up(6), up(7));
                own.moments(machine, &z);
                second.moments(machine, &other);
                let added = Addend::Normalized(&other, &second.state);
                apply(machine, &z, &own.state, added, true, &y).unwrap();
                let seen = Output { y: Some(&y), z: &z, state: &own.state, addend: added, relu: true };
                let (a, b) = (own.gradients(), second.gradients());
                complete(machine, &g, Incoming::Own, &seen, &a, Some(&b), &own.scratch).unwrap();
                let third = Norm::new(machine, rows, channels, 1);
                third.moments(machine, &z);
                let seen = Output { state: &third.state, addend: Addend::None, ..seen };
                let map = ChannelMap::new(&[24], &(0..24).map(|c| Some((0, c * 7 % 24))).collect::<Vec<_>>());
                let table = Table::new(machine, &map).unwrap();
                let incoming = Incoming::Gathered(&table, &[&g]);
                complete(machine, &other, incoming, &seen, &third.gradients(), None, &own.scratch).unwrap();
                input_gradient(machine, &g, &z, &own.state, &z, false).unwrap();
                [
                    &y,
                    &g,
                    &z,
                    &own.d_gamma,
                    &own.d_beta,
                    &second.d_gamma,
                    &own.running[1],
                    &other,
                    &third.d_gamma,
                ]
                .map(|v| download(machine, v))
                .into()
            })
            .collect();
        assert!(results.windows(2).all(|w| w[0] == w[1]), "{element:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for machine in machines() {
        let n = Norm::new(&machine, 4, 3, 1);
        let up = |len: usize, element| upload(&machine, &vec![0.0; len], element);
        let (z, short, halves) = (up(12, Element::F32), up(11, Element::F32), up(12, Element::Bf16));
        assert!(moments(&machine, &short, &n.affine(), &n.scratch, &n.state).is_err());
        assert!(moments(&machine, &z, &n.affine(), &n.scratch.first(2).unwrap(), &n.state).is_err());
        assert!(apply(&machine, &z, &n.state, Addend::None, false, &halves).is_err());
        assert!(apply(&machine, &z, &n.state, Addend::Value(&short), false, &z).is_err());
        let wide = Channels::new(&machine, 4).unwrap();
        assert!(apply(&machine, &z, &n.state, Addend::Normalized(&z, &wide), false, &z).is_err());
        assert!(input_gradient(&machine, &short, &z, &n.state, &z, false).is_err());
        let seen = Output { y: Some(&z), z: &z, state: &n.state, addend: Addend::None, relu: true };
        let own = n.gradients();
        let fails = |incoming: Incoming<'_>, seen: &Output<'_>, other: Option<&Gradients<'_>>| {
            complete(&machine, &z, incoming, seen, &own, other, &n.scratch).is_err()
        };
        assert!(fails(Incoming::Own, &seen, Some(&own)));
        assert!(fails(Incoming::Plus(&short), &seen, None));
        assert!(fails(Incoming::Own, &Output { y: None, addend: Addend::Value(&z), ..seen }, None));
        let all = ChannelMap::new(&[3], &[Some((0, 0)), Some((0, 1)), Some((0, 2))]);
        let (all, g) = (Table::new(&machine, &all).unwrap(), up(12, Element::F32));
        assert!(!fails(Incoming::Gathered(&all, &[&g]), &seen, None));
        assert!(fails(Incoming::Gathered(&all, &[&g, &g]), &seen, None));
        assert!(fails(Incoming::Gathered(&all, &[&short]), &seen, None));
        assert!(fails(Incoming::Gathered(&all, &[&z]), &seen, None));
        assert!(fails(Incoming::Gathered(&all, &[&g]), &Output { addend: Addend::Value(&z), ..seen }, None));
        let two = Table::new(&machine, &ChannelMap::new(&[3], &[None, None])).unwrap();
        assert!(fails(Incoming::Gathered(&two, &[&g]), &seen, None));
        assert!(Channels::new(&machine, 0).is_err());
    }
}

#[test]
fn large_maps_are_those_of_their_parts() {
    let machine = Emulated::new().unwrap();
    for (rows, channels, element) in [(87_383, 3, Element::F32), (131_073, 16, Element::Bf16)] {
        let (own, second) = (Norm::new(&machine, 64, channels, 1), Norm::new(&machine, 64, channels, 5));
        let map = |rows: usize, seed| upload(&machine, &numbers(rows * channels, seed), element);
        own.moments(&machine, &map(64, 3));
        second.moments(&machine, &map(64, 4));
        machine.write_floats(&own.state.coefficients[1], &numbers(channels, 7)).unwrap();
        let [z, other, g] = [6, 8, 9].map(|seed| map(rows, seed));
        let results = [1, 2].map(|parts| {
            let [y, dz] = [0, 1].map(|_| upload(&machine, &vec![0.5; rows * channels], element));
            for part in 0..parts {
                let (from, to) = (rows * part / parts * channels, rows * (part + 1) / parts * channels);
                let of = |view: &View| view.part(from..to).unwrap();
                let addend = of(&other);
                apply(
                    &machine,
                    &of(&z),
                    &own.state,
                    Addend::Normalized(&addend, &second.state),
                    true,
                    &of(&y),
                )
                .unwrap();
                input_gradient(&machine, &of(&g), &of(&z), &own.state, &of(&dz), true).unwrap();
            }
            [y, dz].map(|view| download(&machine, &view))
        });
        assert!(results[0] == results[1] && results[0].iter().flatten().all(|v| v.is_finite()));
    }
    assert_eq!(Packs::new(Packs::MANY - 2, 2), Packs { count: (1 << 18) - 2, stride: (1 << 18) - 2 });
    assert_eq!(Packs::new(Packs::MANY + 2, 2), Packs { count: (1 << 18) + 2, stride: (1 << 17) + 2 });
}

#[test]
fn scratch_may_begin_anywhere() {
    for machine in machines() {
        for (element, channels) in [(Element::F32, 24), (Element::Bf16, 16)] {
            let z = upload(&machine, &numbers(300 * channels, 3), element);
            let results = [0, 1].map(|begin| {
                let n = Norm::new(&machine, 300, channels, 1);
                let scratch =
                    upload(&machine, &vec![f32::NAN; scratch_len(300, channels) + begin], Element::F32);
                let scratch = scratch.part(begin..scratch.len()).unwrap();
                moments(&machine, &z, &n.affine(), &scratch, &n.state).unwrap();
                download(&machine, n.state.mean())
            });
            assert_close(&results[0], &results[1], 1e-6);
        }
    }
}
