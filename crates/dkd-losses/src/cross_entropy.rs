//! Cross-entropy with label smoothing.
use candle_core::Tensor;

use crate::check::{check_logits, label_values, logits_shape};
use crate::softmax::{log_sum_exp, narrowed, scaled_below_max, widen};
use crate::{Batch, Error, Objective, Result, Temperature, Term};

/// Cross-entropy of `logits` [B, C] against `labels` `[B]`, mean over rows.
///
/// `CE = mean_i -sum_j w_ij log softmax(z_i)_j` with weights `w` = (1 - s) on the label plus s / C on every class, where
/// s = `label_smoothing` (Szegedy et al., *Rethinking the Inception architecture*, 2016; the form of PyTorch).
/// Computed in f64 as `log sum exp(z) - sum_j w_j z_j`; the result is f32 (f64 for f64 logits). Finite, with a finite
/// gradient, for all finite logits.
///
/// # Errors
/// [`Error::Shape`], [`Error::Label`], [`Error::LabelType`]; [`Error::NotFinite`] for NaN or infinity in the logits;
/// [`Error::Setting`] unless 0 <= s < 1.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let value = cross_entropy_unchecked(logits, labels, label_smoothing)?;
    check_logits(logits, None)?;
    Ok(value)
}

/// [`cross_entropy`] without a look at the logits' values: NaN in gives NaN out.
pub(crate) fn cross_entropy_unchecked(
    logits: &Tensor,
    labels: &Tensor,
    label_smoothing: f64,
) -> Result<Tensor> {
    check_smoothing(label_smoothing)?;
    let (rows, classes) = logits_shape("student logits", logits, 1)?;
    let target = label_values(labels, rows, classes)?;
    let target = Tensor::from_vec(target, (rows, 1), logits.device())?;
    let scaled = scaled_below_max(&widen(logits)?, Temperature::ONE)?;
    let log_sum = log_sum_exp(&scaled)?.sum_all()?;
    let on_target = scaled.gather(&target, 1)?.sum_all()?;
    let sum = if label_smoothing == 0.0 {
        (log_sum - on_target)?
    } else {
        let spread = (scaled.sum_all()? * (label_smoothing / classes as f64))?;
        ((log_sum - (on_target * (1.0 - label_smoothing))?)? - spread)?
    };
    narrowed(&sum, 1.0 / rows as f64, logits)
}

fn check_smoothing(value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::Setting { method: "ce", key: "label_smoothing", value, expected: "at least 0 and below 1" })
}

/// The objective of training without a teacher: one term `ce`. See [`cross_entropy`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    label_smoothing: f64,
}

impl CrossEntropy {
    /// Cross-entropy with the given label smoothing (0: none).
    ///
    /// # Errors
    /// [`Error::Setting`] unless 0 <= `label_smoothing` < 1.
    pub fn new(label_smoothing: f64) -> Result<Self> {
        check_smoothing(label_smoothing)?;
        Ok(Self { label_smoothing })
    }
}

impl Objective for CrossEntropy {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        false
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let value = cross_entropy_unchecked(batch.student_logits()?, batch.labels, self.label_smoothing)?;
        Ok(vec![Term::new("ce", value, 1.0)])
    }
}
