//! Batches, made ahead of the trainer.

use crate::augment::{Augment, augment_image, augmentation, crop_flip, shifted};
use crate::strong::strengthen;
use crate::{Error, Normalization, Result, Split};
use candle_core::{Device, Tensor};
use dkd_kernels::rng::{Purpose, Stream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Batches that are made ahead.
const QUEUE: usize = 3;

/// Largest number of images in a batch: a larger one asks for memory that no machine has.
pub const MAX_BATCH: usize = 65_536;

/// How batches are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Images in a batch, at most [`MAX_BATCH`].
    pub batch_size: usize,
    /// What is done to every image.
    pub augment: Augment,
    /// Augmentations of each image: a batch has this many views.
    pub views: usize,
    /// Whether the views after the first are strongly augmented: after crop and flip, two operations of RandAugment at
    /// magnitude 10 of 30. The first view has the same bytes with and without.
    pub strong: bool,
    /// Whether each image is mixed with another of its batch: image i of n becomes `x_i w + x_(n-1-i) (1 - w)` with w evenly from
    /// [0, 1), word 3 of the stream of [`crop_flip`]. Its label is that of the larger share.
    pub mixup: bool,
    /// Whether every epoch has a random order of its own.
    pub shuffle: bool,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
}

impl Default for LoaderConfig {
    /// Batches of 64, shuffled, one view, nothing augmented, mixed or dropped.
    fn default() -> Self {
        Self {
            batch_size: 64,
            augment: Augment::None,
            views: 1,
            strong: false,
            mixup: false,
            shuffle: true,
            drop_last: false,
            seed: 0,
        }
    }
}

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// First view: `[n, 3, height, width]` in f32, stored with channels innermost.
    pub images: Tensor,
    /// Further views.
    pub more_views: Vec<Tensor>,
    /// Classes.
    pub labels: Vec<u32>,
    /// Classes as a tensor, u32 `[n]`.
    pub label_tensor: Tensor,
    /// Each image's number in the split as it was read.
    pub indices: Vec<u32>,
    /// Number of the batch in its epoch, from 0.
    pub index: usize,
}

/// Makes the batches of a split.
#[derive(Clone, Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    split: Arc<Split>,
    tables: [[f32; 256]; 3],
    config: LoaderConfig,
}

impl Loader {
    /// A loader for `split`.
    ///
    /// # Errors
    /// A batch size or a number of views of 0; a batch size above [`MAX_BATCH`]; a split without images; a normalisation
    /// that is not finite or whose standard deviations are not above 0.
    pub fn new(split: Arc<Split>, normalization: &Normalization, config: LoaderConfig) -> Result<Self> {
        if config.batch_size == 0 || config.views == 0 || split.is_empty() {
            return Err(Error::Invalid(format!(
                "batches of {} images with {} views cannot be made of {} images",
                config.batch_size,
                config.views,
                split.len()
            )));
        }
        if config.batch_size > MAX_BATCH {
            return Err(Error::Invalid(format!(
                "a batch size of {} is too large: at most {MAX_BATCH} images can be in a batch, and there are {}",
                config.batch_size,
                split.len()
            )));
        }
        normalization.check()?;
        let tables = normalization.tables();
        Ok(Self { shared: Arc::new(Shared { split, tables, config }) })
    }

    /// The images.
    pub fn split(&self) -> &Arc<Split> {
        &self.shared.split
    }

    /// How its batches are formed.
    pub fn config(&self) -> &LoaderConfig {
        &self.shared.config
    }

    /// The normalised value of each byte, by channel.
    pub fn tables(&self) -> &[[f32; 256]; 3] {
        &self.shared.tables
    }

    /// Positions of the images in the order of `epoch`: batch k has those from `k * batch_size` on.
    pub fn order(&self, epoch: u32) -> Vec<u32> {
        self.shared.order(epoch)
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        let (n, size) = (self.shared.split.len(), self.shared.config.batch_size);
        if self.shared.config.drop_last { n / size } else { n.div_ceil(size) }
    }

    /// Batch `index` of `epoch`: depends on the seed, the epoch and the index only.
    ///
    /// # Errors
    /// There is no such batch.
    pub fn batch(&self, epoch: u32, index: usize) -> Result<Batch> {
        if index >= self.batches() {
            return Err(Error::Invalid(format!(
                "there is no batch {index}: an epoch has {}",
                self.batches()
            )));
        }
        self.shared.batch(&self.shared.order(epoch), epoch, index)
    }

    /// The batches of `epoch` from `start` on, made by a thread of their own, a few ahead of the consumer.
    pub fn epoch(&self, epoch: u32, start: usize) -> Epoch {
        let (sender, receiver) = sync_channel(QUEUE);
        let (shared, batches) = (Arc::clone(&self.shared), self.batches());
        let work = move || {
            let order = shared.order(epoch);
            for index in start..batches {
                // A consumer that stops early has dropped its end: nothing is left to do.
                if sender.send(shared.batch(&order, epoch, index)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("dkd-loader".to_owned()).spawn(work);
        Epoch { receiver, spawn_error: thread.err() }
    }
}

impl Shared {
    fn order(&self, epoch: u32) -> Vec<u32> {
        if self.config.shuffle {
            Stream::new(self.config.seed, Purpose::Shuffle, epoch, 0).permutation(self.split.len())
        } else {
            (0..self.split.len() as u32).collect()
        }
    }

    fn batch(&self, order: &[u32], epoch: u32, index: usize) -> Result<Batch> {
        let (split, config) = (&*self.split, &self.config);
        let start = index * config.batch_size;
        let positions = &order[start..order.len().min(start + config.batch_size)];
        let mut labels: Vec<u32> = positions.iter().map(|i| split.labels[*i as usize]).collect();
        let mut views = Vec::with_capacity(config.views);
        for view in 0..config.views {
            let mut pixels = vec![0.0; positions.len() * split.image_bytes()];
            let mut strong = vec![0_u8; if config.strong && view > 0 { split.image_bytes() } else { 0 }];
            for (position, to) in positions.iter().zip(pixels.chunks_exact_mut(split.image_bytes())) {
                let i = *position as usize;
                let shift = match config.augment {
                    Augment::None => None,
                    Augment::CropFlip => Some(crop_flip(config.seed, epoch, view as u32, split.origin[i])),
                };
                let size = (split.height, split.width);
                if strong.is_empty() {
                    augment_image(split.image(i), size, shift, &self.tables, to);
                } else {
                    shifted(split.image(i), size, shift, [0; 3], |_, v| v, &mut strong);
                    strengthen(&mut strong, size, (config.seed, epoch, view as u32, split.origin[i]));
                    augment_image(&strong, size, None, &self.tables, to);
                }
            }
            if config.mixup {
                let shares: Vec<f32> = positions
                    .iter()
                    .map(|i| share(config.seed, epoch, view as u32, split.origin[*i as usize]))
                    .collect();
                mix(&mut pixels, &shares);
                if view == 0 {
                    let alone = labels.clone();
                    let pairs = labels.iter_mut().zip(alone.iter().rev()).zip(&shares);
                    pairs.filter(|(_, share)| **share < 0.5).for_each(|((own, other), _)| *own = *other);
                }
            }
            let shape = (positions.len(), split.height, split.width, 3);
            views.push(Tensor::from_vec(pixels, shape, &Device::Cpu)?.permute((0, 3, 1, 2))?);
        }
        let label_tensor = Tensor::from_slice(&labels, labels.len(), &Device::Cpu)?;
        let indices = positions.iter().map(|i| split.origin[*i as usize]).collect();
        Ok(Batch { images: views.remove(0), more_views: views, labels, label_tensor, indices, index })
    }
}

/// An image's own share in a mixture.
fn share(seed: u64, epoch: u32, view: u32, origin: u32) -> f32 {
    augmentation(seed, epoch, view, origin).uniform(3)
}

/// Mixes each of as many images as there are shares with the one as far from the other end.
fn mix(pixels: &mut [f32], shares: &[f32]) {
    let alone = pixels.to_vec();
    let size = pixels.len() / shares.len();
    let others = alone.chunks_exact(size).rev();
    for ((image, other), share) in pixels.chunks_exact_mut(size).zip(others).zip(shares) {
        image.iter_mut().zip(other).for_each(|(v, o)| *v = *v * share + o * (1.0 - share));
    }
}

/// The rest of an epoch.
#[derive(Debug)]
pub struct Epoch {
    receiver: Receiver<Result<Batch>>,
    spawn_error: Option<std::io::Error>,
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(e) = self.spawn_error.take() {
            return Some(Err(Error::Invalid(format!("cannot start a thread for reading data: {e}"))));
        }
        self.receiver.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Options, generate};

    fn loader(config: LoaderConfig) -> Loader {
        let data = generate(&Options { train: 150, test: 1, seed: 3 });
        Loader::new(Arc::new(data.train), &data.normalization, config).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_batch_is_a_function_of_seed_epoch_and_index() {
        let config =
            LoaderConfig { augment: Augment::CropFlip, views: 2, seed: 4, ..LoaderConfig::default() };
        let l = loader(config);
        let epoch: Vec<Batch> = l.epoch(3, 0).map(Result::unwrap).collect();
        assert_eq!(epoch.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [64, 64, 22]);
        let mut seen: Vec<u32> = epoch.iter().flat_map(|b| b.indices.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..150).collect::<Vec<_>>());
        for later in l.epoch(3, 1) {
            let (later, alone) = (later.unwrap(), &epoch);
            assert_eq!(values(&later.images), values(&alone[later.index].images));
            let again = l.batch(3, later.index).unwrap();
            assert_eq!(values(&again.more_views[0]), values(&later.more_views[0]));
            assert_ne!(values(&again.more_views[0]), values(&later.images));
        }
        assert_ne!(l.batch(4, 0).unwrap().indices, epoch[0].indices);
        let other = loader(LoaderConfig { seed: 5, ..config });
        assert_ne!(other.batch(3, 0).unwrap().indices, epoch[0].indices);
    }

    #[test]
    fn a_strong_view_leaves_the_first_as_it_is() {
        let plain = LoaderConfig { augment: Augment::CropFlip, seed: 4, ..LoaderConfig::default() };
        let two = LoaderConfig { views: 2, ..plain };
        let batch = |config| loader(config).batch(3, 1).unwrap();
        let (one, weak, strong) = (batch(plain), batch(two), batch(LoaderConfig { strong: true, ..two }));
        let bits = |t: &Tensor| values(t).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!((bits(&one.images), &one.indices), (bits(&strong.images), &strong.indices));
        assert!(one.more_views.is_empty() && strong.more_views.len() == 1);
        // The same crops, and operations on most of them.
        let size = 32 * 32 * 3;
        let (a, b) = (bits(&weak.more_views[0]), bits(&strong.more_views[0]));
        let changed = a.chunks(size).zip(b.chunks(size)).filter(|(a, b)| a != b).count();
        assert!((50..=64).contains(&changed), "{changed}");
        let config = LoaderConfig { strong: true, ..two };
        let mut rest = loader(config).epoch(3, 1);
        assert_eq!(bits(&rest.next().unwrap().unwrap().more_views[0]), b);
        // Without a crop only the operations are left.
        let still = loader(LoaderConfig { augment: Augment::None, ..config }).batch(3, 1).unwrap();
        assert_ne!(bits(&still.images), bits(&still.more_views[0]));
    }

    #[test]
    fn mixtures_are_of_two_images_and_have_the_label_of_the_larger_share() {
        let alone = loader(LoaderConfig { batch_size: 5, seed: 4, ..LoaderConfig::default() });
        let mixed = loader(LoaderConfig { batch_size: 5, seed: 4, mixup: true, ..LoaderConfig::default() });
        let (a, m) = (alone.batch(2, 3).unwrap(), mixed.batch(2, 3).unwrap());
        assert_eq!(a.indices, m.indices);
        let (plain, got) = (values(&a.images), values(&m.images));
        let size = plain.len() / 5;
        let mut shares = Vec::new();
        for i in 0..5 {
            let (own, other) = (&plain[i * size..][..size], &plain[(4 - i) * size..][..size]);
            let share = share(4, 2, 0, a.indices[i]);
            assert!((0.0..1.0).contains(&share));
            for (k, v) in got[i * size..][..size].iter().enumerate() {
                assert!((v - (own[k] * share + other[k] * (1.0 - share))).abs() < 1e-6);
            }
            let expected = if share < 0.5 { a.labels[4 - i] } else { a.labels[i] };
            assert_eq!(m.labels[i], expected);
            shares.push(share);
        }
        let middle = got[2 * size..3 * size].iter().zip(&plain[2 * size..3 * size]);
        assert!(middle.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "the middle one is alone");
        assert_eq!(m.label_tensor.to_vec1::<u32>().unwrap(), m.labels);
        assert!(shares.iter().any(|s| *s != shares[0]));
    }

    #[test]
    fn plain_batches_are_normalised_images_in_order() {
        let l = loader(LoaderConfig {
            batch_size: 10,
            shuffle: false,
            drop_last: true,
            ..LoaderConfig::default()
        });
        let b = l.batch(1, 2).unwrap();
        assert_eq!((l.batches(), b.images.dims()), (15, &[10, 3, 32, 32][..]));
        assert_eq!(b.indices, (20..30).collect::<Vec<_>>());
        let (split, n) = (l.split(), generate(&Options { train: 1, test: 1, seed: 3 }).normalization);
        let got: f32 =
            b.images.get(3).unwrap().get(1).unwrap().get(7).unwrap().get(9).unwrap().to_scalar().unwrap();
        let byte = split.image(23)[(7 * 32 + 9) * 3 + 1];
        assert!((got - (f32::from(byte) / 255.0 - n.mean[1]) / n.std[1]).abs() < 1e-5);
        assert!(l.batch(1, 15).is_err());
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let data = generate(&Options { train: 5, test: 1, seed: 3 });
        let split = Arc::new(data.train);
        let refused = |normalization: Normalization, batch_size| {
            let config = LoaderConfig { batch_size, ..LoaderConfig::default() };
            Loader::new(Arc::clone(&split), &normalization, config).unwrap_err().to_string()
        };
        let message = refused(Normalization::HALF, 100_000_000);
        assert!(["100000000", "65536", "5"].iter().all(|e| message.contains(e)), "{message}");
        assert!(refused(Normalization::HALF, 0).contains("batches of 0"));
        let largest = LoaderConfig { batch_size: MAX_BATCH, ..LoaderConfig::default() };
        assert_eq!(Loader::new(Arc::clone(&split), &Normalization::HALF, largest).unwrap().batches(), 1);
        for bad in [0.0, -0.5, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 1e6] {
            let message = refused(Normalization { std: [0.5, bad, 0.5], ..Normalization::HALF }, 1);
            assert!(message.contains("standard deviation of green"), "{bad}: {message}");
        }
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            let message = refused(Normalization { mean: [0.5, 0.5, bad], ..Normalization::HALF }, 1);
            assert!(message.contains("mean of blue") && message.contains("finite"), "{message}");
        }
    }

    #[test]
    fn stopping_early_is_clean() {
        let l = loader(LoaderConfig { batch_size: 1, ..LoaderConfig::default() });
        for _ in 0..20 {
            let mut epoch = l.epoch(1, 0);
            assert!(epoch.next().is_some());
        }
    }
}
