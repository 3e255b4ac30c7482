//! Every variant against plain loops over random shapes, and the gradients against central differences.

use super::GroupedConv;
use crate::conv2d::ConvGeometry;
use crate::rng::{Purpose, Stream};
use crate::{Isa, Map, padded_channels};
use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use proptest::sample::select;

/// Calls `f(output index, input index, weight index)` for every product of the definition; PyTorch's layouts.
fn products(g: &ConvGeometry, groups: usize, mut f: impl FnMut(usize, usize, usize)) {
    let (ci, co) = (g.input.channels / groups, g.output.channels / groups);
    let (oh, ow) = (g.output.height, g.output.width);
    let inside = |at: usize, padding: usize, n: usize| at.checked_sub(padding).filter(|&v| v < n);
    for o in 0..g.output.channels {
        for (r, q) in (0..oh).flat_map(|r| (0..ow).map(move |q| (r, q))) {
            for (i, t) in (0..ci).flat_map(|i| (0..g.taps()).map(move |t| (i, t))) {
                let y = inside(r * g.stride.0 + t / g.kernel.1, g.padding.0, g.input.height);
                let x = inside(q * g.stride.1 + t % g.kernel.1, g.padding.1, g.input.width);
                if let (Some(y), Some(x)) = (y, x) {
                    let from = ((o / co * ci + i) * g.input.height + y) * g.input.width + x;
                    f((o * oh + r) * ow + q, from, (o * ci + i) * g.taps() + t);
                }
            }
        }
    }
}

fn reference(x: &[f64], w: &[f64], bias: &[f64], g: &ConvGeometry, groups: usize) -> Vec<f64> {
    let pixels = g.output.height * g.output.width;
    let mut y: Vec<f64> = bias.iter().flat_map(|b| vec![*b; pixels]).collect();
    products(g, groups, |o, i, k| y[o] += x[i] * w[k]);
    y
}

/// Gradients of sum(y * dy) with respect to x and w.
fn gradients(x: &[f64], w: &[f64], dy: &[f64], g: &ConvGeometry, groups: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    products(g, groups, |o, i, k| {
        dx[i] += dy[o] * w[k];
        dw[k] += dy[o] * x[i];
    });
    (dx, dw)
}

fn random(n: usize, index: u64) -> Vec<f64> {
    let s = Stream::new(4, Purpose::Other, 0, index);
    (0..n as u64).map(|i| f64::from(s.uniform(i) * 2.0 - 1.0)).collect()
}

/// x, w, bias and dy in PyTorch's layouts.
fn operands(g: &ConvGeometry, groups: usize) -> [Vec<f64>; 4] {
    let (ci, co) = (g.input.channels, g.output.channels);
    [
        random(ci * g.input.height * g.input.width, 1),
        random(co * (ci / groups) * g.taps(), 2),
        random(co, 3),
        random(co * g.output.height * g.output.width, 4),
    ]
}

/// For every interior element of a layout: (offset, NCHW index), or no index for a padding channel.
fn interior(m: Map) -> impl Iterator<Item = (usize, Option<usize>)> {
    let pixels = (0..m.height).flat_map(move |y| (0..m.width).map(move |x| (y, x)));
    pixels.flat_map(move |(y, x)| {
        let at = m.at(y as isize, x as isize);
        (0..m.stride).map(move |c| (at + c, (c < m.channels).then_some((c * m.height + y) * m.width + x)))
    })
}

fn to_map(x: &[f64], m: Map) -> Vec<f32> {
    let mut out = vec![0.0; m.elements()];
    interior(m).for_each(|(at, index)| out[at] = index.map_or(0.0, |i| x[i] as f32));
    out
}

fn tolerance(want: &[f64]) -> f64 {
    2e-5 * want.iter().fold(1.0_f64, |m, v| m.max(v.abs()))
}

/// The interior is `want`, its padding channels are zero, and the border, NaN before the call, is untouched.
fn is_written(x: &[f32], m: Map, want: &[f64]) -> bool {
    let mut outside = vec![true; x.len()];
    let tolerance = tolerance(want);
    let right = interior(m).all(|(at, index)| {
        outside[at] = false;
        index.map_or(x[at] == 0.0, |i| (f64::from(x[at]) - want[i]).abs() < tolerance)
    });
    right && x.iter().zip(outside).all(|(v, outside)| !outside || v.is_nan())
}

fn prepare(g: ConvGeometry, groups: usize) -> (GroupedConv, Map, Map) {
    let gradient = g.output.with_border(g.gradient_border());
    let dx = g.input.with_border(1);
    (GroupedConv::new(g, groups, gradient, dx), gradient, dx)
}

fn check(isa: Isa, g: ConvGeometry, groups: usize) -> Result<(), String> {
    let [x, w, b, dy] = operands(&g, groups);
    let fail = |what: &str| Err(format!("{what} {isa} {groups} groups {g:?}"));
    let doubled = |v: &[f64]| v.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
    let (conv, gradient, dx_map) = prepare(g, groups);
    let mut packed = vec![0.0; conv.weight_elements()];
    let (mut named, mut seen) = (vec![0; packed.len()], vec![0; w.len()]);
    conv.for_each(|torch, p| {
        packed[p] = w[torch] as f32;
        named[p] += 1;
        seen[torch] += 1;
    });
    assert!(named.iter().all(|n| *n <= 1) && seen.iter().all(|n| *n == 1), "every weight has one place");
    let mut bias = vec![0.0; padded_channels(b.len())];
    b.iter().zip(&mut bias).for_each(|(v, t)| *t = *v as f32);
    let (xm, dym) = (to_map(&x, g.input), to_map(&dy, gradient));

    let mut y = vec![f32::NAN; g.output.elements()];
    conv.forward(isa, &xm, &packed, &bias, &mut y);
    if !is_written(&y, g.output, &reference(&x, &w, &b, &g, groups)) {
        return fail("forward");
    }

    let (dx, dw) = gradients(&x, &w, &dy, &g, groups);
    let copy = conv.backward_elements().map(|n| {
        let mut copy = vec![f32::NAN; n];
        conv.backward_copy(&packed, &mut copy);
        copy
    });
    let mut got = vec![f32::NAN; dx_map.elements()];
    for (accumulate, want) in [(false, &dx), (true, &doubled(&dx))] {
        conv.input_grad(isa, &dym, copy.as_ref().unwrap_or(&packed), &mut got, accumulate);
        if !is_written(&got, dx_map, want) {
            return fail(if accumulate { "accumulated input gradient" } else { "input gradient" });
        }
    }

    let mut got = vec![f32::NAN; packed.len()];
    for (accumulate, want) in [(false, &dw), (true, &doubled(&dw))] {
        conv.weight_grad(isa, &xm, &dym, &mut got, accumulate);
        let mut right = got.iter().zip(&named).all(|(v, n)| *n == 1 || *v == 0.0);
        let tolerance = tolerance(want);
        conv.for_each(|torch, p| right &= (f64::from(got[p]) - want[torch]).abs() < tolerance);
        if !right {
            return fail(if accumulate { "accumulated weight gradient" } else { "weight gradient" });
        }
    }
    Ok(())
}

/// The convolution is linear in x and in w, so a central difference of any step along a random direction is exact.
fn check_slopes(g: &ConvGeometry, groups: usize) {
    let [x, w, b, dy] = operands(g, groups);
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    let loss = |x: &[f64], w: &[f64]| dot(&reference(x, w, &b, g, groups), &dy);
    let moved =
        |v: &[f64], d: &[f64], s: f64| -> Vec<f64> { v.iter().zip(d).map(|(v, d)| v + s * d).collect() };
    let (dx, dw) = gradients(&x, &w, &dy, g, groups);
    let (along_x, along_w) = (random(x.len(), 5), random(w.len(), 6));
    let slope_x = (loss(&moved(&x, &along_x, 1.0), &w) - loss(&moved(&x, &along_x, -1.0), &w)) / 2.0;
    let slope_w = (loss(&x, &moved(&w, &along_w, 1.0)) - loss(&x, &moved(&w, &along_w, -1.0))) / 2.0;
    assert!((slope_x - dot(&dx, &along_x)).abs() < 1e-8 * (1.0 + slope_x.abs()));
    assert!((slope_w - dot(&dw, &along_w)).abs() < 1e-8 * (1.0 + slope_w.abs()));
}

type Pair = (usize, usize);

fn geometry(c: Pair, size: Pair, k: Pair, s: Pair, p: Pair) -> Option<ConvGeometry> {
    let out = |n: usize, k: usize, s: usize, p: usize| Some((n + 2 * p).checked_sub(k)? / s + 1);
    let input = Map::new(size.0, size.1, c.0, p.0.max(p.1));
    let output = Map::new(out(size.0, k.0, s.0, p.0)?, out(size.1, k.1, s.1, p.1)?, c.1, 1);
    Some(ConvGeometry { input, output, kernel: k, stride: s, padding: p })
}

fn square(c: Pair, n: usize, k: usize, s: usize, p: usize) -> ConvGeometry {
    geometry(c, (n, n), (k, k), (s, s), (p, p)).unwrap()
}

#[test]
fn the_shapes_of_real_networks() {
    for (c, groups, n, k, s, p) in [
        ((144, 144), 144, 8, 3, 1, 1), // MobileNetV2
        ((24, 24), 24, 19, 3, 2, 1),   // MobileNetV2, ShuffleNetV2
        ((40, 40), 40, 6, 5, 2, 2),    // EfficientNet
        ((60, 240), 3, 6, 1, 1, 0),    // ShuffleNetV1
        ((32, 32), 8, 8, 3, 1, 1),     // ResNeXt
        ((64, 64), 2, 5, 3, 2, 1),
        ((20, 40), 20, 5, 3, 1, 1), // two outputs per channel
        ((40, 20), 20, 5, 3, 1, 1), // two inputs per output
        ((5, 7), 1, 5, 3, 1, 1),    // one group
    ] {
        for isa in Isa::available() {
            check(isa, square(c, n, k, s, p), groups).unwrap();
        }
    }
}

#[test]
#[should_panic(expected = "3 groups divide 8 inputs and 12 outputs")]
fn groups_divide_the_channels() {
    prepare(square((8, 12), 5, 3, 1, 1), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_shapes(groups in select(vec![2_usize, 3, 4, 8]), ci in 1_usize..7, co in 1_usize..21,
                     h in 1_usize..8, w in 1_usize..12,
                     kh in select(vec![1_usize, 3, 5]), kw in select(vec![1_usize, 3, 5]),
                     sh in 1_usize..3, sw in 1_usize..3, ph in 0_usize..3, pw in 0_usize..3) {
        if let Some(g) = geometry((groups * ci, groups * co), (h, w), (kh, kw), (sh, sw), (ph, pw)) {
            check_slopes(&g, groups);
            for isa in Isa::available() {
                let result = check(isa, g, groups);
                prop_assert!(result.is_ok(), "{result:?}");
            }
        }
    }

    #[test]
    fn random_depthwise_shapes(channels in 1_usize..40, h in 1_usize..8, w in 1_usize..20,
                               kh in select(vec![1_usize, 3, 5]), kw in select(vec![1_usize, 3, 5]),
                               sh in 1_usize..3, sw in 1_usize..3, ph in 0_usize..3, pw in 0_usize..3) {
        if let Some(g) = geometry((channels, channels), (h, w), (kh, kw), (sh, sw), (ph, pw)) {
            check_slopes(&g, channels);
            for isa in Isa::available() {
                let result = check(isa, g, channels);
                prop_assert!(result.is_ok(), "{result:?}");
            }
        }
    }
}
