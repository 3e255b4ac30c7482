//! What a network says about images.

use crate::network::Network;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use dkd_datasets::Loader;
use dkd_engine::{DropoutKey, Mode};
use dkd_losses::check_finite;

/// What a network says about all images of a split, in their order.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Logits `[n, classes]`, f32, all finite.
    pub logits: Tensor,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// A feature map of chosen images, one after the other; empty if none was asked for.
    pub features: Vec<f32>,
}

/// A feature map of some of the images.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Name of the tap.
    pub tap: &'a str,
    /// Positions of the images in the split, ascending.
    pub images: &'a [usize],
}

impl Answers {
    /// Number of images and of classes.
    ///
    /// # Errors
    /// The logits are no matrix, or there are not as many labels.
    pub fn size(&self) -> Result<(usize, usize)> {
        let (rows, classes) = self.logits.dims2()?;
        if rows != self.labels.len() {
            return Err(Error::Invalid(format!("{rows} rows of logits for {} labels", self.labels.len())));
        }
        Ok((rows, classes))
    }
}

/// Runs a network over all batches of `loader` (which should neither shuffle nor augment) in evaluation mode.
///
/// # Errors
/// Reading or running a batch fails; the network has no such tap ([`Error::NoTaps`] for a candle module); a logit or a
/// feature is not finite, which is what a network that diverged gives.
pub fn answers(network: &mut dyn Network, loader: &Loader, wanted: Option<Wanted<'_>>) -> Result<Answers> {
    let (mut logits, mut labels, mut features) = (Vec::new(), Vec::new(), Vec::new());
    let mut classes = 0;
    let mut chosen = wanted.map_or(&[][..], |w| w.images);
    for batch in loader.epoch(1, 0) {
        let batch = batch?;
        network.forward(&batch.images, Mode::Eval, DropoutKey::default())?;
        let said = network.logits()?;
        classes = said.dim(1)?;
        logits.extend(said.flatten_all()?.to_vec1::<f32>()?);
        let first = labels.len();
        labels.extend_from_slice(&batch.labels);
        let here = chosen.iter().take_while(|i| **i < labels.len()).count();
        if let Some(Wanted { tap, .. }) = wanted.filter(|_| here > 0) {
            let map = network.tap(tap)?.flatten_from(1)?;
            for image in &chosen[..here] {
                features.extend(map.get(image - first)?.to_vec1::<f32>()?);
            }
            chosen = &chosen[here..];
        }
    }
    if labels.is_empty() {
        return Err(Error::Invalid("there are no images to look at".to_owned()));
    }
    let logits = Tensor::from_vec(logits, (labels.len(), classes), &Device::Cpu)?;
    check_finite("the logits", &logits)?;
    if features.iter().any(|v| !v.is_finite()) {
        return Err(Error::Invalid("the features have values that are not finite".to_owned()));
    }
    Ok(Answers { logits, labels, features })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineNetwork;
    use dkd_datasets::{LoaderConfig, synthetic};
    use dkd_engine::{Precision, SessionOptions};
    use dkd_models::{ModelOptions, build};
    use std::sync::Arc;

    #[test]
    fn features_are_those_of_the_chosen_images() {
        let data = synthetic::generate(&synthetic::Options { train: 1, test: 10, seed: 0 });
        let cpu = dkd_kernels::Cpu::new(1).unwrap();
        let options = SessionOptions {
            max_batch: 10,
            train: false,
            taps: vec!["pooled_feat".to_owned()],
            precision: Precision::F32,
        };
        let graph = build("resnet8", &ModelOptions::new(10)).unwrap();
        let mut network = EngineNetwork::new(graph, &cpu, options, 0).unwrap();
        let split = Arc::new(data.test);
        let mut said = |batch_size, images: &[usize]| {
            let config = LoaderConfig { batch_size, shuffle: false, ..LoaderConfig::default() };
            let loader = Loader::new(Arc::clone(&split), &data.normalization, config).unwrap();
            answers(&mut network, &loader, Some(Wanted { tap: "pooled_feat", images })).unwrap()
        };
        let all = said(10, &(0..10).collect::<Vec<_>>());
        let some = said(4, &[3, 4, 9]);
        assert_eq!((all.size().unwrap(), all.features.len() % 10), ((10, 10), 0));
        let width = all.features.len() / 10;
        let expected: Vec<f32> =
            [3, 4, 9].iter().flat_map(|i| all.features[i * width..(i + 1) * width].to_vec()).collect();
        assert!(some.features.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!((some.features.len(), &some.labels), (3 * width, &split.labels));
        assert!(said(10, &[]).features.is_empty());
    }
}
