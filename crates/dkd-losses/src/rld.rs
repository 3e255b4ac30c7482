//! Refined logit distillation: what a teacher that errs says, made consistent with the label.
use candle_core::Tensor;

use crate::check::{check_logits, check_weight, label_values, pair_shape};
use crate::softmax::{kl_sum, log_softmax, narrowed, row_max, scaled_below, widen};
use crate::split::{Partition, Side};
use crate::{Batch, Objective, Result, Temperature, Term, Warmup};

/// What stands in the place of an excluded class's logit, the largest of the others being 0: its exponential is exactly 0.
const EXCLUDED: f64 = -1e9;

/// The two divergences of refined logit distillation, as scalars, T² included. See [`rld`].
#[derive(Clone, Debug)]
pub struct Refined {
    /// Sample confidence.
    pub confidence: Tensor,
    /// Masked correlation.
    pub correlation: Tensor,
}

/// The settings of refined logit distillation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RldSettings {
    /// Weight of the sample confidence.
    pub alpha: f64,
    /// Weight of the masked correlation.
    pub beta: f64,
    /// Softmax temperature of the sample confidence.
    pub alpha_temperature: Temperature,
    /// Softmax temperature of the masked correlation.
    pub temperature: Temperature,
}

impl Default for RldSettings {
    /// The authors' setting on CIFAR-100: alpha = 1, beta = 8, temperatures 1 and 4.
    fn default() -> Self {
        Self { alpha: 1.0, beta: 8.0, alpha_temperature: Temperature::ONE, temperature: Temperature::FOUR }
    }
}

/// Refined logit distillation of `student` and `teacher` logits [B, C], C >= 2, for `labels` `[B]`:
/// - `confidence = Ta² mean_i KL([max p, 1 - max p] || [q_y, 1 - q_y])`: the probability of the teacher's own answer, right or
///   wrong, is the goal for the student's probability of the label; p = softmax(t / Ta), q = softmax(s / Ta);
/// - `correlation = T² mean_i KL(p^ || q^)`, p^ and q^ the softmax at T over the classes that the teacher puts below the
///   label. Where there is none, or one, it is 0.
///
/// Sun, Chen, Lyu, Chen, Chen, Wang: *Knowledge distillation with refined logits* (ICCV 2025); the loss is
/// `alpha confidence + beta correlation`. The authors' program takes logarithms of summed probabilities and hides classes
/// behind -1e9 before the softmax; here both are exact, and value and gradient are finite for all finite logits. The
/// teacher is a constant; computed in f64, result f32 (f64 for f64 logits). Costs O(B C).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Label`](crate::Error::Label),
/// [`Error::LabelType`](crate::Error::LabelType); [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in
/// either network's logits.
pub fn rld(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    alpha_temperature: Temperature,
    temperature: Temperature,
) -> Result<Refined> {
    let parts = rld_unchecked(student, teacher, labels, alpha_temperature, temperature)?;
    check_logits(student, Some(teacher))?;
    Ok(parts)
}

fn rld_unchecked(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    alpha_temperature: Temperature,
    temperature: Temperature,
) -> Result<Refined> {
    let (rows, classes) = pair_shape(student, teacher, 2)?;
    let labels = label_values(labels, rows, classes)?;
    let target = Tensor::from_vec(labels.clone(), (rows, 1), student.device())?;
    let teacher = widen(&teacher.detach())?;
    let mean = |sum: &Tensor, at: Temperature| narrowed(sum, at.squared() / rows as f64, student);

    let answers = Partition::new(teacher.argmax(1)?.to_vec1()?, classes, student.device())?;
    let p = Side::new(&teacher, &answers, alpha_temperature)?.binary()?;
    let labels = Partition::new(labels, classes, student.device())?;
    let q = Side::new(student, &labels, alpha_temperature)?.binary()?;
    let confidence = mean(&kl_sum(&p, &q)?, alpha_temperature)?;

    let below = below_label(&teacher, &target)?;
    let p = log_softmax_among(&teacher, &below, temperature)?;
    let q = log_softmax_among(&widen(student)?, &below, temperature)?;
    Ok(Refined { confidence, correlation: mean(&kl_sum(&p, &q)?, temperature)? })
}

/// Which classes have a smaller logit than the label's, u8 [B, C]. In a row without any it is the label itself: a softmax
/// over one class, whatever it is, is 1 with a gradient of 0.
fn below_label(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let below = logits.broadcast_lt(&logits.gather(target, 1)?)?;
    let none = below.max_keepdim(1)?.eq(0_u8)?;
    let all = Tensor::arange(0, classes as u32, logits.device())?.reshape((1, classes))?;
    let label = all.broadcast_eq(target)?;
    Ok(none.broadcast_as((rows, classes))?.where_cond(&label, &below)?)
}

/// `log softmax(z / T)` over the classes that are `among`, at least one in each row; far below 0 for the others.
fn log_softmax_among(logits: &Tensor, among: &Tensor, temperature: Temperature) -> Result<Tensor> {
    let constant = |value: f64| Tensor::full(value, logits.shape(), logits.device());
    let max = row_max(&among.where_cond(&logits.detach(), &constant(f64::MIN)?)?)?;
    let scaled = scaled_below(logits, &max, temperature)?;
    log_softmax(&among.where_cond(&scaled, &constant(EXCLUDED)?)?, Temperature::ONE)
}

/// The objective of refined logit distillation: terms `confidence` with weight alpha and `correlation` with weight beta, both
/// times the warm-up factor of the epoch. See [`rld`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rld {
    settings: RldSettings,
    warmup: Warmup,
}

impl Rld {
    /// Refined logit distillation with these settings; the authors' warm-up is 20 epochs.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) unless both weights are finite and at least 0.
    pub fn new(settings: RldSettings, warmup: Warmup) -> Result<Self> {
        check_weight("rld", "alpha", settings.alpha)?;
        check_weight("rld", "beta", settings.beta)?;
        Ok(Self { settings, warmup })
    }
}

impl Objective for Rld {
    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let RldSettings { alpha, beta, alpha_temperature, temperature } = self.settings;
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("rld")?);
        let parts = rld_unchecked(student, teacher, batch.labels, alpha_temperature, temperature)?;
        let factor = self.warmup.factor(batch.epoch);
        Ok(vec![
            Term::new("confidence", parts.confidence, alpha * factor),
            Term::new("correlation", parts.correlation, beta * factor),
        ])
    }
}
