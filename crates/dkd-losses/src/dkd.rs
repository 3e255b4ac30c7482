//! Decoupled knowledge distillation: KD's target part and non-target part, each with its own weight.
use candle_core::Tensor;

use crate::check::{check_logits, label_values, pair_shape};
use crate::softmax::{kl_sum, narrowed};
use crate::split::{Partition, Side};
use crate::{Batch, Objective, Reduction, Result, Temperature, Term, Warmup};

/// The two divergences that KD is made of, as scalars, T² included.
///
/// Row by row, `KD = TCKD + (1 - p_y) NCKD` with p_y the teacher's probability of the label: a confident teacher
/// silences its own non-target knowledge, which is why the two are weighted separately.
#[derive(Clone, Debug)]
pub struct Decoupled {
    /// Target class against all others together. See [`tckd`].
    pub tckd: Tensor,
    /// The distribution among the other classes. See [`nckd`].
    pub nckd: Tensor,
}

/// The weights of DKD's two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DkdWeights {
    /// Weight of TCKD.
    pub alpha: f64,
    /// Weight of NCKD.
    pub beta: f64,
}

impl Default for DkdWeights {
    /// The paper's setting for ResNet32x4 to ResNet8x4 on CIFAR-100: alpha = 1, beta = 8.
    fn default() -> Self {
        Self { alpha: 1.0, beta: 8.0 }
    }
}

/// TCKD and NCKD of `student` and `teacher` logits [B, C], C >= 2, for `labels` `[B]`.
///
/// Zhao et al.: *Decoupled knowledge distillation* (CVPR 2022). The label's logit is left out of the other classes'
/// log-sum-exp exactly (gathered around, not masked by a constant), and the binary distribution comes from the two
/// numbers `z_y / T` and `log sum_{j != y} exp(z_j / T)` by log-softmax. So no probability is ever summed and then
/// taken the logarithm of: value and gradient are finite for all finite logits. Computed in f64; results are f32
/// (f64 for f64 logits), exactly 0 for identical logits. The teacher is a constant.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Label`](crate::Error::Label),
/// [`Error::LabelType`](crate::Error::LabelType); [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in
/// either network's logits.
pub fn decoupled(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Decoupled> {
    Split::of_finite(student, teacher, labels, temperature, reduction)?.both()
}

/// Target-class distillation: `T² reduce_i KL(b^t_i || b^s_i)` with `b = [p_y, 1 - p_y]`, p = softmax(z / T).
///
/// Arguments, precision and errors as for [`decoupled`].
pub fn tckd(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Tensor> {
    Split::of_finite(student, teacher, labels, temperature, reduction)?.tckd()
}

/// Non-target-class distillation: `T² reduce_i KL(p^_i || q^_i)`, p^ and q^ the softmax over the C - 1 classes that are
/// not the label.
///
/// With C = 2 there is one other class: exactly 0, with a gradient of exactly 0. The label's own logit never gets a
/// gradient. Arguments, precision and errors as for [`decoupled`].
pub fn nckd(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Tensor> {
    Split::of_finite(student, teacher, labels, temperature, reduction)?.nckd()
}

/// `DKD = alpha TCKD + beta NCKD`, a scalar. Arguments, precision and errors as for [`decoupled`].
pub fn dkd(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    weights: DkdWeights,
    temperature: Temperature,
    reduction: Reduction,
) -> Result<Tensor> {
    let parts = decoupled(student, teacher, labels, temperature, reduction)?;
    Ok(((parts.tckd * weights.alpha)? + (parts.nckd * weights.beta)?)?)
}

/// Both networks' logits, split at the labels.
struct Split<'a> {
    student: Side,
    teacher: Side,
    scale: f64,
    like: &'a Tensor,
}

impl<'a> Split<'a> {
    /// [`Split::new`] of logits without NaN and infinity.
    fn of_finite(
        student: &'a Tensor,
        teacher: &Tensor,
        labels: &Tensor,
        temperature: Temperature,
        reduction: Reduction,
    ) -> Result<Self> {
        let split = Self::new(student, teacher, labels, temperature, reduction)?;
        check_logits(student, Some(teacher))?;
        Ok(split)
    }

    fn new(
        student: &'a Tensor,
        teacher: &Tensor,
        labels: &Tensor,
        temperature: Temperature,
        reduction: Reduction,
    ) -> Result<Self> {
        let (rows, classes) = pair_shape(student, teacher, 2)?;
        let labels = label_values(labels, rows, classes)?;
        let partition = Partition::new(labels, classes, student.device())?;
        Ok(Self {
            student: Side::new(student, &partition, temperature)?,
            teacher: Side::new(&teacher.detach(), &partition, temperature)?,
            scale: temperature.squared() / reduction.divisor(rows, classes),
            like: student,
        })
    }

    fn both(&self) -> Result<Decoupled> {
        Ok(Decoupled { tckd: self.tckd()?, nckd: self.nckd()? })
    }

    fn tckd(&self) -> Result<Tensor> {
        let sum = kl_sum(&self.teacher.binary()?, &self.student.binary()?)?;
        narrowed(&sum, self.scale, self.like)
    }

    fn nckd(&self) -> Result<Tensor> {
        let sum = kl_sum(&self.teacher.among_others()?, &self.student.among_others()?)?;
        narrowed(&sum, self.scale, self.like)
    }
}

/// The objective of decoupled distillation: terms `tckd` with weight alpha and `nckd` with weight beta, both times the
/// warm-up factor of the epoch. Reduced by [`Reduction::BatchMean`].
///
/// The paper trains with `CE + warm-up * DKD`; the cross-entropy is a part of its own in a
/// [`Distiller`](crate::Distiller).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dkd {
    /// Weights of the two parts.
    pub weights: DkdWeights,
    /// Softmax temperature T.
    pub temperature: Temperature,
    /// Growth of both weights over the first epochs.
    pub warmup: Warmup,
}

impl Objective for Dkd {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("dkd")?);
        let split = Split::new(student, teacher, batch.labels, self.temperature, Reduction::BatchMean)?;
        let parts = split.both()?;
        let factor = self.warmup.factor(batch.epoch);
        Ok(vec![
            Term::new("tckd", parts.tckd, self.weights.alpha * factor),
            Term::new("nckd", parts.nckd, self.weights.beta * factor),
        ])
    }
}

/// One half of DKD alone, for studying what each contributes: a single term.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DkdPart {
    /// Which half.
    pub half: Half,
    /// Softmax temperature T.
    pub temperature: Temperature,
}

/// Which half of DKD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Target class against the rest: term `tckd`.
    Target,
    /// Among the other classes: term `nckd`.
    NonTarget,
}

impl Objective for DkdPart {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let name = match self.half {
            Half::Target => "tckd",
            Half::NonTarget => "nckd",
        };
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits(name)?);
        let split = Split::new(student, teacher, batch.labels, self.temperature, Reduction::BatchMean)?;
        let value = match self.half {
            Half::Target => split.tckd()?,
            Half::NonTarget => split.nckd()?,
        };
        Ok(vec![Term::new(name, value, 1.0)])
    }
}
