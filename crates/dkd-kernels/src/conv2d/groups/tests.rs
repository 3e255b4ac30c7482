//! Against plain loops, with every instruction set.

use super::*;
use crate::rng::{Purpose, Stream};

struct Case {
    groups: usize,
    channels: (usize, usize),
    size: (usize, usize),
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
}

fn cases() -> Vec<Case> {
    let case = |groups, channels, size, kernel, stride, padding| Case {
        groups,
        channels,
        size,
        kernel,
        stride,
        padding,
    };
    vec![
        case(2, (4, 6), (5, 7), (3, 3), 1, 1),
        case(3, (9, 33), (6, 4), (3, 1), 2, 0),
        case(20, (20, 20), (6, 6), (3, 3), 1, 1),
        case(32, (32, 32), (7, 5), (5, 5), 2, 2),
        case(8, (8, 16), (4, 4), (3, 3), 1, 2),
        case(4, (64, 64), (3, 3), (1, 1), 1, 0),
    ]
}

/// Interior values with channel padding left at zero.
fn fill(map: Map, salt: u64) -> Vec<f32> {
    let stream = Stream::new(3, Purpose::Other, salt as u32, 0);
    let mut values = vec![0.0; map.elements()];
    for y in 0..map.height {
        for x in 0..map.width {
            for c in 0..map.channels {
                let at = map.at(y as isize, x as isize) + c;
                values[at] = stream.uniform(at as u64) - 0.5;
            }
        }
    }
    values
}

/// Calls `f(output offset, input offset or None in the padding, PyTorch weight index)` for every product.
fn products(
    case: &Case,
    g: &ConvGeometry,
    mut f: impl FnMut((usize, usize, usize), Option<(usize, usize, usize)>, usize),
) {
    let (ig, og) = (case.channels.0 / case.groups, case.channels.1 / case.groups);
    for o in 0..case.channels.1 {
        for y in 0..g.output.height {
            for x in 0..g.output.width {
                for i in 0..ig {
                    for ky in 0..case.kernel.0 {
                        for kx in 0..case.kernel.1 {
                            let row = (y * case.stride + ky)
                                .checked_sub(case.padding)
                                .filter(|r| *r < g.input.height);
                            let column = (x * case.stride + kx)
                                .checked_sub(case.padding)
                                .filter(|c| *c < g.input.width);
                            let input = row.zip(column).map(|(r, c)| (r, c, o / og * ig + i));
                            f((y, x, o), input, ((o * ig + i) * case.kernel.0 + ky) * case.kernel.1 + kx);
                        }
                    }
                }
            }
        }
    }
}

fn close(got: &[f32], want: &[f64], what: &str) {
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*a) - b).abs() < 1e-4, "{what}: element {i} is {a}, expected {b}");
    }
}

#[test]
fn against_plain_loops() {
    for case in cases() {
        let out = |n: usize, k: usize| (n + 2 * case.padding - k) / case.stride + 1;
        let input = Map::new(case.size.0, case.size.1, case.channels.0, case.padding.max(1));
        let output =
            Map::new(out(case.size.0, case.kernel.0), out(case.size.1, case.kernel.1), case.channels.1, 1);
        let geometry = ConvGeometry {
            input,
            output,
            kernel: case.kernel,
            stride: (case.stride, case.stride),
            padding: (case.padding, case.padding),
        };
        let (gradient, dx_map) = (output.with_border(2), input.with_border(0));
        let conv = GroupedConv::new(geometry, case.groups, gradient, dx_map);
        let count = case.channels.1 * case.channels.0 / case.groups * case.kernel.0 * case.kernel.1;
        let torch: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
        let mut packed = vec![0.0; conv.weight_elements()];
        conv.for_each(|t, p| packed[p] = torch[t]);
        let (x, dy) = (fill(input, 1), fill(gradient, 2));
        let mut bias = vec![0.0; output.stride];
        (0..case.channels.1).for_each(|o| bias[o] = o as f32 * 0.1);

        let value = |v: &[f32], map: Map, (r, c, ch): (usize, usize, usize)| {
            f64::from(v[map.at(r as isize, c as isize) + ch])
        };
        let mut want_y = vec![0.0; output.elements()];
        let (mut want_dx, mut want_dw) = (vec![0.0; dx_map.elements()], vec![0.0; packed.len()]);
        let mut place = vec![0; count];
        conv.for_each(|t, p| place[t] = p);
        for r in 0..output.height {
            for c in 0..output.width {
                for o in 0..case.channels.1 {
                    want_y[output.at(r as isize, c as isize) + o] = f64::from(bias[o]);
                }
            }
        }
        products(&case, &geometry, |out, inp, w| {
            let Some(inp) = inp else { return };
            let (xv, g, wv) = (value(&x, input, inp), value(&dy, gradient, out), f64::from(torch[w]));
            want_y[output.at(out.0 as isize, out.1 as isize) + out.2] += xv * wv;
            want_dx[dx_map.at(inp.0 as isize, inp.1 as isize) + inp.2] += g * wv;
            want_dw[place[w]] += xv * g;
        });
        for isa in Isa::available() {
            let mut y = vec![0.0; output.elements()];
            conv.forward(isa, &x, &packed, &bias, &mut y);
            close(&y, &want_y, "forward");
            let (mut dx, mut dw) = (vec![9.0; dx_map.elements()], vec![9.0; packed.len()]);
            conv.input_grad(isa, &dy, &packed, &mut dx, false);
            close(&dx, &want_dx, "input gradient");
            conv.weight_grad(isa, &x, &dy, &mut dw, false);
            close(&dw, &want_dw, "weight gradient");
            conv.input_grad(isa, &dy, &packed, &mut dx, true);
            conv.weight_grad(isa, &x, &dy, &mut dw, true);
            close(&dx, &want_dx.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), "input gradient, added");
            close(&dw, &want_dw.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), "weight gradient, added");
        }
    }
}
