//! A checked description of a run or a table of runs.

use crate::checkpoint::Policy;
use crate::teacher_cache::{CacheRecipe, Precision};
use crate::{Published, PublishedLog, Result, Schedule, SgdRecipe};
use dkd_datasets::Augment;
use dkd_engine::Mode;
use dkd_losses::{Checks, Distiller, Form, Method, Part, Reduction, SddBase, Warmup};
use dkd_models::Description;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Everything that decides a run's results, besides the data themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Short name: of the configuration file, for folders.
    pub name: String,
    /// Heading of reports.
    pub title: String,
    /// A paragraph for reports.
    pub description: String,
    /// Images.
    pub data: DataRecipe,
    /// Length and order.
    pub train: TrainRecipe,
    /// When checkpoints are written: changes no result.
    pub checkpoints: CheckpointRecipe,
    /// Where the teacher's answers are kept, if they are: changes no result in f32.
    pub cache: Option<CacheRecipe>,
    /// Networks that are not of the list of models, by name.
    pub networks: BTreeMap<String, Description>,
    /// The teacher, if any row needs one.
    pub teacher: Option<TeacherRecipe>,
    /// What is trained; at least one.
    pub rows: Vec<RowRecipe>,
}

impl Recipe {
    /// Views of each image that its batches have.
    pub(crate) fn views(&self) -> usize {
        self.rows.iter().map(|r| r.views).max().unwrap_or(1)
    }

    /// A row whose teacher's answers cannot be kept: those to strongly augmented images are too many.
    pub(crate) fn uncacheable(rows: &[RowRecipe]) -> Option<&RowRecipe> {
        rows.iter().find(|r| r.views > 1 && r.needs_teacher())
    }

    /// What hashes of settings have to say of a network beside its name.
    pub(crate) fn described(&self, model: &str) -> String {
        self.networks.get(model).map_or_else(String::new, |d| format!(" {}", d.to_json()))
    }
}

/// How pixels are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalizationKind {
    /// With the data set's mean and standard deviation.
    Dataset,
    /// With 0.5 and 0.5.
    Half,
}

/// Images.
#[derive(Clone, PartialEq)]
pub struct DataRecipe {
    /// `cifar10`, `cifar100`, `synthetic` or `folder`.
    pub dataset: String,
    /// Rows and columns to which the images of a folder are brought.
    pub image_size: Option<dkd_datasets::folder::Size>,
    /// What is done to training images.
    pub augment: Augment,
    /// Whether a student's training images are mixed in pairs: [`dkd_datasets::LoaderConfig::mixup`].
    pub mixup: bool,
    /// How pixels are normalised.
    pub normalization: NormalizationKind,
    /// Training images held out for choosing an epoch.
    pub validation: usize,
    /// Use only so many training images (before the validation split).
    pub train_limit: Option<usize>,
    /// Use only so many test images.
    pub test_limit: Option<usize>,
}

impl DataRecipe {
    /// As a teacher's own training sees them, which is one with labels: never mixed.
    pub(crate) fn unmixed(&self) -> Self {
        Self { mixup: false, ..self.clone() }
    }
}

// Results are told apart by a hash of this text: a setting that came later is in it only where it is used.
impl fmt::Debug for DataRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("DataRecipe");
        text.field("dataset", &self.dataset);
        if let Some(size) = &self.image_size {
            text.field("image_size", size);
        }
        text.field("augment", &self.augment);
        if self.mixup {
            text.field("mixup", &true);
        }
        text.field("normalization", &self.normalization)
            .field("validation", &self.validation)
            .field("train_limit", &self.train_limit)
            .field("test_limit", &self.test_limit)
            .finish()
    }
}

/// Length and order.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainRecipe {
    /// Epochs.
    pub epochs: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// First seed; further repetitions take the next ones.
    pub seed: u64,
    /// Factor of a row's learning rate each time [`NonFinite::Rewind`] takes it back.
    pub rewind_factor: f64,
}

/// When checkpoints are written, and what happens when one cannot be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckpointRecipe {
    /// When, and which are kept.
    pub policy: Policy,
    /// Whether a checkpoint that cannot be written ends the run. Otherwise the run says so and goes on; older ones stay.
    pub stop_on_failure: bool,
}

/// In which mode the teacher runs while it teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TeacherMode {
    /// Running statistics, no dropout: as it should be.
    Eval,
    /// Batch statistics and dropout: what forgetting `eval()` does.
    Train,
}

impl TeacherMode {
    /// How its network runs.
    pub(crate) fn of_engine(self) -> Mode {
        match self {
            Self::Eval => Mode::Eval,
            Self::Train => Mode::Train,
        }
    }
}

/// The teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherRecipe {
    /// Model.
    pub model: String,
    /// Trained weights; without them it is trained first.
    pub weights: Option<PathBuf>,
    /// Which weights, if the file holds several: [`dkd_models::checkpoint::Select::key`].
    pub key: Option<String>,
    /// Epochs of its own training.
    pub epochs: usize,
    /// Its optimizer.
    pub optimizer: SgdRecipe,
    /// Largest norm of its gradients, if they are clipped.
    pub clip_norm: Option<f64>,
    /// Its schedule.
    pub schedule: Schedule,
    /// Its accuracy elsewhere.
    pub published: Option<Published>,
}

/// What happens when a loss or a gradient is not finite: always before the update that it would spoil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// The whole run ends with an error, before the update.
    Stop,
    /// The row ends, marked as diverged; the others go on.
    Mark,
    /// The row goes on, as PyTorch would: NaN predicts class 0 from there on. Gradients are not looked at.
    Continue,
    /// The batch is left out, for this row: its state is what it was before the batch. After too many in a row the run ends.
    Skip,
    /// The cohort goes back to the beginning of the epoch, and the row goes on from there with a lower learning rate. After
    /// too many times the run ends.
    Rewind,
}

impl NonFinite {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Stop, Self::Mark, Self::Continue, Self::Skip, Self::Rewind];

    /// Name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Mark => "mark",
            Self::Continue => "continue",
            Self::Skip => "skip",
            Self::Rewind => "rewind",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|n| n.name() == name)
    }
}

/// Which number of a row is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Test accuracy after the last epoch.
    Last,
    /// Mean of the test accuracies after every epoch.
    Mean,
}

impl MetricKind {
    /// Name in configuration files and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Mean => "mean",
        }
    }
}

/// One part of a row's loss.
#[derive(Clone, PartialEq)]
pub struct PartRecipe {
    /// Name of its terms.
    pub name: String,
    /// Method with its settings.
    pub method: Method,
    /// Factor of all its terms.
    pub weight: f64,
    /// Growth of the factor over the first epochs.
    pub warmup: Warmup,
    /// Whether it sees standardised logits.
    pub standardize: bool,
    /// A momentum of its own, if it has one.
    pub own_momentum: Option<f64>,
}

/// As derived, but for `standardize` and `own_momentum` where they are not used: [`RowRecipe::settings_sha256`] is made of
/// this, and earlier results keep their hash.
impl fmt::Debug for PartRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("PartRecipe");
        fields.field("name", &self.name).field("method", &self.method);
        fields.field("weight", &self.weight).field("warmup", &self.warmup);
        if self.standardize {
            fields.field("standardize", &true);
        }
        if let Some(momentum) = self.own_momentum {
            fields.field("own_momentum", &momentum);
        }
        fields.finish()
    }
}

/// One student.
#[derive(Clone, Debug, PartialEq)]
pub struct RowRecipe {
    /// Short name: in file names and `--rows`.
    pub id: String,
    /// Place in the table, from 1.
    pub position: usize,
    /// Name in tables.
    pub label: String,
    /// Model.
    pub model: String,
    /// The loss.
    pub parts: Vec<PartRecipe>,
    /// Optimizer.
    pub optimizer: SgdRecipe,
    /// Largest Euclidean norm of all gradients together, if they are clipped.
    pub clip_norm: Option<f64>,
    /// Schedule.
    pub schedule: Schedule,
    /// The teacher's mode.
    pub teacher_mode: TeacherMode,
    /// Views of each image in a step, 1 or 2: the second is strongly augmented ([`dkd_datasets::LoaderConfig::strong`]).
    pub views: usize,
    /// What to do about losses and gradients that are not finite.
    pub nonfinite: NonFinite,
    /// Which number counts.
    pub metric: MetricKind,
    /// Added to the seed of the initial weights: 0 gives all rows the same ones.
    pub seed_offset: u64,
    /// The number to compare with.
    pub published: Option<Published>,
    /// The log to compare with, epoch by epoch.
    pub log: Option<PublishedLog>,
    /// Row of the same table to compare with.
    pub baseline: Option<String>,
    /// Remark for reports.
    pub note: String,
    /// Whether a quick run keeps the row.
    pub quick: bool,
}

impl RowRecipe {
    /// Whether its loss reads the teacher.
    pub fn needs_teacher(&self) -> bool {
        self.parts.iter().any(|p| p.method.needs_teacher())
    }

    /// The momenta of its parts, different ones, in the order of the parts.
    fn momenta(&self) -> Vec<f64> {
        let mut all = Vec::new();
        for part in &self.parts {
            let momentum = part.own_momentum.unwrap_or(self.optimizer.momentum);
            if !all.contains(&momentum) {
                all.push(momentum);
            }
        }
        all
    }

    /// An optimizer for each momentum of the parts, in their order: usually one. Parts of the same momentum share one, which is
    /// the same as one for each. The first has the weight decay.
    pub fn optimizers(&self) -> Vec<SgdRecipe> {
        let momenta = self.momenta().into_iter().enumerate();
        let weight_decay = |i| if i == 0 { self.optimizer.weight_decay } else { 0.0 };
        let all: Vec<SgdRecipe> = momenta
            .map(|(i, momentum)| SgdRecipe { momentum, weight_decay: weight_decay(i), ..self.optimizer })
            .collect();
        if all.is_empty() { vec![self.optimizer] } else { all }
    }

    /// The loss.
    ///
    /// # Errors
    /// Two parts have the same name; a setting is out of range.
    pub fn objective(&self) -> Result<Distiller> {
        // Whether values are finite is seen in the terms, at less cost.
        let mut objective = Distiller::new().checks(Checks::None);
        let momenta = self.momenta();
        for part in &self.parts {
            let built = Part::boxed(part.name.clone(), part.method.build()?);
            let mut built = built.weight(part.weight).warmup(part.warmup);
            // Parts of different momenta are back-propagated apart.
            if momenta.len() > 1 {
                let own = part.own_momentum.unwrap_or(self.optimizer.momentum);
                built = built.group(momenta.iter().position(|m| *m == own).unwrap_or(0));
            }
            objective = objective.with(if part.standardize { built.standardized() } else { built })?;
        }
        Ok(objective)
    }

    /// What decides this row's result in `recipe`, names and remarks aside, as a short hash.
    pub fn settings_sha256(&self, recipe: &Recipe) -> String {
        let teacher = recipe.teacher.as_ref().filter(|_| self.needs_teacher());
        let teacher =
            teacher.map(|t| (&t.model, &t.weights, t.epochs, &t.optimizer, &t.schedule, self.teacher_mode));
        let own =
            (&self.model, &self.parts, &self.optimizer, &self.schedule, self.nonfinite, self.seed_offset);
        let mut text =
            format!("{:?}", (&recipe.data, recipe.train.epochs, recipe.train.batch_size, own, teacher));
        // Later settings count only where they are used: earlier results keep their hash.
        let clips =
            (self.clip_norm, recipe.teacher.as_ref().filter(|_| self.needs_teacher()).map(|t| t.clip_norm));
        if clips.0.is_some() || clips.1.flatten().is_some() {
            text.push_str(&format!(" {clips:?}"));
        }
        if let Some(key) =
            recipe.teacher.as_ref().filter(|_| self.needs_teacher()).and_then(|t| t.key.as_ref())
        {
            text.push_str(&format!(" {key}"));
        }
        if self.views > 1 {
            text.push_str(&format!(" views {}", self.views));
        }
        if self.nonfinite == NonFinite::Rewind {
            text.push_str(&format!(" {}", recipe.train.rewind_factor));
        }
        let halved = recipe.cache.as_ref().is_some_and(|c| c.precision == Precision::F16);
        text.push_str(&recipe.described(&self.model));
        if let Some(teacher) = recipe.teacher.as_ref().filter(|_| self.needs_teacher()) {
            text.push_str(&recipe.described(&teacher.model));
        }
        if halved && self.needs_teacher() && self.teacher_mode == TeacherMode::Eval {
            text.push_str(" f16");
        }
        dkd_files::sha256_bytes(text.as_bytes())[..16].to_owned()
    }

    /// The loss in one line, for tables.
    pub fn setting(&self) -> String {
        let parts = self.parts.iter().map(|p| {
            let weight = if p.weight == 1.0 { String::new() } else { format!("{} x ", p.weight) };
            let warmup = match p.warmup.epochs {
                0 => String::new(),
                n => format!(" with {n} epochs of warm-up"),
            };
            let standardized = if p.standardize { "standardised " } else { "" };
            let momentum = p.own_momentum.map_or_else(String::new, |m| format!(" with momentum {m}"));
            format!("{weight}{standardized}{}{warmup}{momentum}", describe(&p.method))
        });
        let views = if self.views > 1 { ", two views" } else { "" };
        parts.collect::<Vec<_>>().join(" + ") + views
    }
}

fn describe(method: &Method) -> String {
    match method {
        Method::Ce { label_smoothing } if *label_smoothing == 0.0 => "CE".to_owned(),
        Method::Ce { label_smoothing } => format!("CE (smoothing {label_smoothing})"),
        Method::Kd { temperature, .. } => format!("KD (T={})", temperature.get()),
        Method::Tckd { temperature } => format!("TCKD (T={})", temperature.get()),
        Method::Nckd { temperature } => format!("NCKD (T={})", temperature.get()),
        Method::Dist { weights, temperature } => {
            format!("DIST (T={}, beta={}, gamma={})", temperature.get(), weights.beta, weights.gamma)
        }
        Method::Nkd { temperature, gamma } => format!("NKD (T={}, gamma={gamma})", temperature.get()),
        Method::Mlkd { temperature, form } => {
            format!("MLKD (T={} and 2, 3, 5, 6{})", temperature.get(), version(*form))
        }
        Method::Ttm { gamma } => format!("TTM (gamma={gamma})"),
        Method::Wttm { gamma } => format!("WTTM (gamma={gamma})"),
        Method::Ctkd { curriculum: c } => {
            let (low, high) = (c.temperature_min, c.temperature_min + c.temperature_range);
            format!("CTKD (T from {low} to {high}, {} epochs)", c.epochs)
        }
        Method::Rld { settings: s, .. } => {
            let (target, others) = (s.alpha_temperature.get(), s.temperature.get());
            format!("RLD (T={target} and {others}, alpha={}, beta={})", s.alpha, s.beta)
        }
        Method::Sdd { settings: s } => {
            let base = match s.base {
                SddBase::Kd { temperature } => Method::Kd { temperature, reduction: Reduction::BatchMean },
                SddBase::Dkd { weights, temperature } => {
                    Method::Dkd { weights, temperature, warmup: Warmup::NONE }
                }
                SddBase::Nkd { temperature, gamma } => Method::Nkd { temperature, gamma },
            };
            let (scales, weight) = (s.scales, s.complementary_weight);
            format!("SDD (scales {scales:?}, complementary {weight}) of {}", describe(&base))
        }
        Method::TfKd { temperature, confidence, form } => {
            format!("Tf-KD (T={}, confidence={confidence}{})", temperature.get(), version(*form))
        }
        Method::FitNet { layer } => format!("FitNet (stage {layer})"),
        Method::At { power } => format!("AT (p={power})"),
        Method::Nst => "NST".to_owned(),
        Method::Pkt => "PKT".to_owned(),
        Method::KdSvd => "KD-SVD".to_owned(),
        Method::Ofd => "OFD".to_owned(),
        Method::Rkd { distance_weight, angle_weight } => {
            format!("RKD (distance {distance_weight}, angle {angle_weight})")
        }
        Method::Vid { form } => format!("VID{}", version(*form)),
        Method::Sp => "SP".to_owned(),
        Method::Crd { settings: s } => {
            format!("CRD (T={}, {} negatives, {} dimensions)", s.temperature, s.negatives, s.dimension)
        }
        Method::ReviewKd => "ReviewKD".to_owned(),
        Method::Custom(custom) => custom.name().to_owned(),
        Method::SeedKd { temperature, a } => format!("seed's KD (T={}, a={a})", temperature.get()),
        Method::Dkd { weights, temperature, .. } => {
            format!("DKD (T={}, alpha={}, beta={})", temperature.get(), weights.alpha, weights.beta)
        }
        Method::DkdReference { weights, temperature, .. } => {
            let t = temperature.get();
            format!("reference DKD (T={t}, alpha={}, beta={})", weights.alpha, weights.beta)
        }
    }
}

/// What a description says of the form: nothing of the usual one.
fn version(form: Form) -> &'static str {
    match form {
        Form::Paper => "",
        Form::Reference => ", reference",
    }
}
