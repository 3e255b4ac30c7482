//! Every variant against plain loops over random shapes, and the gradients against central differences.

use super::{ConvForward, ConvGeometry, ConvInputGrad, ConvWeightGrad, Images, PackedConv};
use crate::rng::{Purpose, Stream};
use crate::{Isa, Map, padded_channels};
use proptest::prelude::{ProptestConfig, prop_assert, proptest};

/// The definition, in f64 and PyTorch's layouts.
fn reference(x: &[f64], w: &[f64], bias: &[f64], g: &ConvGeometry) -> Vec<f64> {
    let (ci, co) = (g.input.channels, g.output.channels);
    let (h, wd) = (g.input.height as isize, g.input.width as isize);
    let mut y = Vec::new();
    for o in 0..co {
        for r in 0..g.output.height {
            for q in 0..g.output.width {
                let mut sum = bias[o];
                for i in 0..ci {
                    for ky in 0..g.kernel.0 {
                        for kx in 0..g.kernel.1 {
                            let yy = (r * g.stride.0 + ky) as isize - g.padding.0 as isize;
                            let xx = (q * g.stride.1 + kx) as isize - g.padding.1 as isize;
                            if (0..h).contains(&yy) && (0..wd).contains(&xx) {
                                sum += x[(i * h as usize + yy as usize) * wd as usize + xx as usize]
                                    * w[((o * ci + i) * g.kernel.0 + ky) * g.kernel.1 + kx];
                            }
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Gradients of sum(y * dy), from the definition.
fn reference_gradients(x: &[f64], w: &[f64], dy: &[f64], g: &ConvGeometry) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    let (ci, h, wd) = (g.input.channels, g.input.height as isize, g.input.width as isize);
    let mut d = dy.iter();
    for o in 0..g.output.channels {
        for r in 0..g.output.height {
            for q in 0..g.output.width {
                let d = d.next().unwrap();
                for i in 0..ci {
                    for ky in 0..g.kernel.0 {
                        for kx in 0..g.kernel.1 {
                            let yy = (r * g.stride.0 + ky) as isize - g.padding.0 as isize;
                            let xx = (q * g.stride.1 + kx) as isize - g.padding.1 as isize;
                            if (0..h).contains(&yy) && (0..wd).contains(&xx) {
                                let at = (i * h as usize + yy as usize) * wd as usize + xx as usize;
                                let wt = ((o * ci + i) * g.kernel.0 + ky) * g.kernel.1 + kx;
                                dx[at] += d * w[wt];
                                dw[wt] += d * x[at];
                            }
                        }
                    }
                }
            }
        }
    }
    (dx, dw)
}

fn random(n: usize, index: u64) -> Vec<f64> {
    let s = Stream::new(3, Purpose::Other, 0, index);
    (0..n as u64).map(|i| f64::from(s.uniform(i) * 2.0 - 1.0)).collect()
}

/// NCHW f64 to a buffer of layout `m`.
fn to_map(x: &[f64], m: &Map) -> Vec<f32> {
    let mut out = vec![0.0; m.elements()];
    for c in 0..m.channels {
        for y in 0..m.height {
            for z in 0..m.width {
                out[m.at(y as isize, z as isize) + c] = x[(c * m.height + y) * m.width + z] as f32;
            }
        }
    }
    out
}

fn from_map(x: &[f32], m: &Map) -> Vec<f64> {
    let mut out = Vec::new();
    for c in 0..m.channels {
        for y in 0..m.height {
            for z in 0..m.width {
                out.push(f64::from(x[m.at(y as isize, z as isize) + c]));
            }
        }
    }
    out
}

fn close(a: &[f64], b: &[f64]) -> bool {
    let scale = b.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 2e-5 * scale)
}

/// Buffers of layout `m` for several images, with something between them that nobody may read.
fn to_maps(x: &[Vec<f64>], m: &Map) -> (Vec<f32>, usize) {
    let step = m.elements() + 8;
    let mut all = Vec::new();
    for x in x {
        all.extend(to_map(x, m));
        all.extend([f32::NAN; 8]);
    }
    (all, step)
}

fn from_maps(x: &[f32], m: &Map) -> Vec<f64> {
    x.chunks_exact(m.elements() + 8).flat_map(|x| from_map(&x[..m.elements()], m)).collect()
}

/// Images in one call.
const COUNT: usize = 3;

fn check(isa: Isa, g: ConvGeometry) -> Result<(), String> {
    let (ci, co) = (g.input.channels, g.output.channels);
    let of_all = |n: usize, index: u64| -> Vec<Vec<f64>> {
        (0..COUNT as u64).map(|i| random(n, 10 * i + index)).collect()
    };
    let x = of_all(ci * g.input.height * g.input.width, 1);
    let w = random(co * ci * g.taps(), 2);
    let b = random(co, 3);
    let dy = of_all(co * g.output.height * g.output.width, 4);

    let packing = PackedConv::new(&g);
    let mut packed = vec![0.0; packing.elements()];
    packing.for_each(|torch, p| packed[p] = w[torch] as f32);
    let mut bias = vec![0.0; padded_channels(co)];
    b.iter().zip(&mut bias).for_each(|(v, t)| *t = *v as f32);
    let forward_w = packing.forward_pieces().map(|(count, n)| {
        let mut copy = vec![0.0; count * n];
        copy.chunks_exact_mut(n).enumerate().for_each(|(i, to)| packing.forward_copy(isa, &packed, i, to));
        copy
    });
    let forward_w = forward_w.as_ref().unwrap_or(&packed);
    let (xm, x_step) = to_maps(&x, &g.input);
    let y_step = g.output.elements() + 8;
    let mut ym = vec![f32::NAN; COUNT * y_step];
    let forward = ConvForward::new(g);
    let mut scratch = vec![f32::NAN; forward.scratch_elements()];
    let images = Images { count: COUNT, from: x_step, to: y_step };
    forward.run(isa, images, &xm, forward_w, &bias, &mut ym, &mut scratch);
    let y: Vec<f64> = x.iter().flat_map(|x| reference(x, &w, &b, &g)).collect();
    if !close(&from_maps(&ym, &g.output), &y) {
        return Err(format!("forward {isa} {g:?}"));
    }

    let gradients: Vec<_> = x.iter().zip(&dy).map(|(x, dy)| reference_gradients(x, &w, dy, &g)).collect();
    check_slopes(&g, &x[0], &w, &b, &dy[0], &gradients[0]);
    let dx: Vec<f64> = gradients.iter().flat_map(|(dx, _)| dx.clone()).collect();
    let dw: Vec<f64> = (0..w.len()).map(|i| gradients.iter().map(|(_, dw)| dw[i]).sum()).collect();

    let gm = g.output.with_border(g.gradient_border());
    let (dym, dy_step) = to_maps(&dy, &gm);
    let (count, n) = packing.backward_pieces();
    let mut transposed = vec![0.0; count * n];
    transposed.chunks_exact_mut(n).enumerate().for_each(|(i, to)| packing.backward_copy(forward_w, i, to));
    let dxl = Map::new(g.input.height, g.input.width, ci, 1);
    let input_grad = ConvInputGrad::new(g, gm, dxl);
    let dx_step = dxl.elements() + 8;
    let mut dxm = vec![f32::NAN; COUNT * dx_step];
    let mut scratch = vec![f32::NAN; input_grad.scratch_elements()];
    let images = Images { count: COUNT, from: dy_step, to: dx_step };
    input_grad.run(isa, images, &dym, &transposed, &mut dxm, false, &mut scratch);
    if !close(&from_maps(&dxm, &dxl), &dx) {
        return Err(format!("input gradient {isa} {g:?}"));
    }
    input_grad.run(isa, images, &dym, &transposed, &mut dxm, true, &mut scratch);
    if !close(&from_maps(&dxm, &dxl), &dx.iter().map(|v| 2.0 * v).collect::<Vec<_>>()) {
        return Err(format!("accumulated input gradient {isa} {g:?}"));
    }

    let weight_grad = ConvWeightGrad::new(g, gm);
    let mut dwm = vec![f32::NAN; packing.elements()];
    let mut scratch = vec![f32::NAN; weight_grad.scratch_elements()];
    let images = Images { count: COUNT, from: x_step, to: dy_step };
    weight_grad.run(isa, images, &xm, &dym, &mut dwm, false, &mut scratch);
    weight_grad.run(isa, images, &xm, &dym, &mut dwm, true, &mut scratch);
    let mut got = vec![0.0; w.len()];
    packing.for_each(|torch, p| got[torch] = f64::from(dwm[p]));
    if !close(&got, &dw.iter().map(|v| 2.0 * v).collect::<Vec<_>>()) {
        return Err(format!("weight gradient {isa} {g:?}"));
    }
    Ok(())
}

/// The convolution is linear in x and in w, so a central difference of any step along a random direction is exact.
fn check_slopes(
    g: &ConvGeometry,
    x: &[f64],
    w: &[f64],
    b: &[f64],
    dy: &[f64],
    (dx, dw): &(Vec<f64>, Vec<f64>),
) {
    let loss =
        |x: &[f64], w: &[f64]| -> f64 { reference(x, w, b, g).iter().zip(dy).map(|(y, d)| y * d).sum() };
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    let moved =
        |v: &[f64], d: &[f64], s: f64| -> Vec<f64> { v.iter().zip(d).map(|(v, d)| v + s * d).collect() };
    let (along_x, along_w) = (random(x.len(), 5), random(w.len(), 6));
    let slope_x = (loss(&moved(x, &along_x, 1.0), w) - loss(&moved(x, &along_x, -1.0), w)) / 2.0;
    let slope_w = (loss(x, &moved(w, &along_w, 1.0)) - loss(x, &moved(w, &along_w, -1.0))) / 2.0;
    assert!((slope_x - dot(dx, &along_x)).abs() < 1e-8 * (1.0 + slope_x.abs()));
    assert!((slope_w - dot(dw, &along_w)).abs() < 1e-8 * (1.0 + slope_w.abs()));
}

fn geometry(
    c: (usize, usize),
    size: (usize, usize),
    k: (usize, usize),
    s: (usize, usize),
    p: (usize, usize),
    dense: bool,
) -> Option<ConvGeometry> {
    let out = |n: usize, k: usize, s: usize, p: usize| Some((n + 2 * p).checked_sub(k)? / s + 1);
    let border = p.0.max(p.1);
    let input =
        if dense { Map::dense(size.0, size.1, c.0, border) } else { Map::new(size.0, size.1, c.0, border) };
    let output = Map::new(out(size.0, k.0, s.0, p.0)?, out(size.1, k.1, s.1, p.1)?, c.1, 0);
    Some(ConvGeometry { input, output, kernel: k, stride: s, padding: p })
}

#[test]
fn the_shapes_of_real_networks() {
    for isa in Isa::available() {
        for (c, n, k, s, p) in [
            ((3, 16), 9, 3, 1, 1),
            ((3, 32), 10, 3, 1, 0),
            ((32, 64), 7, 3, 1, 0),
            ((16, 32), 8, 3, 2, 1),
            ((16, 32), 8, 1, 2, 0),
            ((16, 16), 17, 3, 1, 1),
            ((48, 33), 5, 1, 1, 0),
            ((3, 6), 12, 5, 1, 2),
            ((3, 8), 11, 7, 2, 3),
            ((20, 40), 6, 3, 1, 2),
            ((64, 48), 8, 3, 1, 1),
            ((96, 80), 34, 3, 1, 1),
            ((144, 130), 4, 3, 1, 1), // several images at once: Winograd
            ((160, 96), 2, 1, 1, 0),  // and gathered
            ((96, 160), 8, 3, 2, 1),
            ((64, 160), 8, 1, 2, 0),
        ] {
            check(isa, geometry(c, (n, n), (k, k), (s, s), (p, p), c.0 == 3).unwrap()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn winograd_shapes(ci in 16_usize..40, co in 16_usize..40, h in 4_usize..19, w in 4_usize..19, ph in 0_usize..3, pw in 0_usize..3) {
        if let Some(g) = geometry((ci, co), (h, w), (3, 3), (1, 1), (ph, pw), false) {
            for isa in Isa::available() {
                let result = check(isa, g);
                prop_assert!(result.is_ok(), "{result:?}");
            }
        }
    }

    #[test]
    fn gathered_shapes(ci in 64_usize..100, co in 64_usize..100, h in 1_usize..9, w in 1_usize..9, kh in 1_usize..4,
                       kw in 1_usize..4, sh in 1_usize..3, sw in 1_usize..3, ph in 0_usize..2, pw in 0_usize..2) {
        if let Some(g) = geometry((ci, co), (h, w), (kh, kw), (sh, sw), (ph, pw), false) {
            for isa in Isa::available() {
                let result = check(isa, g);
                prop_assert!(result.is_ok(), "{result:?}");
            }
        }
    }

    #[test]
    fn random_shapes(ci in 1_usize..20, co in 1_usize..36, h in 1_usize..8, w in 1_usize..9, kh in 1_usize..5, kw in 1_usize..5,
                     sh in 1_usize..4, sw in 1_usize..4, ph in 0_usize..4, pw in 0_usize..4, dense: bool) {
        if let Some(g) = geometry((ci, co), (h, w), (kh, kw), (sh, sw), (ph, pw), dense) {
            for isa in Isa::available() {
                let result = check(isa, g);
                prop_assert!(result.is_ok(), "{result:?}");
            }
        }
    }
}

/// Root mean square error of the three passes, relative to the root mean square of each result.
fn rounding(isa: Isa, g: ConvGeometry) -> [f64; 3] {
    let (ci, co) = (g.input.channels, g.output.channels);
    let single = |v: Vec<f64>| -> Vec<f64> { v.into_iter().map(|v| f64::from(v as f32)).collect() };
    let x = single(random(ci * g.input.height * g.input.width, 1));
    let w = single(random(co * ci * g.taps(), 2));
    let dy = single(random(co * g.output.height * g.output.width, 4));
    let error = |got: &[f64], want: &[f64]| {
        let sum = got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum::<f64>();
        (sum / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
    };
    let packing = PackedConv::new(&g);
    let mut packed = vec![0.0; packing.elements()];
    packing.for_each(|torch, p| packed[p] = w[torch] as f32);
    let (count, n) = packing.forward_pieces().unwrap();
    let mut copy = vec![0.0; count * n];
    copy.chunks_exact_mut(n).enumerate().for_each(|(i, to)| packing.forward_copy(isa, &packed, i, to));
    let (count, n) = packing.backward_pieces();
    let mut transposed = vec![0.0; count * n];
    transposed.chunks_exact_mut(n).enumerate().for_each(|(i, to)| packing.backward_copy(&copy, i, to));
    let gm = g.output.with_border(g.gradient_border());
    let (xm, dym) = (to_map(&x, &g.input), to_map(&dy, &gm));
    let (forward, weight_grad) = (ConvForward::new(g), ConvWeightGrad::new(g, gm));
    let input_grad = ConvInputGrad::new(g, gm, g.input);
    let scratch = forward.scratch_elements().max(weight_grad.scratch_elements());
    let mut scratch = vec![0.0; scratch.max(input_grad.scratch_elements())];
    let (mut ym, mut dxm) = (vec![0.0; g.output.elements()], vec![0.0; g.input.elements()]);
    let mut dwm = vec![0.0; packing.elements()];
    forward.run(isa, Images::ONE, &xm, &copy, &vec![0.0; padded_channels(co)], &mut ym, &mut scratch);
    input_grad.run(isa, Images::ONE, &dym, &transposed, &mut dxm, false, &mut scratch);
    weight_grad.run(isa, Images::ONE, &xm, &dym, &mut dwm, false, &mut scratch);
    let (dx, dw) = reference_gradients(&x, &w, &dy, &g);
    let mut got = vec![0.0; w.len()];
    packing.for_each(|torch, p| got[torch] = f64::from(dwm[p]));
    let y = reference(&x, &w, &vec![0.0; co], &g);
    [error(&from_map(&ym, &g.output), &y), error(&from_map(&dxm, &g.input), &dx), error(&got, &dw)]
}

/// The statement in `winograd`: what the minimal filterings cost in accuracy.
#[test]
fn winograd_rounding_is_bounded() {
    for (n, bound) in [(16, 9e-7), (6, 4e-7)] {
        let g = geometry((64, 32), (n, n), (3, 3), (1, 1), (1, 1), false).unwrap();
        for isa in Isa::available() {
            let errors = rounding(isa, g);
            assert!(errors.iter().all(|e| *e < bound), "{isa} {n}x{n}: {errors:?}");
        }
    }
}
