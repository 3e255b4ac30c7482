//! Convolutions of f64 batches by plain loops: for checks of gradients, not for speed.

use super::batch::Batch;
use super::convolution::Element;
use super::sizes::Sizes;
use crate::Cpu;

impl Element for f64 {
    fn output(_: &Cpu, s: &Sizes, x: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self> {
        let (x, mut y) = (x.contiguous(), start(s.y(), bias));
        products(s, |ix, iw, iy| y[iy] += x[ix] * weight[iw]);
        y
    }

    fn input(_: &Cpu, s: &Sizes, y: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self> {
        let (y, mut x) = (y.contiguous(), start(s.x(), bias));
        products(s, |ix, iw, iy| x[ix] += y[iy] * weight[iw]);
        x
    }

    fn weight(_: &Cpu, s: &Sizes, x: Batch<Self>, y: Batch<Self>) -> Vec<Self> {
        let (x, y, mut weight) = (x.contiguous(), y.contiguous(), start(s.weight(), None));
        products(s, |ix, iw, iy| weight[iw] += x[ix] * y[iy]);
        weight
    }
}

/// What sums over a tensor of this shape start with: the bias of their channel, or 0.
fn start([count, channels, rows, columns]: [usize; 4], bias: Option<&[f64]>) -> Vec<f64> {
    let Some(bias) = bias else { return vec![0.0; count * channels * rows * columns] };
    let image = || bias.iter().flat_map(|v| std::iter::repeat_n(*v, rows * columns));
    (0..count).flat_map(|_| image()).collect()
}

/// Calls `f` with the indices of x, weight and y for every triple of elements that belong together.
fn products(s: &Sizes, mut f: impl FnMut(usize, usize, usize)) {
    let ([inputs, height, width], [outputs, rows, columns], (kh, kw)) = (s.input, s.output, s.kernel);
    let source =
        |to: usize, k: usize, size: usize| (to * s.stride + k).checked_sub(s.padding).filter(|i| *i < size);
    for b in 0..s.batch {
        for o in 0..outputs {
            for i in 0..inputs {
                for (u, v) in (0..kh).flat_map(|u| (0..kw).map(move |v| (u, v))) {
                    let weight = ((o * inputs + i) * kh + u) * kw + v;
                    for r in 0..rows {
                        let Some(y) = source(r, u, height) else { continue };
                        for q in 0..columns {
                            let Some(x) = source(q, v, width) else { continue };
                            let from = ((b * inputs + i) * height + y) * width + x;
                            f(from, weight, ((b * outputs + o) * rows + r) * columns + q);
                        }
                    }
                }
            }
        }
    }
}
