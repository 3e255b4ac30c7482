//! A student beside its teacher.

use super::correlation::{Difference, class_logits_difference, correlation, difference};
use super::{Agreement, Answers, Divergence, Gradients};
use crate::{Error, Result};
use dkd_losses::Temperature;
use serde::Serialize;

/// What two networks' answers to the same images have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// Same answers.
    pub agreement: Agreement,
    /// Distance of the probabilities.
    pub divergence: Divergence,
    /// What pulls at the student.
    pub gradients: Gradients,
    /// Difference of the correlations between the logits of two classes, the student's less the teacher's.
    pub correlation: Difference,
    /// Mean of [`class_logits_difference`].
    pub class_logits_mean: f64,
    /// Maximum of it.
    pub class_logits_max: f64,
}

/// Compares a student with its teacher at a temperature.
///
/// # Errors
/// They know different numbers of classes, or have not seen the same images.
pub fn compare(teacher: &Answers, student: &Answers, temperature: Temperature) -> Result<PairReport> {
    let (t, s) = (teacher.size()?, student.size()?);
    if t.1 != s.1 {
        return Err(Error::Invalid(format!(
            "the teacher has {} classes, the student {}: they cannot be compared",
            t.1, s.1
        )));
    }
    if teacher.labels != student.labels {
        return Err(Error::Invalid(format!(
            "teacher ({} images) and student ({}) have not seen the same images",
            t.0, s.0
        )));
    }
    let (class_logits_mean, class_logits_max) = class_logits_difference(teacher, student)?;
    Ok(PairReport {
        agreement: Agreement::of(teacher, student)?,
        divergence: Divergence::of(teacher, student, temperature)?,
        gradients: Gradients::of(teacher, student, temperature)?,
        correlation: difference(&correlation(&teacher.logits)?, &correlation(&student.logits)?),
        class_logits_mean,
        class_logits_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn said(images: usize, classes: usize) -> Answers {
        let logits = Tensor::zeros((images, classes), DType::F32, &Device::Cpu).unwrap();
        Answers { logits, labels: vec![0; images], features: Vec::new() }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let refused = |t: &Answers, s: &Answers| compare(t, s, Temperature::FOUR).unwrap_err().to_string();
        let message = refused(&said(2, 10), &said(2, 100));
        assert!(message.contains("10 classes") && message.contains("100"), "{message}");
        assert!(refused(&said(2, 10), &said(3, 10)).contains("the same images"));
        let mut torn = said(2, 10);
        torn.labels.pop();
        assert!(refused(&said(2, 10), &torn).contains("2 rows"));
    }

    #[test]
    fn a_network_agrees_with_itself() {
        let own = compare(&said(3, 4), &said(3, 4), Temperature::ONE).unwrap();
        assert_eq!((own.agreement.same, own.divergence.kd, own.correlation.max), (100.0, 0.0, 0.0));
        assert_eq!((own.class_logits_max, own.gradients.ce.share), (0.0, 100.0));
        assert_eq!(own.gradients.cosines.ce_tckd, None);
    }
}
