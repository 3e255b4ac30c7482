//! What does not fit is an error that says so, and never a panic.

use super::super::{adaptive_avg_pool2d, batch_norm, conv_transpose2d, conv2d, resize_nearest2d};
use crate::Cpu;
use candle_core::{DType, Device, Result, Tensor};

fn ones(dims: &[usize]) -> Tensor {
    Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap()
}

fn message(result: Result<Tensor>, parts: &[&str]) {
    // candle adds a backtrace where the environment asks for one.
    let message = result.unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks some of {parts:?}");
}

#[test]
fn of_convolutions() {
    let cpu = Cpu::new(1).unwrap();
    let (x, weight) = (ones(&[2, 3, 8, 6]), ones(&[5, 3, 3, 3]));
    let conv = |x: &Tensor, w: &Tensor, b: Option<&Tensor>, s, p| conv2d(&cpu, x, w, b, s, p);
    let shapes = "conv2d(x [2, 3, 8, 6] f32, weight [5, 4, 3, 3] f32, stride 1, padding 0): expected";
    message(
        conv(&x, &ones(&[5, 4, 3, 3]), None, 1, 0),
        &[shapes, "weight of shape [outputs, 3, kernel rows"],
    );
    message(
        conv(&x, &ones(&[5, 3, 3]), None, 1, 0),
        &["weight [5, 3, 3] f32", "weight of shape [outputs, 3,"],
    );
    message(
        conv(&ones(&[3, 8, 6]), &weight, None, 1, 0),
        &["x [3, 8, 6]", "[batch, channels, rows, columns]"],
    );
    message(conv(&x, &weight, Some(&ones(&[6])), 1, 0), &["bias [6] f32", "expected bias of shape [5]"]);
    message(conv(&x, &weight, Some(&ones(&[1, 5])), 1, 0), &["bias [1, 5] f32", "bias of shape [5]"]);
    message(conv(&x, &weight, None, 0, 0), &["stride 0", "a stride of at least 1"]);
    message(conv(&x, &ones(&[5, 3, 9, 3]), None, 1, 0), &["[5, 3, 9, 3]", "no larger than the padded image"]);
    message(conv(&x, &weight, None, 1, usize::MAX), &["conv2d(", "at most 4294967296 elements in a padded"]);
    message(conv(&x, &weight, None, 1, 1 << 40), &["at most 4294967296 elements in a padded image"]);
    message(conv(&x, &weight.to_dtype(DType::F64).unwrap(), None, 1, 0), &["f64", "all f32 or all f64"]);
    let integers = x.to_dtype(DType::U32).unwrap();
    message(conv(&integers, &integers, None, 1, 0), &["x [2, 3, 8, 6] u32", "all f32 or all f64"]);
    message(
        conv(&ones(&[0, 3, 8, 6]), &weight, None, 1, 0),
        &["x [0, 3, 8, 6]", "without an empty dimension"],
    );
    message(conv(&x, &ones(&[0, 3, 3, 3]), None, 1, 0), &["[0, 3, 3, 3]", "without an empty dimension"]);
    // One window: any stride will do.
    assert_eq!(conv(&x, &weight, None, usize::MAX, 0).unwrap().dims(), [2, 5, 1, 1]);

    let conv = |x: &Tensor, w: &Tensor, b: Option<&Tensor>, s, p| conv_transpose2d(&cpu, x, w, b, s, p);
    let shapes =
        "conv_transpose2d(x [2, 3, 8, 6] f32, weight [5, 3, 3, 3] f32, stride 2, padding 1): expected";
    message(conv(&x, &weight, None, 2, 1), &[shapes, "weight of shape [3, outputs, kernel rows, columns]"]);
    let weight = ones(&[3, 5, 4, 4]);
    message(conv(&x, &weight, Some(&ones(&[3])), 2, 1), &["bias [3]", "bias of shape [5]"]);
    message(conv(&x, &weight, None, 0, 1), &["a stride of at least 1"]);
    message(conv(&x, &weight, None, 1, 5), &["padding 5", "of the 11 rows and 9 columns"]);
    message(conv(&x, &weight, None, 1, usize::MAX), &["a padding that leaves something"]);
    message(conv(&x, &weight, None, usize::MAX, 0), &["at most 4294967296 elements in an image of the"]);
    let (pixel, dims) = (ones(&[1, 3, 1, 1]), [1, 5, 4, 4]);
    assert_eq!(conv(&pixel, &weight, None, usize::MAX, 0).unwrap().dims(), dims);
}

#[test]
fn of_the_others() {
    let (x, c) = (ones(&[2, 3, 4, 4]), ones(&[3]));
    let shapes = "batch_norm(x [2, 3, 4, 4] f32, weight [2] f32, bias [3] f32, eps 0.001): expected";
    message(batch_norm(&x, &ones(&[2]), &c, 1e-3), &[shapes, "weight of shape [3]"]);
    message(batch_norm(&x, &c, &ones(&[3, 1]), 1e-3), &["bias [3, 1]", "expected bias of shape [3]"]);
    for eps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        message(batch_norm(&x, &c, &c, eps), &["batch_norm(", "expected a positive eps"]);
    }
    message(
        batch_norm(&ones(&[1, 3, 1, 1]), &c, &c, 1e-5),
        &["[1, 3, 1, 1]", "more than one value per channel"],
    );
    message(batch_norm(&ones(&[2, 3]), &c, &c, 1e-5), &["x [2, 3]", "[batch, channels, rows, columns]"]);

    for (name, function) in [
        ("adaptive_avg_pool2d", adaptive_avg_pool2d as fn(&Tensor, (usize, usize)) -> Result<Tensor>),
        ("resize_nearest2d", resize_nearest2d),
    ] {
        let shown = format!("{name}(x [2, 3, 4, 4] f32, size [0, 2]): expected a size of at least 1 x 1");
        message(function(&x, (0, 2)), &[&shown]);
        message(function(&x, (2, 0)), &[name, "size [2, 0]"]);
        message(
            function(&ones(&[3, 4, 4]), (2, 2)),
            &[name, "x [3, 4, 4]", "[batch, channels, rows, columns]"],
        );
        message(function(&ones(&[2, 3, 0, 4]), (2, 2)), &[name, "x [2, 3, 0, 4]", "empty dimension"]);
        message(function(&x, (usize::MAX, usize::MAX)), &[name, "at most 4294967296 elements in the result"]);
        message(function(&x.to_dtype(DType::I64).unwrap(), (2, 2)), &[name, "i64", "all f32 or all f64"]);
    }
}
