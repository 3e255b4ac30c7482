//! Gradients in f64 against central differences along random directions.

use super::super::batch_norm::BatchNorm;
use super::super::{adaptive_avg_pool2d, batch_norm, conv_transpose2d, conv2d, resize_nearest2d};
use super::{Order, laid, random_tensor, values};
use crate::Cpu;
use candle_core::{CustomOp3, Result, Tensor, Var};

/// Directions along which an argument is moved.
const DIRECTIONS: u64 = 4;

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

/// Checks the gradients of Σ f · factors by all arguments, which have these shapes.
fn check(name: &str, shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let arguments: Vec<Tensor> = (10..).zip(shapes).map(|(i, dims)| random_tensor(dims, i)).collect();
    let leaves: Vec<Var> = arguments.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = leaves.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let factors = random_tensor(y.dims(), 1);
    let all = (y * &factors).unwrap().sum_all().unwrap().backward().unwrap();
    for (k, leaf) in leaves.iter().enumerate() {
        let gradient = all.get(leaf).unwrap();
        assert_eq!(gradient.dims(), shapes[k]);
        for direction in 0..DIRECTIONS {
            let along = random_tensor(shapes[k], 100 + direction);
            let at = |step: f64| {
                let mut moved = arguments.clone();
                moved[k] = (&moved[k] + (&along * step).unwrap()).unwrap();
                dot(&f(&moved).unwrap(), &factors)
            };
            let (slope, want) = (dot(gradient, &along), (at(1e-4) - at(-1e-4)) / 2e-4);
            assert!(
                (slope - want).abs() < 1e-6 * (1.0 + want.abs()),
                "{name}, argument {k}: {slope}, by differences {want}"
            );
        }
    }
}

#[test]
fn convolutions() {
    let cpu = Cpu::new(2).unwrap();
    for (size, kernel, stride, padding) in
        [((5, 4), (3, 3), 1, 1), ((6, 7), (3, 2), 2, 1), ((4, 4), (4, 4), 2, 1), ((3, 5), (1, 1), 3, 0)]
    {
        let x = [2, 3, size.0, size.1];
        let weight = [4, 3, kernel.0, kernel.1];
        check("conv2d", &[&x, &weight, &[4]], |a| conv2d(&cpu, &a[0], &a[1], Some(&a[2]), stride, padding));
        check("conv2d", &[&x, &weight], |a| conv2d(&cpu, &a[0], &a[1], None, stride, padding));
        let weight = [3, 5, kernel.0, kernel.1];
        check("conv_transpose2d", &[&x, &weight, &[5]], |a| {
            conv_transpose2d(&cpu, &a[0], &a[1], Some(&a[2]), stride, padding)
        });
        check("conv_transpose2d", &[&x, &weight], |a| {
            conv_transpose2d(&cpu, &a[0], &a[1], None, stride, padding)
        });
    }
}

#[test]
fn normalisation() {
    for x in [[3, 4, 2, 3], [2, 3, 1, 1], [1, 2, 5, 3]] {
        check("batch_norm", &[&x, &x[1..2], &x[1..2]], |a| batch_norm(&a[0], &a[1], &a[2], 1e-2));
    }
}

#[test]
fn pooling_and_resizing() {
    for (from, to) in
        [((4, 6), (2, 3)), ((3, 2), (6, 5)), ((7, 5), (3, 3)), ((1, 1), (2, 2)), ((4, 4), (4, 4))]
    {
        let x = [2, 3, from.0, from.1];
        check("adaptive_avg_pool2d", &[&x], |a| adaptive_avg_pool2d(&a[0], to));
        check("resize_nearest2d", &[&x], |a| resize_nearest2d(&a[0], to));
    }
}

/// The functions in a row, as an adapter has them.
#[test]
fn a_chain() {
    let cpu = Cpu::new(2).unwrap();
    check("a chain", &[&[2, 3, 4, 4], &[3, 5, 4, 4], &[5], &[5], &[2, 5, 1, 1]], |a| {
        let up = conv_transpose2d(&cpu, &a[0], &a[1], None, 2, 1)?;
        let normal = batch_norm(&up, &a[2], &a[3], 1e-3)?;
        let mixed = conv2d(&cpu, &resize_nearest2d(&normal, (9, 5))?, &a[4], None, 1, 0)?;
        adaptive_avg_pool2d(&mixed, (4, 4))
    });
}

#[test]
fn the_gradient_of_a_normalisation_may_have_any_strides() {
    let dims = [3, 4, 2, 5];
    let (x, weight, grad) = (random_tensor(&dims, 1), random_tensor(&[4], 2), random_tensor(&dims, 3));
    let backward = |grad: &Tensor| {
        let op = BatchNorm { eps: 1e-5 };
        let (dx, dw, db) = op.bwd(&x, &weight, &weight, &x, grad).unwrap();
        [dx, dw, db].map(|t| values(&t.unwrap()))
    };
    for order in [Order::Nhwc, Order::Odd] {
        assert_eq!(backward(&grad), backward(&laid(&grad, order)));
    }
}
