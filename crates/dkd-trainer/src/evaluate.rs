//! Accuracy and loss on a split.

use crate::network::Network;
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_datasets::Loader;
use dkd_engine::{DropoutKey, Mode};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};

/// Results of an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Share of images whose best class is the label, in percent.
    #[serde(deserialize_with = "crate::record::or_nan")]
    pub top1: f64,
    /// Share of images whose label is among the five best classes, in percent.
    #[serde(deserialize_with = "crate::record::or_nan")]
    pub top5: f64,
    /// Mean cross-entropy, in nats; `null` in JSON if it is not a number.
    #[serde(deserialize_with = "crate::record::or_nan")]
    pub loss: f64,
    /// Images.
    pub images: usize,
}

/// Counts over batches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counter {
    pub top1: usize,
    pub top5: usize,
    pub loss: f64,
    pub images: usize,
}

impl Counter {
    /// Adds a batch of logits `[n, classes]`.
    pub fn add(&mut self, logits: &Tensor, labels: &[u32]) -> Result<()> {
        let classes = logits.dim(1)?;
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        for (row, label) in values.chunks_exact(classes).zip(labels) {
            let label = *label as usize;
            let Some(own) = row.get(label) else {
                return Err(Error::Invalid(format!("label {label}, but the network has {classes} classes")));
            };
            // As PyTorch's argmax: the first of equal values; NaN counts as the largest.
            let beats = |i: usize| {
                let v = row[i];
                if own.is_nan() {
                    v.is_nan() && i < label
                } else {
                    v.is_nan() || v > *own || (v == *own && i < label)
                }
            };
            let rank = (0..classes).filter(|i| beats(*i)).count();
            self.top1 += usize::from(rank == 0);
            self.top5 += usize::from(rank < 5);
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
            self.loss += f64::from(max) + sum.ln() - f64::from(*own);
        }
        self.images += labels.len();
        Ok(())
    }

    /// Adds images of which so many are right, with a sum of cross-entropies; how many are among the best five is not known.
    pub fn add_counts(&mut self, top1: usize, images: usize, loss: f64) {
        self.top1 += top1;
        self.images += images;
        self.loss += loss;
    }

    /// Adds a batch whose logits are all NaN, without them.
    pub fn add_nan(&mut self, labels: &[u32]) {
        self.top1 += labels.iter().filter(|l| **l == 0).count();
        self.top5 += labels.iter().filter(|l| **l < 5).count();
        self.loss = f64::NAN;
        self.images += labels.len();
    }

    pub fn metrics(&self) -> Metrics {
        let percent = |n: usize| 100.0 * n as f64 / self.images.max(1) as f64;
        Metrics {
            top1: percent(self.top1),
            top5: percent(self.top5),
            loss: self.loss / self.images.max(1) as f64,
            images: self.images,
        }
    }
}

/// Evaluates networks on all batches of `loader` (which should neither shuffle nor augment), each batch made once for all.
///
/// # Errors
/// Reading or running a batch fails; a label is not a class of a network.
pub fn evaluate(networks: &mut [&mut dyn Network], loader: &Loader) -> Result<Vec<Metrics>> {
    let never = AtomicBool::new(false);
    Ok(evaluate_until(networks, loader, &never)?.expect("nobody asks it to stop"))
}

/// [`evaluate`], and `None` if `stop` is set before it is done.
pub(crate) fn evaluate_until(
    networks: &mut [&mut dyn Network],
    loader: &Loader,
    stop: &AtomicBool,
) -> Result<Option<Vec<Metrics>>> {
    let mut counters = vec![Counter::default(); networks.len()];
    for batch in loader.epoch(1, 0) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        for (network, counter) in networks.iter_mut().zip(&mut counters) {
            network.forward(&batch.images, Mode::Eval, DropoutKey::default())?;
            counter.add(&network.logits()?, &batch.labels)?;
        }
    }
    Ok(Some(counters.iter().map(Counter::metrics).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn ranks_as_pytorch_does() {
        let nan = f32::NAN;
        let rows =
            [[1.0, 3.0, 2.0, 0.0, -1.0, -2.0, -3.0], [nan; 7], [2.0; 7], [0.0, nan, 5.0, 0.0, 0.0, 0.0, 0.0]];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let count = |labels: &[u32]| {
            let mut c = Counter::default();
            c.add(&logits, labels).unwrap();
            (c.top1, c.top5)
        };
        assert_eq!(count(&[1, 0, 0, 1]), (4, 4));
        assert_eq!(count(&[0, 1, 1, 2]), (0, 4));
        assert_eq!(count(&[5, 6, 5, 0]), (0, 1));
        let mut without = Counter::default();
        without.add_nan(&[0, 4, 5]);
        let mut with = Counter::default();
        with.add(&Tensor::new(&[[nan; 7]; 3], &Device::Cpu).unwrap(), &[0, 4, 5]).unwrap();
        assert_eq!((without.top1, without.top5, without.images), (with.top1, with.top5, with.images));
        let mut c = Counter::default();
        assert!(c.add(&logits, &[7, 0, 0, 0]).unwrap_err().to_string().contains("7 classes"));
    }

    #[test]
    fn loss_is_cross_entropy() {
        let logits = Tensor::new(&[[1e4_f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let mut c = Counter::default();
        c.add(&logits, &[0, 1]).unwrap();
        assert!((c.metrics().loss - 0.5 * 2.0_f64.ln()).abs() < 1e-9);
        assert_eq!(c.metrics().top1, 50.0);
    }
}
