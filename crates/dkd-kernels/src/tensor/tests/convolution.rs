//! Both convolutions against their definitions, and whether threads change a bit.

use super::super::convolution::{Convolution, Of};
use super::super::sizes::Sizes;
use super::super::{conv_transpose2d, conv2d};
use super::{CASES, Case, ORDERS, Order, bits, error, laid, random, random_tensor, tensor, values};
use crate::Cpu;
use candle_core::{CustomOp3, DType, Result, Tensor, Var};
use std::sync::Arc;

const BATCH: usize = 3;

/// A pixel of an image, 0 outside.
fn pixel(image: &[f64], (h, w): (usize, usize), y: Option<usize>, x: Option<usize>) -> f64 {
    match (y, x) {
        (Some(y), Some(x)) if y < h && x < w => image[y * w + x],
        _ => 0.0,
    }
}

/// y\[r\] = bias + Σ weight\[u\] x\[r s + u − p\].
fn convolved(c: &Case, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let ((inputs, outputs), (rows, columns), (kh, kw)) = (c.channels, c.output(), c.kernel);
    let (mut y, plane) = (Vec::new(), c.size.0 * c.size.1);
    for x in x.chunks_exact(inputs * plane) {
        for o in 0..outputs {
            for (r, q) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
                let mut sum = bias[o];
                for (i, x) in x.chunks_exact(plane).enumerate() {
                    for (u, v) in c.taps() {
                        let at = |to: usize, k: usize| (to * c.stride + k).checked_sub(c.padding);
                        let weight = weight[((o * inputs + i) * kh + u) * kw + v];
                        sum += weight * pixel(x, c.size, at(r, u), at(q, v));
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// y\[r s + u\] += weight\[u\] x\[r\] in an image without padding, of which the padding is then cut off.
fn enlarged(c: &Case, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let ((inputs, outputs), (h, w), (kh, kw)) = (c.channels, c.size, c.kernel);
    let (full_h, full_w) = ((h - 1) * c.stride + kh, (w - 1) * c.stride + kw);
    let (rows, columns) = c.enlarged().unwrap();
    let mut all = Vec::new();
    for x in x.chunks_exact(inputs * h * w) {
        for o in 0..outputs {
            let mut full = vec![bias[o]; full_h * full_w];
            for (i, r, q) in (0..inputs * h * w).map(|at| (at / (h * w), at / w % h, at % w)) {
                for (u, v) in c.taps() {
                    let weight = weight[((i * outputs + o) * kh + u) * kw + v];
                    full[(r * c.stride + u) * full_w + q * c.stride + v] += weight * x[(i * h + r) * w + q];
                }
            }
            for r in 0..rows {
                all.extend_from_slice(&full[(r + c.padding) * full_w + c.padding..][..columns]);
            }
        }
    }
    all
}

/// x, weight and bias of a case.
fn arguments(c: &Case, batch: usize, transposed: bool) -> [Tensor; 3] {
    let (inputs, outputs) = c.channels;
    let (first, second) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
    [
        random_tensor(&[batch, inputs, c.size.0, c.size.1], 1),
        random_tensor(&[first, second, c.kernel.0, c.kernel.1], 2),
        random_tensor(&[outputs], 3),
    ]
}

fn apply(cpu: &Arc<Cpu>, c: &Case, transposed: bool, [x, weight, bias]: [&Tensor; 3]) -> Result<Tensor> {
    let function = if transposed { conv_transpose2d } else { conv2d };
    function(cpu, x, weight, Some(bias), c.stride, c.padding)
}

fn cases() -> impl Iterator<Item = (Case, bool)> {
    let both = |c: Case| [(c, false), (c, true)];
    CASES.into_iter().flat_map(both).filter(|(c, transposed)| !transposed || c.enlarged().is_some())
}

#[test]
fn results_are_those_of_the_definitions() {
    let cpu = Cpu::new(2).unwrap();
    for (c, transposed) in cases() {
        let [x, weight, bias] = arguments(&c, BATCH, transposed);
        let define = if transposed { enlarged } else { convolved };
        let want = define(&c, &values(&x), &values(&weight), &values(&bias));
        let size = if transposed { c.enlarged().unwrap() } else { c.output() };
        for (dtype, bound) in [(DType::F64, 1e-13), (DType::F32, 2e-5)] {
            for order in ORDERS {
                let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
                let (x, weight) = (laid(&cast(&x), order), laid(&cast(&weight), order));
                let y = apply(&cpu, &c, transposed, [&x, &weight, &cast(&bias)]).unwrap();
                assert_eq!(y.dims(), [BATCH, c.channels.1, size.0, size.1]);
                assert!(y.is_contiguous() && y.dtype() == dtype);
                let error = error(&values(&y), &want);
                assert!(error < bound, "{c:?} transposed {transposed} {dtype:?} {order:?}: {error}");
            }
        }
    }
}

/// Gradients of Σ y · factors by x (as a view of the leaf in memory order), weight and bias.
fn gradients(cpu: &Arc<Cpu>, c: &Case, transposed: bool, dtype: DType, batch: usize) -> [Tensor; 3] {
    let [x, weight, bias] = arguments(c, batch, transposed).map(|t| t.to_dtype(dtype).unwrap());
    let leaf = |t: &Tensor| Var::from_tensor(t).unwrap();
    let x = leaf(&x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap());
    let (weight, bias) = (leaf(&weight), leaf(&bias));
    let view = x.permute((0, 3, 1, 2)).unwrap();
    let y = apply(cpu, c, transposed, [&view, &weight, &bias]).unwrap();
    let factors = tensor(&random(y.elem_count(), 4), y.dims(), dtype);
    let all = (y * factors).unwrap().sum_all().unwrap().backward().unwrap();
    [&x, &weight, &bias].map(|v| all.get(v).unwrap().clone())
}

#[test]
fn gradients_in_f32_are_those_in_f64() {
    let cpu = Cpu::new(2).unwrap();
    for (c, transposed) in cases() {
        let [got, want] = [DType::F32, DType::F64].map(|d| gradients(&cpu, &c, transposed, d, BATCH));
        for (name, (got, want)) in ["x", "weight", "bias"].into_iter().zip(got.iter().zip(&want)) {
            assert_eq!(got.dims(), want.dims());
            let error = error(&values(got), &values(want));
            assert!(error < 2e-5, "{name} of {c:?}, transposed {transposed}: {error}");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let pools = [1, 2, 3].map(|n| Cpu::new(n).unwrap());
    for index in [3, 6, 12, 13] {
        for (transposed, batch) in [(false, 21), (true, 10), (false, 3)] {
            let c = CASES[index];
            let arguments = arguments(&c, batch, transposed).map(|t| t.to_dtype(DType::F32).unwrap());
            let results = pools.each_ref().map(|cpu| {
                let y = apply(cpu, &c, transposed, arguments.each_ref()).unwrap();
                let gradients = gradients(cpu, &c, transposed, DType::F32, batch);
                [&y, &gradients[0], &gradients[1], &gradients[2]].map(bits)
            });
            assert!(
                results.iter().all(|r| *r == results[0]),
                "{c:?}, transposed {transposed}, {batch} images"
            );
        }
    }
}

#[test]
fn gradients_may_come_with_any_strides() {
    let cpu = Cpu::new(2).unwrap();
    let c = CASES[4];
    let [x, weight, bias] =
        arguments(&c, BATCH, false).map(|t| Var::from_tensor(&t.to_dtype(DType::F32).unwrap()).unwrap());
    let (rows, columns) = c.output();
    let sizes = Sizes {
        batch: BATCH,
        input: [c.channels.0, c.size.0, c.size.1],
        output: [c.channels.1, rows, columns],
        kernel: c.kernel,
        stride: c.stride,
        padding: c.padding,
    };
    let grad = random_tensor(&sizes.y(), 5).to_dtype(DType::F32).unwrap();
    let one = grad.get(0).unwrap().get(0).unwrap().get(0).unwrap().get(0).unwrap();
    let backward = |grad: &Tensor| {
        let op = Convolution::new(&cpu, sizes, Of::Output);
        let (dx, dw, db) = CustomOp3::bwd(&op, &x, &weight, &bias, &x, grad).unwrap();
        [dx, dw, db].map(|t| bits(&t.unwrap()))
    };
    for order in [Order::Nhwc, Order::Odd] {
        assert_eq!(backward(&grad), backward(&laid(&grad, order)), "{order:?}");
    }
    // As the gradient of a sum: one element everywhere.
    let everywhere = one.broadcast_as(&sizes.y()[..]).unwrap();
    assert_eq!(backward(&everywhere), backward(&everywhere.contiguous().unwrap()));
}

#[test]
fn constants_get_no_gradient() {
    let cpu = Cpu::new(1).unwrap();
    let [x, weight, _] = arguments(&CASES[1], BATCH, false);
    let weight = Var::from_tensor(&weight).unwrap();
    let all = conv2d(&cpu, &x, &weight, None, 1, 1).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(all.get(&weight).is_some() && all.get(&x).is_none());
}
