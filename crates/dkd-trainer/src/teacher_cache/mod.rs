//! The teacher's answers, kept on the disk.
//!
//! A teacher in evaluation mode says the same to the same picture in every batch, epoch and run. Without augmentation there is
//! one entry for every training image; with random crop and flip, one for every image and view (81 crops, flipped or not), filled
//! as views occur. What is not there yet is computed and stored: nothing has to be prepared, and a run that is killed loses
//! nothing. With [`Precision::F32`] a run has the bits of one without the cache, whatever is in it.
//!
//! An entry holds the logits and the taps that the run's losses read. Two files belong to a cache: `MODEL-KEY.json` says what its
//! values depend on (weights, images, normalisation, augmentation, instruction set), and `MODEL-KEY.entries` holds them. A file that
//! says something else than its name is refused; an entry whose checksum is wrong is computed again. Several runs may use a cache
//! at a time, since all write the same values.

mod description;
mod file;
mod layout;

pub use layout::{CacheLayout, Field, Precision};

use crate::network::{Compute, Network};
use crate::{Recipe, Result, TeacherRecipe};
use candle_core::{Device, Tensor};
use description::Description;
use dkd_datasets::{Augment, Batch, Dataset, Normalization};
use dkd_engine::{DropoutKey, Mode};
use dkd_losses::Outputs;
use file::{EntryFile, Found};
use std::collections::HashMap;
use std::path::PathBuf;

/// Parts of a batch in whose multiples images are computed: the network keeps buffers for every size that occurs.
const PARTS: usize = 8;

/// Where and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheRecipe {
    /// How values are stored.
    pub precision: Precision,
    /// The folder.
    pub folder: PathBuf,
    /// Largest size of one teacher's cache.
    pub max_bytes: u64,
}

impl CacheRecipe {
    /// Folder, if none is given: relative to the one where the program was started, so that runs share it.
    pub const DEFAULT_FOLDER: &str = "runs/teacher-cache";
    /// Largest size, if none is given, in 10^9 bytes.
    pub const DEFAULT_GB: f64 = 4.0;
}

/// One teacher's cache.
#[derive(Debug)]
pub(crate) struct TeacherCache {
    layout: CacheLayout,
    file: EntryFile,
    path: PathBuf,
    augment: Augment,
    seed: u64,
    /// Whether it was told that entries are damaged.
    damage_told: bool,
    /// Set when the disk refused, which is told then: answers are computed from there on.
    broken: bool,
}

/// What a cache's values depend on, besides the layout.
pub(crate) struct Origin<'a> {
    pub recipe: &'a Recipe,
    pub teacher: &'a TeacherRecipe,
    pub weights: &'a HashMap<String, Tensor>,
    pub data: &'a Dataset,
    pub normalization: &'a Normalization,
    pub compute: &'a Compute,
    pub seed: u64,
}

impl TeacherCache {
    /// Opens the cache of a teacher, or begins it.
    ///
    /// # Errors
    /// Files of the same name that belong to something else, or cannot be read or written.
    pub fn open(settings: &CacheRecipe, layout: CacheLayout, origin: &Origin<'_>) -> Result<Self> {
        let description = Description::new(origin, &layout)?;
        let base = description.path(&settings.folder);
        description.claim(&base.with_extension("json"))?;
        let path = base.with_extension("entries");
        let file = EntryFile::open(&path, layout.payload(), layout.file_bytes())?;
        tracing::info!("teacher's cache: {}, at most {}", path.display(), layout.size());
        let augment = origin.recipe.data.augment;
        Ok(Self { layout, file, path, augment, seed: origin.seed, damage_told: false, broken: false })
    }

    /// What `network` in evaluation mode says to a batch, as far as possible without asking it.
    ///
    /// # Errors
    /// The network's.
    pub fn answer(
        &mut self,
        network: &mut dyn Network,
        batch: &Batch,
        epoch: usize,
        key: DropoutKey,
    ) -> Result<Outputs> {
        let n = batch.indices.len();
        let view = |origin: &u32| self.augment.view_number(self.seed, epoch as u32, 0, *origin) as u64;
        let entries: Vec<u64> = batch
            .indices
            .iter()
            .map(|origin| u64::from(*origin) * self.layout.views as u64 + view(origin))
            .collect();
        let mut values: Vec<Vec<f32>> =
            self.layout.fields.iter().map(|f| vec![0.0; n * f.values()]).collect();
        let missing: Vec<usize> = (0..n).filter(|i| !self.read(entries[*i], *i, &mut values)).collect();
        if let Some(first) = missing.first() {
            let part = n.div_ceil(PARTS);
            let size = missing.len().div_ceil(part) * part;
            let mut asked: Vec<u32> = missing.iter().map(|i| *i as u32).collect();
            asked.resize(size, *first as u32);
            if size >= n {
                asked = (0..n as u32).collect();
                network.forward(&batch.images, Mode::Eval, key)?;
            } else {
                // Images lie with channels innermost.
                let chosen = Tensor::from_slice(&asked, size, &Device::Cpu)?;
                let images = batch.images.permute((0, 2, 3, 1))?.index_select(&chosen, 0)?;
                network.forward(&images.permute((0, 3, 1, 2))?, Mode::Eval, key)?;
            }
            self.take(network, &asked, &mut values)?;
            for i in missing {
                self.write(entries[i], i, &values);
            }
        }
        let fields = self.layout.fields.iter().zip(values);
        let mut tensors = fields.map(|(field, values)| tensor(field, n, values));
        let logits = tensors.next().transpose()?;
        let mut outputs = Outputs::new(logits.expect("the first field is the logits"));
        for (field, tensor) in self.layout.fields[1..].iter().zip(tensors) {
            outputs.taps.insert(field.name.clone(), tensor?.contiguous()?);
        }
        Ok(outputs)
    }

    /// Copies what the network says to the images `asked` to their places.
    fn take(&self, network: &dyn Network, asked: &[u32], values: &mut [Vec<f32>]) -> Result<()> {
        for (k, (field, values)) in self.layout.fields.iter().zip(values).enumerate() {
            let answer = if k == 0 { network.logits()? } else { network.tap(&field.name)? };
            let answer = match answer.dims().len() {
                4 => answer.permute((0, 2, 3, 1))?,
                _ => answer,
            };
            let answer = answer.detach().flatten_all()?.to_vec1::<f32>()?;
            let size = field.values();
            for (from, i) in answer.chunks_exact(size).zip(asked) {
                let to = &mut values[*i as usize * size..][..size];
                self.layout.precision.round(from, to);
            }
        }
        Ok(())
    }

    /// Reads an entry to the place of image `i`; whether it was there.
    fn read(&mut self, entry: u64, i: usize, values: &mut [Vec<f32>]) -> bool {
        if self.broken {
            return false;
        }
        match self.file.read(entry) {
            Ok(Found::Entry) => {}
            Ok(Found::Nothing) => return false,
            Ok(Found::Damage) => {
                if !std::mem::replace(&mut self.damage_told, true) {
                    self.warn("has damaged entries, which are computed again");
                }
                return false;
            }
            Err(e) => {
                self.give_up("read", &e);
                return false;
            }
        }
        let mut bytes: &[u8] = self.file.payload();
        for (field, values) in self.layout.fields.iter().zip(values) {
            let size = field.values();
            let (own, rest) = bytes.split_at(size * self.layout.precision.bytes());
            bytes = rest;
            self.layout.precision.decode(own, &mut values[i * size..][..size]);
        }
        true
    }

    /// Stores the values of image `i`. A disk that is full costs time in later epochs, never the run.
    fn write(&mut self, entry: u64, i: usize, values: &[Vec<f32>]) {
        if self.broken {
            return;
        }
        let mut bytes = self.file.payload();
        for (field, values) in self.layout.fields.iter().zip(values) {
            let size = field.values();
            let (own, rest) = bytes.split_at_mut(size * self.layout.precision.bytes());
            bytes = rest;
            self.layout.precision.encode(&values[i * size..][..size], own);
        }
        if let Err(e) = self.file.write(entry) {
            self.give_up("written", &e);
        }
    }

    /// The file is of no use any more.
    fn give_up(&mut self, what: &str, error: &std::io::Error) {
        self.broken = true;
        self.warn(&format!("cannot be {what} any more ({error}): the teacher is asked instead"));
    }

    fn warn(&self, message: &str) {
        tracing::warn!("teacher's cache {} {message}", self.path.display());
    }
}

/// Values of `n` images as a network gives them: a map lies with channels innermost and is seen as NCHW.
fn tensor(field: &Field, n: usize, values: Vec<f32>) -> Result<Tensor> {
    Ok(match field.dims[..] {
        [c, h, w] => Tensor::from_vec(values, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?,
        _ => Tensor::from_vec(values, [&[n], &field.dims[..]].concat(), &Device::Cpu)?,
    })
}
