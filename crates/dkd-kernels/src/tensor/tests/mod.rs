//! Tensors for the tests, plain loops that define the functions, and comparisons.

mod convolution;
mod errors;
mod gradients;
mod planes;

use crate::rng::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};

/// What lies in memory behind a tensor.
#[derive(Clone, Copy, Debug)]
enum Order {
    Nchw,
    Nhwc,
    /// Columns before rows, and something else before the tensor.
    Odd,
}

const ORDERS: [Order; 3] = [Order::Nchw, Order::Nhwc, Order::Odd];

fn random(n: usize, index: u64) -> Vec<f64> {
    let s = Stream::new(7, Purpose::Other, 0, index);
    (0..n as u64).map(|i| f64::from(s.uniform(i) * 2.0 - 1.0)).collect()
}

fn tensor(values: &[f64], dims: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn random_tensor(dims: &[usize], index: u64) -> Tensor {
    tensor(&random(dims.iter().product(), index), dims, DType::F64)
}

fn laid(t: &Tensor, order: Order) -> Tensor {
    let laid = match order {
        Order::Nchw => t.contiguous(),
        Order::Nhwc => t.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().permute((0, 3, 1, 2)),
        Order::Odd => {
            let twice = Tensor::cat(&[t, t], 0).unwrap().transpose(2, 3).unwrap().contiguous().unwrap();
            twice.transpose(2, 3).unwrap().narrow(0, t.dims()[0], t.dims()[0])
        }
    };
    laid.unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The largest difference, relative to the largest value.
fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-30_f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0, |m, (g, w)| {
        assert!(g.is_finite());
        m.max((g - w).abs() / scale)
    })
}

/// Sizes of a test: channels in and out, image, kernel, stride, padding.
#[derive(Clone, Copy, Debug)]
struct Case {
    channels: (usize, usize),
    size: (usize, usize),
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
}

#[rustfmt::skip]
const CASES: [Case; 16] = [
    Case { channels: (1, 1), size: (1, 1), kernel: (1, 1), stride: 1, padding: 0 },
    Case { channels: (3, 6), size: (9, 7), kernel: (3, 3), stride: 1, padding: 1 },
    Case { channels: (3, 16), size: (8, 9), kernel: (3, 3), stride: 2, padding: 1 },
    Case { channels: (6, 10), size: (8, 8), kernel: (3, 3), stride: 2, padding: 1 },
    Case { channels: (16, 17), size: (5, 6), kernel: (4, 4), stride: 2, padding: 1 },
    Case { channels: (17, 40), size: (7, 4), kernel: (5, 3), stride: 1, padding: 2 },
    Case { channels: (40, 16), size: (6, 6), kernel: (3, 3), stride: 1, padding: 1 },
    Case { channels: (40, 17), size: (9, 9), kernel: (1, 1), stride: 3, padding: 0 },
    Case { channels: (16, 3), size: (4, 9), kernel: (2, 5), stride: 3, padding: 2 },
    Case { channels: (6, 1), size: (2, 3), kernel: (2, 3), stride: 1, padding: 0 },
    Case { channels: (40, 40), size: (4, 4), kernel: (3, 3), stride: 1, padding: 0 },
    Case { channels: (17, 16), size: (3, 5), kernel: (4, 2), stride: 3, padding: 1 },
    Case { channels: (96, 80), size: (4, 4), kernel: (3, 3), stride: 1, padding: 1 },
    Case { channels: (70, 70), size: (3, 3), kernel: (1, 1), stride: 1, padding: 0 },
    Case { channels: (40, 64), size: (8, 8), kernel: (4, 4), stride: 2, padding: 1 },
    Case { channels: (1, 3), size: (2, 1), kernel: (2, 1), stride: 2, padding: 2 },
];

impl Case {
    /// Size of a convolution's result.
    fn output(&self) -> (usize, usize) {
        let one = |n: usize, k: usize| (n + 2 * self.padding - k) / self.stride + 1;
        (one(self.size.0, self.kernel.0), one(self.size.1, self.kernel.1))
    }

    /// Size of a transposed convolution's result, if there is one.
    fn enlarged(&self) -> Option<(usize, usize)> {
        let one =
            |n: usize, k: usize| ((n - 1) * self.stride + k).checked_sub(2 * self.padding).filter(|n| *n > 0);
        Some((one(self.size.0, self.kernel.0)?, one(self.size.1, self.kernel.1)?))
    }

    /// Offsets of the pixels of the kernel.
    fn taps(&self) -> impl Iterator<Item = (usize, usize)> {
        let (kh, kw) = self.kernel;
        (0..kh * kw).map(move |t| (t / kw, t % kw))
    }
}
