//! One network by itself: accuracy, confidence, entropy, calibration.

use super::Answers;
use crate::assess::{Assessment, CONFIDENCE_BINS, ConfidenceBin};
use crate::{Metrics, Result};
use serde::Serialize;

/// How good, how sure and how honest a network is. Probabilities are those of the plain softmax, T = 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkReport {
    /// Accuracy and loss.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Mean probability of the label.
    pub label_confidence: f64,
    /// Mean probability of the answer, which is the largest one.
    pub confidence: f64,
    /// Mean entropy of the probabilities, in nats; between 0 and the logarithm of the number of classes.
    pub entropy: f64,
    /// [`Assessment::calibration_error`], in percent.
    pub calibration_error: f64,
    /// Answers by confidence.
    pub bins: [ConfidenceBin; CONFIDENCE_BINS],
}

impl NetworkReport {
    /// What its answers tell of a network.
    ///
    /// # Errors
    /// A label is not a class.
    pub fn of(answers: &Answers) -> Result<Self> {
        let (images, classes) = answers.size()?;
        let assessment = Assessment::of(&answers.logits, &answers.labels)?;
        let logits = answers.logits.flatten_all()?.to_vec1::<f32>()?;
        let (mut label_confidence, mut entropy) = (0.0, 0.0);
        for (row, label) in logits.chunks_exact(classes).zip(&answers.labels) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let below = |v: &f32| f64::from(*v) - f64::from(max);
            let sum: f64 = row.iter().map(|v| below(v).exp()).sum();
            label_confidence += below(&row[*label as usize]).exp() / sum;
            // -sum p log p with log p = (z - max) - log sum.
            entropy += sum.ln() - row.iter().map(|v| below(v) * below(v).exp()).sum::<f64>() / sum;
        }
        let confidence: f64 = assessment.bins.iter().map(|b| b.confidence).sum();
        let mean = |sum: f64| sum / images.max(1) as f64;
        Ok(Self {
            metrics: assessment.metrics,
            label_confidence: mean(label_confidence),
            confidence: mean(confidence),
            entropy: mean(entropy),
            calibration_error: assessment.calibration_error(),
            bins: assessment.bins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn confidence_entropy_and_calibration_of_a_case_made_by_hand() {
        // Probabilities 0.8, 0.1, 0.1, as logits; right twice, wrong twice, and once without any preference.
        let sure = [0.8_f32.ln(), 0.1_f32.ln(), 0.1_f32.ln()];
        let rows = [sure, sure, sure, sure, [2.0; 3]];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let answers = Answers { logits, labels: vec![0, 0, 1, 2, 0], features: Vec::new() };
        let report = NetworkReport::of(&answers).unwrap();
        let third = 1.0 / 3.0;
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(report.label_confidence, (0.8 + 0.8 + 0.1 + 0.1 + third) / 5.0);
        near(report.confidence, (4.0 * 0.8 + third) / 5.0);
        let entropy = -(0.8 * 0.8_f64.ln() + 0.2 * 0.1_f64.ln());
        near(report.entropy, (4.0 * entropy + 3.0_f64.ln()) / 5.0);
        // Four answers at 0.8 of which half are right, one at a third that is right.
        near(report.calibration_error, 100.0 * (4.0 * (0.8 - 0.5) + (1.0 - third)) / 5.0);
        assert_eq!((report.metrics.top1, report.metrics.images), (60.0, 5));
    }
}
