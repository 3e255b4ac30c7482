//! Knowledge-distillation losses on candle tensors.
//!
//! A loss takes the logits of a student and of its teacher, both [B, C], and gives a scalar that candle differentiates with
//! respect to the student. Networks, data sets and files have no place here.
//!
//! | function | objective | method | loss |
//! |---|---|---|---|
//! | [`cross_entropy`] | [`CrossEntropy`] | `ce` | labels alone, with label smoothing |
//! | [`kd`] | [`Kd`] | `kd` | divergence of the softened outputs (Hinton et al., 2015) |
//! | [`dkd`], [`decoupled`] | [`Dkd`] | `dkd` | the same, decoupled at the label (Zhao et al., 2022) |
//! | [`tckd`], [`nckd`] | [`DkdPart`] | `tckd`, `nckd` | one half of it alone |
//! | [`dist`] | [`Dist`] | `dist` | correlations between classes and between samples (Huang et al., 2022) |
//! | [`nkd`] | [`Nkd`] | `nkd` | normalised: target and renormalised others (Yang et al., 2023) |
//! | [`mlkd`] | [`Mlkd`] | `mlkd` | per sample, batch and class at five temperatures (Jin et al., 2023) |
//! | [`ttm`], [`wttm`] | [`Ttm`] | `ttm`, `wttm` | the teacher's probabilities to a power (Zheng, Yang, 2024) |
//! | [`ctkd`] | [`Ctkd`] | `ctkd` | KD at a temperature learned against the student (Li et al., 2023) |
//! | [`rld`] | [`Rld`] | `rld` | consistent with the label where the teacher errs (Sun et al., 2025) |
//! | | [`Sdd`] | `sdd` | KD, DKD or NKD of the regions of the last map (Luo et al., 2024) |
//! | [`tfkd`] | [`TfKd`] | `tfkd` | a virtual teacher (Yuan et al., 2020) |
//! | | [`FitNet`] | `fitnet` | a hint for one stage (Romero et al., 2015) |
//! | [`attention`] | [`Attention`] | `at` | where the networks look (Zagoruyko, Komodakis, 2017) |
//! | [`nst`] | [`Nst`] | `nst` | what channels respond to (Huang, Wang, 2017) |
//! | [`pkt`] | [`Pkt`] | `pkt` | which samples are neighbours (Passalis, Tefas, 2018) |
//! | [`kdsvd`] | [`KdSvd`] | `kdsvd` | main directions of the stages (Lee et al., 2018) |
//! | [`partial_l2`] | [`Overhaul`] | `ofd` | maps before their ReLU (Heo et al., 2019) |
//! | [`relational`] | [`Rkd`] | `rkd` | distances and angles between samples (Park et al., 2019) |
//! | [`vid()`] | [`Vid`] | `vid` | the teacher's maps predicted, with variances (Ahn et al., 2019) |
//! | [`similarity`] | [`Similarity`] | `sp` | which samples are alike (Tung, Mori, 2019) |
//! | | [`Crd`] | `crd` | contrast with other classes' samples (Tian et al., 2020) |
//! | [`hcl`] | [`ReviewKd`] | `reviewkd` | every level reviewed with the deeper ones (Chen et al., 2021) |
//! | | [`SeedKd`] | `seed_kd` | KD as a small replication wrote it, quirks included |
//! | [`decoupled_reference`] | [`DkdReference`] | `dkd_reference` | DKD in the reference's arithmetic, NaN included |
//!
//! Each of them may see [`standardized`] logits (Sun et al., 2024): [`Part::standardized`] in a [`Distiller`].
//! [`log_softmax`] and [`kl_divergence`] are what others are made of. [`Method`] builds an objective by its name.
//!
//! # The interface
//! An [`Objective`] turns a [`Batch`] into named, weighted [`Term`]s, and [`total`] adds these up; a [`Distiller`] is an
//! objective made of several. An objective may read feature maps ([`Objective::taps`]), own parameters that are optimised
//! with the student's, size them in [`Objective::prepare`], keep buffers for an exact resume, draw random numbers
//! ([`Batch::draw`]), and put terms into groups that are back-propagated apart. All but [`Objective::terms`] and
//! [`Objective::needs_teacher`] have defaults, so a loss of one's own is a few lines:
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use dkd_losses::{
//!     Batch, CrossEntropy, Distiller, Method, Objective, Part, Result, Term, View, Warmup, total,
//! };
//!
//! /// Mean squared difference of the logits.
//! struct LogitDistance;
//!
//! impl Objective for LogitDistance {
//!     fn needs_teacher(&self) -> bool {
//!         true
//!     }
//!     fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
//!         let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("distance")?);
//!         let value = (student - teacher.detach())?.sqr()?.mean_all()?;
//!         Ok(vec![Term::new("distance", value, 1.0)])
//!     }
//! }
//!
//! let mut loss = Distiller::new()
//!     .with(Part::new("ce", CrossEntropy::default()))?
//!     .with(Part::boxed("kd", Method::named("kd")?.build()?).weight(0.9))?
//!     .with(Part::new("distance", LogitDistance).weight(0.1).warmup(Warmup { epochs: 5 }))?;
//! let student = Var::new(&[[2.0_f32, 0.5, -1.0], [0.1, 0.2, 0.3]], &Device::Cpu)?;
//! let teacher = Tensor::new(&[[3.0_f32, 1.0, -2.0], [0.0, 1.0, 2.0]], &Device::Cpu)?;
//! let views = [View::new(student.as_tensor().clone(), Some(teacher))];
//! let labels = Tensor::new(&[0_u32, 2], &Device::Cpu)?;
//! let terms = loss.terms(&Batch { epoch: 3, ..Batch::new(&views, &labels) })?;
//! assert_eq!(terms.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["ce", "kd", "distance"]);
//! let (_, sum) = total(&terms)?.remove(0);
//! assert!(sum.backward()?.get(&student).is_some());
//! # Ok::<(), dkd_losses::Error>(())
//! ```
//!
//! [`register_loss`] gives a function a name, so that configurations of the trainer can use it like the methods above.
//!
//! # Reduction
//! Within a row, a loss is summed over the classes. [`Reduction`] is the divisor of the sum over all rows: B (`batchmean`, as
//! in the papers and in all objectives unless they say otherwise), B C (`mean`, PyTorch's `KLDivLoss` default), or 1 (`sum`).
//! T² is part of a distillation loss, so that its gradient keeps its size when T changes.
//!
//! # Exactness
//! Losses are computed in f64 from log-sum-exp and rounded once, to f32 (f64 for f64 logits). No probability is formed and
//! then taken the logarithm of, and the label is left out of NCKD by gathering around it, not by a large negative number. So
//! value and gradient are finite for all finite logits and every [`Temperature`], the divergences are exactly 0 for identical
//! logits, and `KD = TCKD + (1 - p_y) NCKD` holds row by row.
//!
//! # What is checked
//! Temperatures are valid by construction. Functions and objectives check shapes and labels, and errors name the tensor, the
//! row and what is expected. NaN and infinity in logits are [`Error::NotFinite`] in the functions and in a [`Distiller`], where
//! [`Checks::None`] turns it off; a lone objective leaves it to its caller ([`Batch::check`]). For an experiment may have to
//! show what becomes of a network that has diverged, and there NaN must flow as in PyTorch.

mod batch;
mod check;
mod cross_entropy;
mod ctkd;
mod custom;
mod dist;
mod distiller;
mod dkd;
mod dkd_reference;
mod draw;
mod error;
mod feature;
mod form;
mod kd;
mod method;
mod mlkd;
mod named;
mod nkd;
mod objective;
mod outputs;
mod reduction;
mod rld;
mod sdd;
mod seed;
mod softmax;
mod split;
mod standardize;
mod temperature;
mod tfkd;
mod ttm;
mod warmup;

pub use batch::{Batch, Head, Setup};
pub use check::{Checks, check_finite};
pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use ctkd::{Ctkd, Curriculum, ctkd};
pub use custom::{Custom, LossFunction, register_loss, register_objective};
pub use dist::{Dist, DistWeights, Relations, dist};
pub use distiller::{Distiller, Part};
pub use dkd::{Decoupled, Dkd, DkdPart, DkdWeights, Half, decoupled, dkd, nckd, tckd};
pub use dkd_reference::{DkdReference, decoupled_reference};
pub use draw::{Draw, StepDraw};
pub use error::{Error, Result};
pub use feature::{
    Attention, Crd, CrdSettings, FitNet, KdSvd, Nst, Overhaul, Pkt, Relational, ReviewKd, Rkd, Similarity,
    Vid, attention, hcl, kdsvd, margin, nst, partial_l2, pkt, relational, similarity, vid,
};
pub use form::Form;
pub use kd::{Kd, kd};
pub use method::Method;
pub use mlkd::{Levels, Mlkd, mlkd, mlkd_batch, mlkd_class};
pub use named::{NamedTensors, NoParameters};
pub use nkd::{Nkd, Normalized, nkd};
pub use objective::{Objective, RequiredTaps, Term, total};
pub use outputs::{Outputs, View};
pub use reduction::Reduction;
pub use rld::{Refined, Rld, RldSettings, rld};
pub use sdd::{Scales, Sdd, SddBase, SddSettings};
pub use seed::SeedKd;
pub use softmax::{kl_divergence, log_softmax};
pub use standardize::standardized;
pub use temperature::Temperature;
pub use tfkd::{TfKd, tfkd};
pub use ttm::{Ttm, ttm, wttm};
pub use warmup::Warmup;
