//! What an entry of the cache holds, and how large the whole may become.

use crate::cohort::{Shapes, Told};
use crate::error::bytes;
use crate::{Error, Recipe, Result, TeacherMode};
use dkd_datasets::Dataset;
use dkd_kernels::Cpu;
use dkd_losses::Objective;
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As they are: a run with the cache has the bits of one without.
    F32,
    /// Rounded to half precision, those of the teacher's first answer as well: half the space, and results do not depend on
    /// what is in the cache already, but differ from those without it.
    F16,
}

impl Precision {
    /// Name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// Copies values as they will be read again.
    pub(super) fn round(self, from: &[f32], to: &mut [f32]) {
        match self {
            Self::F32 => to.copy_from_slice(from),
            Self::F16 => to.iter_mut().zip(from).for_each(|(t, v)| *t = f16::from_f32(*v).to_f32()),
        }
    }

    /// Values from their stored form.
    pub(super) fn decode(self, from: &[u8], to: &mut [f32]) {
        match self {
            Self::F32 => {
                to.iter_mut().zip(from.as_chunks().0).for_each(|(t, b)| *t = f32::from_le_bytes(*b));
            }
            Self::F16 => {
                to.iter_mut().zip(from.as_chunks().0).for_each(|(t, b)| *t = f16::from_le_bytes(*b).to_f32());
            }
        }
    }

    /// The stored form of values.
    pub(super) fn encode(self, from: &[f32], to: &mut [u8]) {
        match self {
            Self::F32 => {
                to.as_chunks_mut().0.iter_mut().zip(from).for_each(|(b, v)| *b = v.to_le_bytes());
            }
            Self::F16 => {
                let values = from.iter().map(|v| f16::from_f32(*v).to_le_bytes());
                to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = v);
            }
        }
    }

    /// Bytes of a value.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// The logits or a tap of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// `logits`, or the tap's name.
    pub name: String,
    /// Its dimensions, without the batch: `[classes]`, `[c, h, w]`, `[features]`.
    pub dims: Vec<usize>,
}

impl Field {
    /// Number of values.
    pub(super) fn values(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The shape of a cache: an entry for every view of every training image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayout {
    /// What an entry holds: the logits, and the taps that losses read.
    pub fields: Vec<Field>,
    /// Training images.
    pub images: usize,
    /// Views of an image: [`dkd_datasets::Augment::views`].
    pub views: usize,
    /// How values are stored.
    pub precision: Precision,
}

impl CacheLayout {
    /// What the cache of `recipe` will hold for these images; `None` if it has none, or no row reads a teacher in evaluation
    /// mode: a teacher in training mode answers differently in every batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it may become larger than the recipe allows; a network or a loss cannot be built.
    pub fn of(recipe: &Recipe, data: &Dataset) -> Result<Option<Self>> {
        if recipe.cache.is_none() {
            return Ok(None);
        }
        let told =
            Told { recipe, data, compute: &Cpu::new(1)?.into(), seed: 0, teacher: &Shapes::of_teacher(recipe, data)? };
        let mut taps = BTreeSet::new();
        for row in recipe.rows.iter().filter(|r| r.needs_teacher()) {
            taps.extend(told.objective(row, &recipe.architecture(&row.model, data)?)?.taps().teacher);
        }
        Self::with_taps(recipe, data, taps)
    }

    /// The same for a caller that knows which of the teacher's taps the rows read.
    pub(crate) fn with_taps(
        recipe: &Recipe,
        data: &Dataset,
        taps: impl IntoIterator<Item = String>,
    ) -> Result<Option<Self>> {
        let (Some(cache), Some(teacher)) = (&recipe.cache, &recipe.teacher) else { return Ok(None) };
        if !recipe.rows.iter().any(|r| r.needs_teacher() && r.teacher_mode == TeacherMode::Eval) {
            return Ok(None);
        }
        let shapes = recipe.architecture(&teacher.model, data)?.taps();
        let mut fields = vec![Field { name: "logits".to_owned(), dims: vec![data.num_classes()] }];
        for tap in taps {
            let dims = shapes.get(&tap).ok_or_else(|| Error::NoTaps { tap: tap.clone() })?.clone();
            fields.push(Field { name: tap, dims });
        }
        let (images, views) = (data.train.len(), recipe.data.augment.views());
        let layout = Self { fields, images, views, precision: cache.precision };
        if layout.file_bytes() > cache.max_bytes {
            return Err(Error::Invalid(format!(
                "the teacher's cache may become {}, more than the {} of cache.max_gb: raise it, store `f16`, or do without \
                 (cache.teacher = \"off\")",
                layout.size(),
                bytes(cache.max_bytes)
            )));
        }
        Ok(Some(layout))
    }

    /// Bytes of memory that a run with batches of `batch` images takes for the cache: the values that were read, as the losses
    /// see them, and the network's buffers for parts of a batch.
    pub(crate) fn memory(&self, batch: usize) -> usize {
        let parts = super::PARTS.div_ceil(2);
        batch.saturating_mul(self.values()).saturating_mul((2 + parts) * size_of::<f32>())
    }

    /// Values of an entry.
    pub(super) fn values(&self) -> usize {
        self.fields.iter().map(Field::values).sum()
    }

    /// Bytes of an entry's values.
    pub(super) fn payload(&self) -> usize {
        self.values() * self.precision.bytes()
    }

    /// Entries.
    pub(super) fn entries(&self) -> u64 {
        self.images as u64 * self.views as u64
    }

    /// Bytes of a file with all entries; one with fewer takes less where the file system knows holes.
    pub fn file_bytes(&self) -> u64 {
        self.entries().saturating_mul((self.payload() + super::file::HEADER) as u64)
    }

    /// The size in words: `324 MB (50000 images x 162 views x 48 bytes)`.
    pub fn size(&self) -> String {
        let entry = self.payload() + super::file::HEADER;
        format!(
            "{} ({} images x {} views x {entry} bytes)",
            bytes(self.file_bytes()),
            self.images,
            self.views
        )
    }
}
