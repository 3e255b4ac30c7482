//! Settings as they stand in files: every key optional, none unknown.

use dkd_models::Description;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// File whose settings this one overrides, relative to this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<PathBuf>,
    /// Short name; the file's name without it.
    pub name: Option<String>,
    /// Heading of reports.
    pub title: Option<String>,
    /// A paragraph for reports.
    pub description: Option<String>,
    /// Images.
    #[serde(default)]
    pub data: RawData,
    /// Length, order, policies.
    #[serde(default)]
    pub train: RawTrain,
    /// When checkpoints are written.
    #[serde(default)]
    pub checkpoints: RawCheckpoints,
    /// Where the teacher's answers are kept.
    #[serde(default)]
    pub cache: RawCache,
    /// Networks of one's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Description>,
    /// Optimizer of all rows and the teacher.
    #[serde(default)]
    pub optimizer: RawOptimizer,
    /// Schedule of all rows and the teacher.
    #[serde(default)]
    pub schedule: RawSchedule,
    /// Student of all rows.
    #[serde(default)]
    pub student: RawStudent,
    /// Teacher.
    pub teacher: Option<RawTeacher>,
    /// Loss of all rows.
    pub loss: Option<Vec<RawLoss>>,
    /// Rows of a table.
    pub rows: Option<Vec<RawRow>>,
}

/// Images.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawData {
    /// `cifar10`, `cifar100`, `synthetic`, `folder`.
    pub dataset: Option<String>,
    /// Side or `HEIGHTxWIDTH`, for `folder`.
    pub image_size: Option<RawImageSize>,
    /// `none`, `crop-flip`.
    pub augment: Option<String>,
    /// Whether a student's images are mixed in pairs.
    pub mixup: Option<bool>,
    /// `dataset`, `half`.
    pub normalization: Option<String>,
    /// Training images held out.
    pub validation: Option<usize>,
    /// Only so many training images.
    pub train_limit: Option<usize>,
    /// Only so many test images.
    pub test_limit: Option<usize>,
}

/// Size of images.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum RawImageSize {
    /// As many rows as columns.
    Side(i64),
    /// `HEIGHTxWIDTH`.
    Sides(String),
}

/// Length, order, policies.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTrain {
    /// Epochs.
    pub epochs: Option<usize>,
    /// Images in a batch.
    pub batch_size: Option<usize>,
    /// Views of each image in a step.
    pub views: Option<usize>,
    /// First seed.
    pub seed: Option<u64>,
    /// `stop`, `mark`, `continue`, `skip`, `rewind`.
    pub nonfinite: Option<String>,
    /// Factor of a row's learning rate each time it is rewound.
    pub rewind_factor: Option<f64>,
    /// `last`, `mean`.
    pub metric: Option<String>,
}

/// When checkpoints are written and which are kept. Nothing here changes a result.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawCheckpoints {
    /// After every so many epochs; 0 for never.
    pub every_epochs: Option<usize>,
    /// After every so many batches; 0 for never.
    pub every_steps: Option<u64>,
    /// When the last one is so old; 0 for never.
    pub every_minutes: Option<f64>,
    /// How many of the newest stay.
    pub keep_last: Option<usize>,
    /// Whether the one with the best validation accuracy stays as well.
    pub keep_best: Option<bool>,
    /// What happens when one cannot be written: `continue`, `stop`.
    pub on_failure: Option<String>,
}

/// Where the teacher's answers are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawCache {
    /// `off`, `f32`, `f16`.
    pub teacher: Option<String>,
    /// Folder.
    pub folder: Option<PathBuf>,
    /// Largest size of one teacher's, in 10^9 bytes.
    pub max_gb: Option<f64>,
}

/// Stochastic gradient descent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOptimizer {
    /// Learning rate.
    pub lr: Option<f64>,
    /// Momentum.
    pub momentum: Option<f64>,
    /// Dampening.
    pub dampening: Option<f64>,
    /// Nesterov momentum.
    pub nesterov: Option<bool>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Largest Euclidean norm of all gradients together; larger ones are scaled down. 0 for none.
    pub clip_norm: Option<f64>,
}

/// Learning rate over time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawSchedule {
    /// `constant`, `milestones`, `cosine`.
    pub kind: Option<String>,
    /// Epochs after which the rate drops.
    pub milestones: Option<Vec<usize>>,
    /// Factor at a milestone.
    pub gamma: Option<f64>,
    /// Factor at the end of a cosine.
    pub last: Option<f64>,
    /// Epochs of linear warm-up.
    pub warmup_epochs: Option<usize>,
}

/// Student.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawStudent {
    /// Model.
    pub model: Option<String>,
}

/// Teacher.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTeacher {
    /// Model.
    pub model: Option<String>,
    /// Trained weights, relative to the file that names them.
    pub weights: Option<PathBuf>,
    /// Which weights, if the file holds several.
    pub key: Option<String>,
    /// `eval`, `train`.
    pub mode: Option<String>,
    /// Epochs of its own training.
    pub epochs: Option<usize>,
    /// Its optimizer, where it differs.
    #[serde(default)]
    pub optimizer: RawOptimizer,
    /// Its schedule, in the place of the rows'.
    pub schedule: Option<RawSchedule>,
    /// Its accuracy elsewhere.
    pub published: Option<RawPublished>,
}

/// One part of a loss.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawLoss {
    /// A name of [`dkd_losses::Method::NAMES`].
    pub method: String,
    /// Name of its terms; the method's.
    pub name: Option<String>,
    /// Factor; [`dkd_losses::Method::usual_weight`] if there is none.
    pub weight: Option<f64>,
    /// Softmax temperature; of CRD's scores.
    pub temperature: Option<f64>,
    /// Weight of the target part (DKD, RLD, SDD).
    pub alpha: Option<f64>,
    /// Weight of the non-target part (DKD, RLD), of the correlation between classes (DIST).
    pub beta: Option<f64>,
    /// Weight of the non-target part (NKD), of the correlation between samples (DIST); exponent (TTM, WTTM).
    pub gamma: Option<f64>,
    /// RLD's temperature of the target part.
    pub alpha_temperature: Option<f64>,
    /// CTKD's lowest temperature.
    pub temperature_min: Option<f64>,
    /// CTKD's highest temperature less the lowest.
    pub temperature_range: Option<f64>,
    /// Epochs until the gradient of CTKD's temperature is fully reversed.
    pub curriculum_epochs: Option<usize>,
    /// The virtual teacher's probability of the label.
    pub confidence: Option<f64>,
    /// `paper`, `reference`.
    pub form: Option<String>,
    /// SDD's loss of a region: `kd`, `dkd`, `nkd`.
    pub base: Option<String>,
    /// SDD's numbers of rows and columns of regions.
    pub scales: Option<Vec<usize>>,
    /// SDD's weight of regions about which the teacher's answer is right where that about the image is wrong, or the reverse.
    pub complementary_weight: Option<f64>,
    /// FitNet's stage.
    pub layer: Option<usize>,
    /// AT's exponent.
    pub power: Option<u32>,
    /// RKD's weight of distances.
    pub distance_weight: Option<f64>,
    /// RKD's weight of angles.
    pub angle_weight: Option<f64>,
    /// CRD's embeddings: their length.
    pub dimension: Option<usize>,
    /// CRD's samples of other classes.
    pub negatives: Option<usize>,
    /// CRD's share of the old value in its memories.
    pub momentum: Option<f64>,
    /// The replication's balance.
    pub a: Option<f64>,
    /// Share of the target spread over all classes.
    pub label_smoothing: Option<f64>,
    /// `batchmean`, `mean`, `sum`.
    pub reduction: Option<String>,
    /// Epochs over which the factor grows.
    pub warmup_epochs: Option<usize>,
    /// Whether it sees standardised logits.
    pub standardize: Option<bool>,
    /// A momentum for its gradient alone, in the place of the optimizer's.
    pub own_momentum: Option<f64>,
}

/// A number from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawPublished {
    /// In percent.
    pub value: f64,
    /// Where it stands.
    pub source: Option<String>,
    /// Remark.
    pub note: Option<String>,
    /// Test accuracy per epoch.
    pub curve: Option<Vec<f64>>,
}

/// The log of one run elsewhere.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawLog {
    /// Where it stands.
    pub source: Option<String>,
    /// Epochs of that run.
    pub epochs: usize,
    /// Its first epochs, all at its initial learning rate.
    pub steady_epochs: usize,
    /// Some of its test accuracies.
    pub points: Vec<RawLogPoint>,
}

/// A test accuracy in a log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawLogPoint {
    /// Epoch, from 1.
    pub epoch: usize,
    /// After it, in percent.
    pub top1: f64,
}

/// One row of a table: what differs from the file's general settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawRow {
    /// Short name.
    pub id: String,
    /// Name in tables.
    pub label: Option<String>,
    /// Student's model.
    pub model: Option<String>,
    /// Loss.
    pub loss: Option<Vec<RawLoss>>,
    /// Optimizer, where it differs.
    #[serde(default)]
    pub optimizer: RawOptimizer,
    /// Schedule, in the place of the general one.
    pub schedule: Option<RawSchedule>,
    /// The teacher's mode.
    pub teacher_mode: Option<String>,
    /// Views of each image in a step.
    pub views: Option<usize>,
    /// What to do about losses that are not finite.
    pub nonfinite: Option<String>,
    /// Which number counts.
    pub metric: Option<String>,
    /// Added to the seed of the initial weights.
    pub seed_offset: Option<u64>,
    /// The number to compare with.
    pub published: Option<RawPublished>,
    /// The log to compare with, epoch by epoch.
    pub log: Option<RawLog>,
    /// Row to compare with.
    pub baseline: Option<String>,
    /// Remark for reports.
    pub note: Option<String>,
    /// Whether `--quick` keeps the row.
    pub quick: Option<bool>,
}
