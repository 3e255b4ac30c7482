//! The data streams of one seed.

use crate::record::RowResult;
use crate::{DataRecipe, NormalizationKind, Recipe, Result, Splits};
use dkd_datasets::{Augment, Dataset, Loader, LoaderConfig, Normalization, Split};
use dkd_models::checkpoint::{self, Metadata, Training};
use std::sync::Arc;

/// The streams of one seed.
pub(super) struct Loaders {
    pub train: Loader,
    pub test: Loader,
    pub validation: Option<Loader>,
    pub normalization: Normalization,
    /// Images of the largest batch that there will be.
    pub largest_batch: usize,
}

impl Loaders {
    /// What the file of a trained row's weights says about them.
    pub fn trained(&self, result: &RowResult, run: &str, data: &Dataset) -> Metadata {
        self.metadata(&result.model, data).with_training(&Training {
            run: run.to_owned(),
            row: result.row.clone(),
            loss: result.setting.clone(),
            epochs: result.planned_epochs,
            seed: result.seed,
            test_top1: result.last,
        })
    }

    /// What a file of weights for these images says about them.
    pub fn metadata(&self, model: &str, data: &Dataset) -> Metadata {
        let n = self.normalization;
        let normalization = checkpoint::Normalization { mean: n.mean.to_vec(), std: n.std.to_vec() };
        Metadata::new(model, data.num_classes())
            .with_normalization(&normalization)
            .with_class_names(&data.class_names)
            .with("dataset", &data.name)
            .with_image((3, data.train.height, data.train.width))
    }

    pub fn new(recipe: &Recipe, data: &Dataset, seed: u64) -> Result<Self> {
        let normalization = match recipe.data.normalization {
            NormalizationKind::Dataset => data.normalization,
            NormalizationKind::Half => Normalization::HALF,
        };
        let Splits { train, validation: held, test } = recipe.data.splits(data, seed)?;
        let batch_size = recipe.train.batch_size;
        let largest = train.len().max(test.len()).max(held.as_ref().map_or(0, Split::len));
        let DataRecipe { augment, mixup, .. } = recipe.data;
        let views = recipe.views();
        let training = LoaderConfig {
            batch_size,
            augment,
            mixup,
            views,
            strong: views > 1,
            seed,
            ..LoaderConfig::default()
        };
        let plain = LoaderConfig {
            augment: Augment::None,
            mixup: false,
            shuffle: false,
            views: 1,
            strong: false,
            ..training
        };
        let make = |split, config| Loader::new(Arc::new(split), &normalization, config);
        Ok(Self {
            train: make(train, training)?,
            test: make(test, plain)?,
            validation: held.map(|s| make(s, plain)).transpose()?,
            normalization,
            largest_batch: batch_size.min(largest),
        })
    }
}
