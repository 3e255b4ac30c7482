//! A closer look at a trained network: calibration and which classes are taken for which.

use crate::evaluate::{Counter, Metrics};
use crate::network::Network;
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_datasets::Loader;
use dkd_engine::{DropoutKey, Mode};
use serde::Serialize;

/// Equal parts of [0, 1] into which confidences are sorted.
pub const CONFIDENCE_BINS: usize = 15;

/// The answers whose confidence lies in one part of [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ConfidenceBin {
    /// Answers.
    pub images: usize,
    /// Right ones among them.
    pub right: usize,
    /// Sum of their confidences.
    pub confidence: f64,
}

/// Everything that is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Accuracy and loss.
    pub metrics: Metrics,
    /// Answers by confidence, the largest probability of the softmax.
    pub bins: [ConfidenceBin; CONFIDENCE_BINS],
    /// For every class and answer the number of images: row `class`, column `answer`.
    pub confusion: Vec<Vec<usize>>,
}

/// One class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassSummary {
    /// Images of the class.
    pub images: usize,
    /// Share of them that were recognised (recall), in percent; 0 without images.
    pub recall: f64,
    /// Share of right answers among all answers that name the class, in percent; `None` if none does.
    pub precision: Option<f64>,
    /// The other class that it is taken for most often, and how often; the first of several.
    pub taken_for: Option<(usize, usize)>,
}

impl Assessment {
    fn new(classes: usize) -> Self {
        Self {
            metrics: Metrics::default(),
            bins: [ConfidenceBin::default(); CONFIDENCE_BINS],
            confusion: vec![vec![0; classes]; classes],
        }
    }

    /// Of all of a network's answers at once: logits `[n, classes]`.
    pub(crate) fn of(logits: &Tensor, labels: &[u32]) -> Result<Self> {
        let (mut counter, mut assessment) = (Counter::default(), Self::new(logits.dim(1)?));
        counter.add(logits, labels)?;
        assessment.add(logits, labels)?;
        Ok(Self { metrics: counter.metrics(), ..assessment })
    }

    /// Adds a batch of logits `[n, classes]`; labels are classes.
    fn add(&mut self, logits: &Tensor, labels: &[u32]) -> Result<()> {
        let classes = self.confusion.len();
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        for (row, label) in values.chunks_exact(classes).zip(labels) {
            let answer = answer(row);
            let right = answer == *label as usize;
            self.confusion[*label as usize][answer] += 1;
            let top = row[answer];
            let sum: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
            // An answer that is no number has no confidence.
            let confidence = if sum.is_finite() { 1.0 / sum } else { 0.0 };
            let bin = (confidence * CONFIDENCE_BINS as f64).ceil() as usize;
            let bin = &mut self.bins[bin.clamp(1, CONFIDENCE_BINS) - 1];
            bin.images += 1;
            bin.right += usize::from(right);
            bin.confidence += confidence;
        }
        Ok(())
    }

    /// Expected calibration error in percent: the distance between the share of right answers and the mean confidence in each of
    /// the 15 bins, weighted by the bin's share of the images (Guo et al.: *On calibration of modern neural networks*, ICML 2017).
    pub fn calibration_error(&self) -> f64 {
        let images: usize = self.bins.iter().map(|b| b.images).sum();
        let distance: f64 = self.bins.iter().map(|b| (b.right as f64 - b.confidence).abs()).sum();
        100.0 * distance / images.max(1) as f64
    }

    /// Every class.
    pub fn classes(&self) -> Vec<ClassSummary> {
        let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        let summary = |(class, row): (usize, &Vec<usize>)| {
            let images = row.iter().sum();
            let answers: usize = self.confusion.iter().map(|r| r[class]).sum();
            let others = row.iter().copied().enumerate().filter(|(other, n)| *other != class && *n > 0);
            ClassSummary {
                images,
                recall: percent(row[class], images),
                precision: (answers > 0).then(|| percent(row[class], answers)),
                taken_for: others.reduce(|best, new| if new.1 > best.1 { new } else { best }),
            }
        };
        self.confusion.iter().enumerate().map(summary).collect()
    }
}

/// As PyTorch's argmax: the first of equal values; NaN counts as the largest.
pub(crate) fn answer(row: &[f32]) -> usize {
    let larger = |best: usize, new: usize| {
        let (b, n) = (row[best], row[new]);
        if !b.is_nan() && (n.is_nan() || n > b) { new } else { best }
    };
    (0..row.len()).reduce(larger).unwrap_or(0)
}

/// Assesses a network on all batches of `loader` (which should neither shuffle nor augment).
///
/// # Errors
/// Reading or running a batch fails; a label is not a class of the network.
pub fn assess(network: &mut dyn Network, loader: &Loader) -> Result<Assessment> {
    let mut counter = Counter::default();
    let mut assessment: Option<Assessment> = None;
    for batch in loader.epoch(1, 0) {
        let batch = batch?;
        network.forward(&batch.images, Mode::Eval, DropoutKey::default())?;
        let logits = network.logits()?;
        counter.add(&logits, &batch.labels)?;
        let classes = logits.dim(1)?;
        assessment.get_or_insert_with(|| Assessment::new(classes)).add(&logits, &batch.labels)?;
    }
    let assessment = assessment.ok_or_else(|| Error::Invalid("there are no images to assess".to_owned()))?;
    Ok(Assessment { metrics: counter.metrics(), ..assessment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn assessed(rows: &[[f32; 3]], labels: &[u32]) -> Assessment {
        let mut a = Assessment::new(3);
        let logits = Tensor::from_vec(rows.concat(), (rows.len(), 3), &Device::Cpu).unwrap();
        a.add(&logits, labels).unwrap();
        a
    }

    #[test]
    fn a_sure_and_right_network_is_calibrated() {
        let a = assessed(&[[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]], &[0, 1]);
        assert!(a.calibration_error() < 1e-9);
        let a = assessed(&[[50.0, 0.0, 0.0], [50.0, 0.0, 0.0]], &[0, 1]);
        assert!((a.calibration_error() - 50.0).abs() < 1e-9, "half of what it is sure of is wrong");
        // One third each is the confidence of equal logits, and the first class is the answer.
        let a = assessed(&[[1.0; 3]; 3], &[0, 1, 2]);
        assert!(a.calibration_error() < 1e-9);
        let bin = a.bins.iter().position(|b| b.images > 0).unwrap();
        assert!((bin as f64 / 15.0) < 1.0 / 3.0 && 1.0 / 3.0 <= (bin + 1) as f64 / 15.0 + 1e-12);
    }

    #[test]
    fn classes_know_what_they_are_taken_for() {
        let (a, b, c) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        let all = assessed(&[a, a, b, c, c, c], &[0, 0, 0, 0, 0, 1]).classes();
        assert_eq!((all[0].images, all[0].recall, all[0].precision), (5, 40.0, Some(100.0)));
        assert_eq!(all[0].taken_for, Some((2, 2)));
        assert_eq!((all[1].recall, all[1].precision, all[1].taken_for), (0.0, Some(0.0), Some((2, 1))));
        assert_eq!((all[2].images, all[2].recall, all[2].taken_for), (0, 0.0, None));
    }

    #[test]
    fn not_a_number_is_an_answer_without_confidence() {
        let a = assessed(&[[0.0, f32::NAN, 9.0], [f32::NAN; 3], [0.0, f32::INFINITY, 0.0]], &[1, 1, 1]);
        assert_eq!(a.confusion[1], [1, 2, 0]);
        assert_eq!(a.bins[0].images, 3);
        assert!(a.calibration_error().is_finite());
    }
}
