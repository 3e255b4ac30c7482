//! Training as a recipe says: configuration, cohorts of students that share data and teacher, evaluation, records.
//!
//! A [`Recipe`] comes from a TOML file ([`config`]). [`run`] trains its teacher, if there is one, then all rows together:
//! one data stream, at most one teacher pass per batch and mode, any number of students. What happens is told as typed
//! [`Event`]s to [`Sink`]s; nothing here prints. Results are bit-identical for any number of threads, and a row's results do
//! not depend on which other rows run.
//!
//! ```
//! use dkd_datasets::synthetic;
//! use dkd_trainer::{Context, Silent, config::Config, run};
//! use std::sync::atomic::AtomicBool;
//! let text = "
//!     train = { epochs = 1, batch_size = 16 }
//!     student.model = 'resnet8'
//!     teacher.model = 'resnet8'
//!     loss = [{ method = 'ce' }, { method = 'kd', temperature = 2.0, weight = 0.9 }]
//! ";
//! let recipe = Config::parse(text, "example")?.check()?;
//! let data = synthetic::generate(&synthetic::Options { train: 64, test: 16, seed: 0 });
//! let mut context = Context {
//!     compute: dkd_kernels::Cpu::new(1)?.into(),
//!     sink: &mut Silent,
//!     weights: None,
//!     host: None,
//!     last: None,
//!     stop: &AtomicBool::new(false),
//!     checkpoints: None,
//!     resume: None,
//!     probe: None,
//! };
//! let results = run(&recipe, &data, recipe.train.seed, &mut context)?;
//! assert_eq!(results.iter().map(|r| r.row.as_str()).collect::<Vec<_>>(), ["teacher", "run"]);
//! assert!(results[1].last.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod analysis;
mod assess;
pub mod checkpoint;
mod cohort;
pub mod config;
pub mod debug;
pub mod device_memory;
mod error;
mod evaluate;
mod event;
pub mod memory;
pub mod network;
mod optim;
mod published;
mod recipe;
pub mod record;
mod schedule;
pub mod search;
mod splits;
pub mod teacher_cache;

pub use assess::{Assessment, CONFIDENCE_BINS, ClassSummary, ConfidenceBin, assess};
pub use cohort::{Checkpoints, Context, run};
pub use dkd_engine::gpu::Arithmetic;
pub use error::{Error, Result};
pub use evaluate::{Metrics, evaluate};
pub use event::{Event, Silent, Sink, TermValue};
pub use network::{
    CandleNetwork, Compute, EngineNetwork, Gpu, GpuNetwork, Network, NetworkOptions, register_network,
};
pub use optim::{Sgd, SgdRecipe, clip_scale};
pub use published::{LogPoint, Published, PublishedLog};
pub use recipe::{
    CheckpointRecipe, DataRecipe, MetricKind, NonFinite, NormalizationKind, PartRecipe, Recipe, RowRecipe,
    TeacherMode, TeacherRecipe, TrainRecipe,
};
pub use schedule::{Schedule, Shape as ScheduleShape};
pub use splits::Splits;

/// The examples of the repository's front page.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
