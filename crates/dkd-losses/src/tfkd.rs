//! Teacher-free distillation: a virtual teacher that is always right and treats all other classes alike.
use candle_core::Tensor;

use crate::check::{check_logits, label_values, logits_shape};
use crate::kd::kd_unchecked;
use crate::softmax::{kl_sum, log_softmax, narrowed, widen};
use crate::{Batch, Error, Form, Objective, Reduction, Result, Temperature, Term};

/// Teacher-free distillation of `student` logits [B, C], C >= 2, for `labels` `[B]`: [`kd`](crate::kd) from a virtual
/// teacher with probability a on the label and (1 - a) / (C - 1) on each other class, a = `confidence`.
///
/// Yuan, Tay, Li, Wang, Feng: *Revisiting knowledge distillation via label smoothing regularization* (CVPR 2020), the
/// variant Tf-KD_reg; T = 20 and a >= 0.9 there, beside a cross-entropy. The two forms:
/// - [`Form::Paper`]: `T² mean_i KL(softmax(log u_i / T) || softmax(s_i / T))` with u the virtual teacher's probabilities, by
///   which T softens a distribution. As in all losses of this crate, T² is part of it;
/// - [`Form::Reference`]: `KL(softmax(u / T) || softmax(s))` summed and divided by B C. The authors' program takes the
///   probabilities for logits, so that at T = 20 the virtual teacher is all but uniform (with ten classes it gives the label
///   0.1045), has no temperature on the student's side and no T², and averages over classes, too; a large multiplier, here
///   the part's weight, makes up for it.
///
/// Computed in f64; result f32 (f64 for f64 logits); value and gradient are finite for all finite logits. Costs O(B C).
///
/// # Errors
/// [`Error::Shape`], [`Error::Label`], [`Error::LabelType`]; [`Error::Setting`] unless 0 < a < 1;
/// [`Error::NotFinite`] for NaN or infinity in the logits.
pub fn tfkd(
    student: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
    confidence: f64,
    form: Form,
) -> Result<Tensor> {
    let value = TfKd::new(temperature, confidence, form)?.value(student, labels)?;
    check_logits(student, None)?;
    Ok(value)
}

/// The objective of teacher-free distillation: one term `tfkd`. It needs no teacher. See [`tfkd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TfKd {
    temperature: Temperature,
    confidence: f64,
    form: Form,
}

impl TfKd {
    /// A virtual teacher that gives the label the probability `confidence`, softened by this temperature.
    ///
    /// # Errors
    /// [`Error::Setting`] unless 0 < `confidence` < 1.
    pub fn new(temperature: Temperature, confidence: f64, form: Form) -> Result<Self> {
        if confidence > 0.0 && confidence < 1.0 {
            return Ok(Self { temperature, confidence, form });
        }
        let expected = "above 0 and below 1";
        Err(Error::Setting { method: "tfkd", key: "confidence", value: confidence, expected })
    }

    /// The loss without a look at the values: NaN in gives NaN out.
    fn value(&self, student: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let (rows, classes) = logits_shape("student logits", student, 2)?;
        let labels = label_values(labels, rows, classes)?;
        let (label, other) = (self.confidence, (1.0 - self.confidence) / (classes - 1) as f64);
        let virtual_teacher = |label: f64, other: f64| {
            let value = |y: u32| (0..classes as u32).map(move |j| if j == y { label } else { other });
            let values: Vec<f64> = labels.iter().copied().flat_map(value).collect();
            Tensor::from_vec(values, (rows, classes), student.device())
        };
        match self.form {
            Form::Paper => {
                let logits = virtual_teacher(label.ln(), other.ln())?;
                kd_unchecked(student, &logits, self.temperature, Reduction::BatchMean)
            }
            Form::Reference => {
                let log_p = log_softmax(&virtual_teacher(label, other)?, self.temperature)?;
                let log_q = log_softmax(&widen(student)?, Temperature::ONE)?;
                narrowed(&kl_sum(&log_p, &log_q)?, 1.0 / Reduction::Mean.divisor(rows, classes), student)
            }
        }
    }
}

impl Objective for TfKd {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        false
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        Ok(vec![Term::new("tfkd", self.value(batch.student_logits()?, batch.labels)?, 1.0)])
    }
}
