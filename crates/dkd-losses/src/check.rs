//! Checks of what comes in: shapes, labels, finite numbers.
use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// How far the values of logits are checked before a loss is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// NaN or infinity in any logits is an error. Costs one sum over each tensor.
    #[default]
    Strict,
    /// No look at the values: NaN in gives NaN out, as in PyTorch. Functions such as [`kd`](crate::kd) look nevertheless;
    /// an objective of one's own that lets NaN through asks the objectives ([`Kd`](crate::Kd)) for their terms instead.
    None,
}

/// Fails if `tensor` (rows in its first dimension) holds NaN or infinity; `name` is for the message.
///
/// # Errors
/// [`Error::NotFinite`] with the first affected row.
pub fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    // One sum decides the ordinary case; rows are looked at only to name the culprit.
    let sum = tensor.detach().to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if sum.is_finite() {
        return Ok(());
    }
    let values = tensor.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let width = values.len() / tensor.dim(0)?.max(1);
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::NotFinite { tensor: name.into(), row: at / width.max(1), value: values[at] }),
        None => Ok(()),
    }
}

/// Fails if the logits of a student or of its teacher hold NaN or infinity.
///
/// Looking at the loss instead would be cheaper and would not do: NCKD, for one, never reads the label's own logit.
pub(crate) fn check_logits(student: &Tensor, teacher: Option<&Tensor>) -> Result<()> {
    check_finite("student logits", student)?;
    teacher.map_or(Ok(()), |teacher| check_finite("teacher logits", teacher))
}

/// The shape (B, C) of logits with at least one row and `min_classes` columns.
pub(crate) fn logits_shape(name: &str, logits: &Tensor, min_classes: usize) -> Result<(usize, usize)> {
    match *logits.dims() {
        [rows, classes] if rows > 0 && classes >= min_classes => Ok((rows, classes)),
        _ => Err(Error::Shape {
            tensor: name.into(),
            expected: format!("[batch, classes] with at least 1 row and {min_classes} classes"),
            found: logits.dims().to_vec(),
        }),
    }
}

/// The shape (B, C) shared by student and teacher logits.
pub(crate) fn pair_shape(student: &Tensor, teacher: &Tensor, min_classes: usize) -> Result<(usize, usize)> {
    let (rows, classes) = logits_shape("student logits", student, min_classes)?;
    if teacher.dims() == [rows, classes] {
        return Ok((rows, classes));
    }
    Err(Error::Shape {
        tensor: "teacher logits".into(),
        expected: format!("[{rows}, {classes}] as the student's logits"),
        found: teacher.dims().to_vec(),
    })
}

/// The labels on the host, each checked to be a class.
pub(crate) fn label_values(labels: &Tensor, rows: usize, classes: usize) -> Result<Vec<u32>> {
    if !matches!(labels.dtype(), DType::U32 | DType::U8 | DType::I64) {
        return Err(Error::LabelType { found: labels.dtype() });
    }
    if labels.dims() != [rows] {
        return Err(Error::Shape {
            tensor: "labels".into(),
            expected: format!("[{rows}], one per row of the logits"),
            found: labels.dims().to_vec(),
        });
    }
    let values = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    values
        .into_iter()
        .enumerate()
        .map(|(row, label)| match u32::try_from(label) {
            Ok(class) if (class as usize) < classes => Ok(class),
            _ => Err(Error::Label { label, row, classes }),
        })
        .collect()
}

/// Fails unless a weight, or a width, is finite and at least 0.
pub(crate) fn check_weight(method: &'static str, key: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::Setting { method, key, value, expected: "a finite number, at least 0" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn names_the_row_of_the_first_nan() {
        let mut values = vec![0f32; 12];
        values[7] = f32::NAN;
        values[9] = f32::INFINITY;
        let t = Tensor::from_vec(values, (4, 3), &Device::Cpu).unwrap();
        let message = check_finite("student logits", &t).unwrap_err().to_string();
        assert!(message.contains("`student logits` holds NaN in row 2"), "{message}");
        let huge = Tensor::full(f32::MAX, (4, 3), &Device::Cpu).unwrap();
        check_finite("large but finite", &huge).unwrap();
    }

    #[test]
    fn names_the_label_and_its_row() {
        let label = |values: &[i64]| {
            let t = Tensor::new(values, &Device::Cpu).unwrap();
            label_values(&t, 3, 10)
        };
        assert_eq!(label(&[0, 9, 3]).unwrap(), [0, 9, 3]);
        assert!(matches!(label(&[0, 10, 3]), Err(Error::Label { label: 10, row: 1, classes: 10 })));
        let message = label(&[0, 1, -1]).unwrap_err().to_string();
        assert!(message.contains("label -1 in row 2") && message.contains("0 to 9"), "{message}");
        let message = label(&[0, 1]).unwrap_err().to_string();
        assert!(message.contains("[2]") && message.contains("[3]"), "{message}");
        let float = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(label_values(&float, 3, 10), Err(Error::LabelType { found: DType::F32 })));
    }

    #[test]
    fn shape_errors_hold_both_shapes() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let message = pair_shape(&zeros(&[4, 10]), &zeros(&[4, 100]), 1).unwrap_err().to_string();
        assert!(message.contains("[4, 100]") && message.contains("[4, 10]"), "{message}");
        assert!(logits_shape("x", &zeros(&[4, 1]), 2).is_err());
        assert!(logits_shape("x", &zeros(&[0, 4]), 1).is_err());
        assert!(logits_shape("x", &zeros(&[4]), 1).is_err());
    }
}
