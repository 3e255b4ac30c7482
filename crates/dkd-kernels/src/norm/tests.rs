//! The fused pieces together are batch normalisation: compared with the textbook formulas and central differences.

use super::{
    Addend, Coefficients, Forward, Mask, channel_moments, complete_gradient, normalize, normalize_backward,
};
use crate::rng::{Purpose, Stream};
use crate::{Isa, Map};
use proptest::prelude::{ProptestConfig, proptest};

const EPS: f32 = 1e-5;

/// Images of one batch as NHWC `f64` without padding, and the same in a layout.
fn fill(n: usize, map: Map, index: u64) -> (Vec<f64>, Vec<Vec<f32>>) {
    let s = Stream::new(9, Purpose::Other, 0, index);
    let mut flat = Vec::new();
    let mut images = Vec::new();
    for b in 0..n {
        let mut image = vec![0.0; map.elements()];
        for y in 0..map.height {
            for x in 0..map.width {
                for c in 0..map.channels {
                    let i = ((b * map.height + y) * map.width + x) * map.channels + c;
                    let v = s.uniform(i as u64) * 2.0 - 0.8;
                    flat.push(f64::from(v));
                    image[map.at(y as isize, x as isize) + c] = v;
                }
            }
        }
        images.push(image);
    }
    (flat, images)
}

fn flatten(images: &[Vec<f32>], map: Map) -> Vec<f64> {
    let mut flat = Vec::new();
    for image in images {
        for y in 0..map.height {
            for x in 0..map.width {
                let at = map.at(y as isize, x as isize);
                flat.extend(image[at..at + map.channels].iter().map(|v| f64::from(*v)));
            }
        }
    }
    flat
}

/// relu(bn(z) + bn(other) + value), in f64, over NHWC values with c channels; the last two are optional.
fn reference(z: &[f64], weight: &[f64], c: usize) -> Vec<f64> {
    let m = (z.len() / c) as f64;
    let mut y = vec![0.0; z.len()];
    for k in 0..c {
        let column = || z.iter().skip(k).step_by(c);
        let mean = column().sum::<f64>() / m;
        let variance = column().map(|v| (v - mean).powi(2)).sum::<f64>() / m;
        for (i, v) in column().enumerate() {
            y[i * c + k] = weight[k] * (v - mean) / (variance + f64::from(EPS)).sqrt() + 0.1;
        }
    }
    y
}

fn close(a: &[f64], b: &[f64], what: &str) {
    let scale = b.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() < 2e-5 * scale, "{what}: {x} {y}");
    }
}

fn affine(
    n: usize,
    map: Map,
    images: &[Vec<f32>],
    weight: &[f64],
    isa: Isa,
) -> (Vec<Forward>, Vec<f32>, Vec<f32>) {
    let s = map.stride;
    let (mut sum, mut square) = (vec![0.0; s], vec![0.0; s]);
    let mut scratch = vec![0.0; 2 * s];
    images.iter().for_each(|z| channel_moments(isa, z, map, &mut scratch, &mut sum, &mut square));
    let count = n * map.height * map.width;
    let (mut scale, mut shift, mut forward) = (vec![0.0; s], vec![0.0; s], Vec::new());
    for k in 0..map.channels {
        forward.push(Forward::from_sums(sum[k], square[k], count, EPS));
        (scale[k], shift[k]) = forward[k].affine(weight[k] as f32, 0.1);
    }
    (forward, scale, shift)
}

fn check(isa: Isa, n: usize, map: Map, with: u8) {
    let c = map.channels;
    let ym = map.with_border(1);
    let weight: Vec<f64> = (0..c).map(|k| 0.5 + 0.1 * k as f64).collect();
    let (z, zi) = fill(n, map, 1);
    let (other, oi) = fill(n, map, 2);
    let (value, vi) = fill(n, ym, 3);
    let (dy, di) = fill(n, map, 4);
    let (residual, ri) = fill(n, ym, 5);

    let before = |z: &[f64], other: &[f64]| -> Vec<f64> {
        let mut y = reference(z, &weight, c);
        match with {
            1 => y.iter_mut().zip(&value).for_each(|(y, v)| *y += v),
            2 => y.iter_mut().zip(reference(other, &weight, c)).for_each(|(y, v)| *y += v),
            _ => {}
        }
        y
    };
    let (fz, scale, shift) = affine(n, map, &zi, &weight, isa);
    let (fo, scale2, shift2) = affine(n, map, &oi, &weight, isa);
    let mut y: Vec<Vec<f32>> = vec![vec![0.0; ym.elements()]; n];
    for b in 0..n {
        let addend = match with {
            1 => Addend::Value(&vi[b], ym),
            2 => Addend::Normalized(&oi[b], map, &scale2, &shift2),
            _ => Addend::None,
        };
        normalize(isa, &zi[b], map, &scale, &shift, addend, true, &mut y[b], ym);
    }
    let want: Vec<f64> = before(&z, &other).iter().map(|v| v.max(0.0)).collect();
    close(&flatten(&y, ym), &want, "forward");

    let s = map.stride;
    let mut sums = [vec![0.0; s], vec![0.0; s], vec![0.0; s]];
    let mut g = di.clone();
    let mut scratch = vec![0.0; 3 * s];
    for b in 0..n {
        let mask = if with == 0 { Mask::Recompute(&scale, &shift) } else { Mask::Output(&y[b], ym) };
        let second = (with == 2).then_some((oi[b].as_slice(), map));
        let [a, p, q] = &mut sums;
        let residual = Some((ri[b].as_slice(), ym));
        complete_gradient(
            isa,
            &mut g[b],
            map,
            residual,
            mask,
            (&zi[b], map),
            second,
            &mut scratch,
            [a, p, q],
        );
    }
    let count = n * map.height * map.width;
    let gradient = |forward: &[Forward], images: &[Vec<f32>], gz: &[f64]| {
        let mut c3 = [vec![0.0; s], vec![0.0; s], vec![0.0; s]];
        for k in 0..c {
            let q = Coefficients::of_batch(&forward[k], weight[k] as f32, sums[0][k], gz[k], count);
            (c3[0][k], c3[1][k], c3[2][k]) = (q.c1, q.c2, q.c3);
        }
        let mut dz: Vec<Vec<f32>> = vec![vec![0.0; ym.elements()]; n];
        for b in 0..n {
            for accumulate in [false, true] {
                let c = [c3[0].as_slice(), &c3[1], &c3[2]];
                normalize_backward(isa, (&g[b], map), (&images[b], map), c, &mut dz[b], ym, accumulate);
            }
        }
        flatten(&dz, ym).iter().map(|v| v / 2.0).collect::<Vec<_>>()
    };
    // A difference must not cross the rectifier's kink: what is cut off stays so.
    let weights: Vec<f64> = dy.iter().zip(&residual).map(|(d, r)| d + r).collect();
    let passed = |i: usize| if want[i] > 0.0 { weights[i] } else { 0.0 };
    let loss = |z: &[f64], other: &[f64]| -> f64 {
        before(z, other).iter().enumerate().map(|(i, y)| y * passed(i)).sum()
    };
    let numeric = |at: &dyn Fn(f64, usize) -> f64| -> Vec<f64> {
        (0..z.len()).map(|i| (at(1e-5, i) - at(-1e-5, i)) / 2e-5).collect()
    };
    let moved = |v: &[f64], i: usize, d: f64| {
        let mut v = v.to_vec();
        v[i] += d;
        v
    };
    close(&gradient(&fz, &zi, &sums[1]), &numeric(&|d, i| loss(&moved(&z, i, d), &other)), "dz");
    if with == 2 {
        close(&gradient(&fo, &oi, &sums[2]), &numeric(&|d, i| loss(&z, &moved(&other, i, d))), "second dz");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn batch_norm_add_relu(n in 2_usize..4, h in 2_usize..5, w in 2_usize..5, c in 1_usize..20, with in 0_u8..3) {
        for isa in Isa::available() {
            check(isa, n, Map::new(h, w, c, 0), with);
        }
    }
}

#[test]
fn many_blocks_of_channels() {
    for isa in Isa::available() {
        check(isa, 2, Map::new(1, 3, 120, 0), 2);
    }
}
