//! Labelled images: CIFAR-10, CIFAR-100, folders of image files and generated ones; download, augmentation, batches.
//!
//! Images stay as bytes until a batch is made. Batch k of epoch e is a pure function of (seed, e, k): it depends neither on
//! threads nor on what was read before, so a run can continue at any batch.
//!
//! [`fetch`](fetch::fetch) downloads an archive over connections that break and from servers that nobody vouches for: it goes
//! on where it was, checks before it unpacks, and leaves what is there alone until all of the new is there.
//!
//! ```
//! use dkd_datasets::{Augment, Loader, LoaderConfig, synthetic};
//! use std::sync::Arc;
//! let data = synthetic::generate(&synthetic::Options { train: 256, test: 64, seed: 1 });
//! let config = LoaderConfig { batch_size: 64, augment: Augment::CropFlip, seed: 7, ..LoaderConfig::default() };
//! let loader = Loader::new(Arc::new(data.train), &data.normalization, config)?;
//! for batch in loader.epoch(1, 0) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims(), [64, 3, 32, 32]);
//!     assert_eq!(batch.indices.len(), 64);
//! }
//! # Ok::<(), dkd_datasets::Error>(())
//! ```

mod augment;
#[cfg(feature = "candle-datasets")]
pub mod candle;
mod cifar;
mod dataset;
mod decode;
mod error;
pub mod fetch;
mod find;
pub mod folder;
mod holdout;
mod loader;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod picture;
mod place;
mod spec;
mod strong;
pub mod synthetic;

pub use augment::{Augment, augment_image, crop_flip};
pub use cifar::{decode_file, read};
pub use dataset::{Dataset, Normalization, Split};
pub use error::{Error, Result};
pub use find::{PARQUET, Source, find, has_any_size};
pub use holdout::hold_out;
pub use loader::{Batch, Epoch, Loader, LoaderConfig, MAX_BATCH};
pub use spec::{CIFAR10, CIFAR100, DataFile, DatasetSpec, spec};
