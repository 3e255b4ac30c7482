//! Splits that lie on a device.

use crate::Result;
use candle_core::{Device, Tensor};
use dkd_datasets::{Augment, Loader};
use dkd_kernels::gpu::augment::{self, Batch, State};
use dkd_kernels::gpu::{Element, Machine, View};

/// All images of a loader's split, and how its batches are made of them.
pub(super) struct Images {
    bytes: View,
    labels: View,
    origins: View,
    size: (usize, usize),
    /// Normalised value of each byte.
    table: View,
    /// Samples in the order of an epoch, which is `order_of`.
    order: View,
    order_of: Option<(u32, Vec<u32>)>,
    state: View,
    /// What lies there once all batches that were selected have been made.
    stands: Option<State>,
    /// Of the last batch.
    batch_labels: View,
    augment: augment::Augment,
    seed: u64,
}

fn upload(machine: &dyn Machine, element: Element, bytes: &[u8]) -> Result<View> {
    let n = bytes.len() / element.bytes();
    let view = machine.zeros(element, n)?;
    machine.write(&view, bytes)?;
    Ok(view)
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Images {
    /// Copies a split to the machine; `None` if its batches are not made there: mixed, or of several views.
    pub fn new(machine: &dyn Machine, loader: &Loader) -> Result<Option<Self>> {
        let (split, config) = (loader.split(), loader.config());
        if config.mixup || config.views > 1 || config.drop_last {
            return Ok(None);
        }
        let table: Vec<u8> = loader.tables().as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = |element: Element, n: usize| -> Result<View> { Ok(machine.zeros(element, n)?) };
        Ok(Some(Self {
            bytes: upload(machine, Element::U8, &split.images)?,
            labels: upload(machine, Element::U32, &words(&split.labels))?,
            origins: upload(machine, Element::U32, &words(&split.origin))?,
            size: (split.height, split.width),
            table: upload(machine, Element::F32, &table)?,
            order: zeros(Element::U32, split.len())?,
            order_of: None,
            state: zeros(Element::U64, State::LEN)?,
            stands: None,
            batch_labels: zeros(Element::U32, config.batch_size.min(split.len()))?,
            augment: match config.augment {
                Augment::None => augment::Augment::None,
                Augment::CropFlip => augment::Augment::CropFlip,
            },
            seed: config.seed,
        }))
    }

    /// Says which batch [`Images::make`] makes next, which it then has to do, once. Not part of a recorded step. After one batch comes the
    /// next without a word from here.
    pub fn select(&mut self, machine: &dyn Machine, loader: &Loader, epoch: u32, batch: usize) -> Result<()> {
        if self.order_of.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let order = loader.order(epoch);
            machine.write(&self.order, &words(&order))?;
            self.order_of = Some((epoch, order));
        }
        let (size, all) = (loader.config().batch_size, loader.split().len());
        let start = batch * size;
        let state = State { seed: self.seed, epoch, view: 0, start: start as u64 };
        if self.stands != Some(state) {
            state.write(machine, &self.state)?;
        }
        self.stands = Some(State { start: (start + size).min(all) as u64, ..state });
        Ok(())
    }

    /// Labels `[n]` and positions in the training set of the `n` images that are selected, on the CPU.
    pub fn told(&self, loader: &Loader, batch: usize, n: usize) -> Result<(Tensor, Vec<u32>)> {
        let order = self.order_of.as_ref().map_or(&[][..], |(_, order)| order);
        let (split, start) = (loader.split(), batch * loader.config().batch_size);
        let positions = order.iter().skip(start).take(n).map(|i| *i as usize);
        let (labels, indices): (Vec<u32>, Vec<u32>) =
            positions.map(|i| (split.labels[i], split.origin[i])).unzip();
        Ok((Tensor::from_vec(labels, n, &Device::Cpu)?, indices))
    }

    /// Labels of the batch of `n` images that was made last.
    pub fn labels(&self, n: usize) -> dkd_kernels::gpu::Result<View> {
        self.batch_labels.first(n)
    }

    /// Makes the selected batch of `n` images into `to`, `[n, height, width, 3]`; may be recorded.
    pub fn make(&self, machine: &dyn Machine, n: usize, to: &View) -> dkd_kernels::gpu::Result<()> {
        let data = augment::Images {
            bytes: &self.bytes,
            size: self.size,
            labels: &self.labels,
            origins: &self.origins,
        };
        let batch = Batch {
            order: &self.order,
            state: &self.state,
            table: &self.table,
            augment: self.augment,
            images: to,
            channels: 3,
            labels: &self.labels(n)?,
        };
        augment::augment(machine, &data, &batch)
    }
}
