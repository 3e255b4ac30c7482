//! Images and labels in memory.

use crate::{Error, Result};

/// Per-channel mean and standard deviation of pixels in [0, 1]: the network sees `(value / 255 - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Means of red, green, blue.
    pub mean: [f32; 3],
    /// Standard deviations of red, green, blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// Mean 0.5 and standard deviation 0.5 for every channel: pixels become -1 to 1.
    pub const HALF: Self = Self { mean: [0.5; 3], std: [0.5; 3] };

    /// Whether every pixel gets a finite value.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the first channel whose mean is not finite, or whose standard deviation is not, is not
    /// above 0, or is so small that pixels become infinite.
    pub fn check(&self) -> Result<()> {
        let tables = self.tables();
        for (c, channel) in ["red", "green", "blue"].iter().enumerate() {
            let (mean, std) = (self.mean[c], self.std[c]);
            if !mean.is_finite() {
                return Err(Error::Invalid(format!(
                    "normalisation: the mean of {channel} is {mean}, expected a finite number such as 0.5"
                )));
            }
            if !(std > 0.0 && std.is_finite() && tables[c].iter().all(|v| v.is_finite())) {
                return Err(Error::Invalid(format!(
                    "normalisation: the standard deviation of {channel} is {std}, expected a finite number above 0 such as \
                     0.25"
                )));
            }
        }
        Ok(())
    }

    /// The normalised value of each byte, by channel.
    pub(crate) fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            std::array::from_fn(|v| {
                ((v as f64 / 255.0 - f64::from(self.mean[c])) / f64::from(self.std[c])) as f32
            })
        })
    }
}

/// Labelled images of one size, as bytes, channels innermost.
#[derive(Clone, PartialEq, Eq)]
pub struct Split {
    /// `[n, height, width, 3]`.
    pub images: Vec<u8>,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Position of each image in the split as it was read: stays the same when a part is held out.
    pub origin: Vec<u32>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Number of classes.
    pub num_classes: usize,
}

impl Split {
    /// A split from its parts; image i is number i.
    ///
    /// # Errors
    /// [`Error::Invalid`] if lengths or labels do not fit.
    pub fn new(
        images: Vec<u8>,
        labels: Vec<u32>,
        height: usize,
        width: usize,
        num_classes: usize,
    ) -> Result<Self> {
        let size = height * width * 3;
        if images.len() != labels.len() * size {
            return Err(Error::Invalid(format!(
                "{} bytes are not {} images of {height}x{width}x3",
                images.len(),
                labels.len()
            )));
        }
        if let Some(i) = labels.iter().position(|l| *l as usize >= num_classes) {
            return Err(Error::Invalid(format!(
                "label {} of image {i} is not below {num_classes}",
                labels[i]
            )));
        }
        let origin = (0..labels.len() as u32).collect();
        Ok(Self { images, labels, origin, height, width, num_classes })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.height * self.width * 3
    }

    /// Image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_bytes()..(i + 1) * self.image_bytes()]
    }

    /// The images at `positions`, which keep their origin.
    pub fn select(&self, positions: &[usize]) -> Self {
        let mut images = Vec::with_capacity(positions.len() * self.image_bytes());
        positions.iter().for_each(|i| images.extend_from_slice(self.image(*i)));
        Self {
            images,
            labels: positions.iter().map(|i| self.labels[*i]).collect(),
            origin: positions.iter().map(|i| self.origin[*i]).collect(),
            ..*self
        }
    }

    /// The first `n` images, or all.
    pub fn first(&self, n: usize) -> Self {
        self.select(&(0..n.min(self.len())).collect::<Vec<_>>())
    }
}

impl std::fmt::Debug for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Split({} images of {}x{}, {} classes)",
            self.len(),
            self.height,
            self.width,
            self.num_classes
        )
    }
}

/// A training and a test split.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// `cifar10`, `cifar100`, `synthetic`.
    pub name: String,
    /// Training images.
    pub train: Split,
    /// Test images.
    pub test: Split,
    /// Name of each class, or its number if the names are unknown.
    pub class_names: Vec<String>,
    /// The data set's own normalisation.
    pub normalization: Normalization,
}

impl Dataset {
    /// Whether the images were generated rather than photographed.
    pub fn is_synthetic(&self) -> bool {
        self.name == crate::synthetic::NAME
    }

    /// Number of classes.
    pub fn num_classes(&self) -> usize {
        self.train.num_classes
    }

    /// SHA-256 over images and labels of both splits: which data a result belongs to.
    pub fn fingerprint(&self) -> String {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        for split in [&self.train, &self.test] {
            digest.update(&split.images);
            split.labels.iter().for_each(|l| digest.update(l.to_le_bytes()));
        }
        hex::encode(digest.finalize())
    }
}
