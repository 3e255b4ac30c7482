//! Batch normalisation, pooling and resizing against their definitions.

use super::super::{adaptive_avg_pool2d, batch_norm, resize_nearest2d};
use super::{ORDERS, error, laid, random_tensor, values};
use candle_core::{DType, Device, Result, Tensor, Var};

/// A function that changes the size of its tensor.
type Resizing = fn(&Tensor, (usize, usize)) -> Result<Tensor>;

/// A function of x, weight and bias.
type OfThree = fn([&Tensor; 3]) -> Result<Tensor>;

/// A plane of an image to a plane of another size.
type PlaneMap = fn(&[f64], (usize, usize), (usize, usize)) -> Vec<f64>;

fn pooled(x: &[f64], (h, w): (usize, usize), (rows, columns): (usize, usize)) -> Vec<f64> {
    let range = |i: usize, from: usize, to: usize| {
        let edge = |i: usize| i as f64 * from as f64 / to as f64;
        edge(i).floor() as usize..edge(i + 1).ceil() as usize
    };
    let mut y = Vec::new();
    for r in 0..rows {
        for q in 0..columns {
            let (mut sum, mut count) = (0.0, 0.0);
            for i in range(r, h, rows) {
                for j in range(q, w, columns) {
                    sum += x[i * w + j];
                    count += 1.0;
                }
            }
            y.push(sum / count);
        }
    }
    y
}

fn resized(x: &[f64], (h, w): (usize, usize), (rows, columns): (usize, usize)) -> Vec<f64> {
    let pixels = (0..rows * columns).map(|i| (i / columns * h / rows, i % columns * w / columns));
    pixels.map(|(r, q)| x[r * w + q]).collect()
}

fn normalized(x: &[f64], [batch, channels, h, w]: [usize; 4], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let (n, mut y) = (h * w, vec![0.0; x.len()]);
    for c in 0..channels {
        let at: Vec<usize> = (0..batch * n).map(|i| (i / n * channels + c) * n + i % n).collect();
        let mean = at.iter().map(|i| x[*i]).sum::<f64>() / at.len() as f64;
        let var = at.iter().map(|i| (x[*i] - mean).powi(2)).sum::<f64>() / at.len() as f64;
        at.iter().for_each(|i| y[*i] = (x[*i] - mean) / (var + 1e-5).sqrt() * weight[c] + bias[c]);
    }
    y
}

const SIZES: [((usize, usize), (usize, usize)); 11] = [
    ((8, 8), (4, 4)),
    ((4, 4), (8, 8)),
    ((7, 9), (3, 2)),
    ((5, 3), (8, 7)),
    ((1, 1), (3, 2)),
    ((6, 5), (1, 1)),
    ((9, 4), (9, 3)),
    ((2, 3), (2, 3)),
    ((8, 1), (5, 4)),
    ((3, 7), (5, 7)),
    ((8, 8), (7, 9)),
];

#[test]
fn planes_are_pooled_and_resized_by_the_definitions() {
    let functions: [(Resizing, PlaneMap); 2] = [(adaptive_avg_pool2d, pooled), (resize_nearest2d, resized)];
    for ((from, to), (function, define)) in SIZES.into_iter().flat_map(|s| functions.map(|f| (s, f))) {
        let x = random_tensor(&[2, 5, from.0, from.1], 1);
        let want: Vec<f64> = values(&x).chunks(from.0 * from.1).flat_map(|x| define(x, from, to)).collect();
        for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 2e-7)] {
            for order in ORDERS {
                let y = function(&laid(&x.to_dtype(dtype).unwrap(), order), to).unwrap();
                assert_eq!((y.dims(), y.dtype()), (&[2, 5, to.0, to.1][..], dtype));
                assert!(error(&values(&y), &want) < bound, "{from:?} to {to:?}, {dtype:?}, {order:?}");
            }
        }
    }
}

/// Pixel 37 of 74 is in the middle, the border between pixels 2 and 3 of 6; PyTorch's scale 6 / 74 in f32 is a little less.
#[test]
fn resizing_rounds_as_pytorch_does() {
    for (from, to, i, source) in [(6, 74, 37, 2.0), (26, 22, 11, 12.0), (12, 74, 37, 5.0)] {
        let x = Tensor::arange(0.0_f32, from as f32, &Device::Cpu).unwrap();
        let y = resize_nearest2d(&x.reshape((1, 1, 1, from)).unwrap(), (1, to)).unwrap();
        assert_eq!(values(&y)[i], source, "{from} to {to}");
    }
}

#[test]
fn an_unchanged_size_gives_the_tensor_itself() {
    let x = random_tensor(&[2, 3, 4, 5], 1);
    for y in [adaptive_avg_pool2d(&x, (4, 5)), resize_nearest2d(&x, (4, 5))] {
        assert_eq!(y.unwrap().id(), x.id());
    }
}

#[test]
fn batches_are_normalised_by_the_definition() {
    for dims in [[4, 3, 5, 2], [2, 17, 1, 1], [1, 1, 3, 3], [3, 40, 4, 4]] {
        // Means far from 0, where sums of squares would cancel.
        let x = (random_tensor(&dims, 1) + 30.0).unwrap();
        let (weight, bias) = (random_tensor(&dims[1..2], 2), random_tensor(&dims[1..2], 3));
        let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let want = normalized(&values(&single(&x)), dims, &values(&weight), &values(&bias));
        for order in ORDERS {
            let y = batch_norm(&laid(&single(&x), order), &single(&weight), &single(&bias), 1e-5).unwrap();
            assert_eq!((y.dims(), y.dtype()), (&dims[..], DType::F32));
            assert!(error(&values(&y), &want) < 2e-7, "{dims:?}, {order:?}");
            let x = laid(&single(&x).to_dtype(DType::F64).unwrap(), order);
            let y = batch_norm(&x, &weight, &bias, 1e-5).unwrap();
            assert!(error(&values(&y), &want) < 1e-12, "{dims:?}, {order:?}");
        }
    }
}

#[test]
fn gradients_in_f32_are_those_in_f64() {
    let functions: [OfThree; 5] = [
        |[x, weight, bias]| batch_norm(x, weight, bias, 1e-5),
        |[x, ..]| adaptive_avg_pool2d(x, (3, 8)),
        |[x, ..]| adaptive_avg_pool2d(x, (9, 4)),
        |[x, ..]| resize_nearest2d(x, (4, 11)),
        |[x, ..]| resize_nearest2d(x, (14, 3)),
    ];
    for (i, function) in functions.into_iter().enumerate() {
        let gradients = [DType::F32, DType::F64].map(|dtype| {
            let leaf = |dims: &[usize], index| {
                Var::from_tensor(&random_tensor(dims, index).to_dtype(dtype).unwrap()).unwrap()
            };
            let (x, weight, bias) = (leaf(&[4, 7, 5, 6], 1), leaf(&[6], 2), leaf(&[6], 3));
            // The leaf is NHWC, as those of a network's maps are.
            let y = function([&x.permute((0, 3, 1, 2)).unwrap(), &weight, &bias]).unwrap();
            let factors = random_tensor(y.dims(), 4).to_dtype(dtype).unwrap();
            let all = (y * factors).unwrap().sum_all().unwrap().backward().unwrap();
            [&x, &weight, &bias].map(|v| all.get(v).map(values))
        });
        for (got, want) in gradients[0].iter().zip(&gradients[1]) {
            assert_eq!(got.is_some(), want.is_some());
            let error = got.as_ref().zip(want.as_ref()).map_or(0.0, |(got, want)| error(got, want));
            assert!(error < 1e-6, "function {i}: {error}");
        }
        assert!(gradients[0][0].is_some() && (i > 0 || gradients[0][2].is_some()));
    }
}
