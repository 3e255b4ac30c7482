//! Normalised knowledge distillation: the target weighted by the teacher's confidence, the others renormalised.
use candle_core::Tensor;

use crate::check::{check_logits, check_weight, label_values, pair_shape};
use crate::softmax::{expected_log, narrowed};
use crate::split::{Partition, Side};
use crate::{Batch, Objective, Result, Temperature, Term};

/// The two cross-entropies that NKD is made of, as scalars, T² included in the second. See [`nkd`].
#[derive(Clone, Debug)]
pub struct Normalized {
    /// Of the label's class, at T = 1.
    pub target: Tensor,
    /// Among the other classes.
    pub nontarget: Tensor,
}

/// NKD of `student` and `teacher` logits [B, C], C >= 2, for `labels` `[B]`: `target = mean_i -p_y log q_y` with
/// p = softmax(t), q = softmax(s), and `nontarget = T² mean_i -sum_{j != y} p^_j log q^_j` with p^ and q^ the softmax at T
/// over the C - 1 classes that are not the label.
///
/// Yang, Zeng, Li, Zhang, Yuan, Li: *From knowledge distillation to self-knowledge distillation: a unified approach with
/// normalized loss and customized soft labels* (ICCV 2023); the loss is `target + gamma nontarget`. Both are
/// cross-entropies, not divergences: they do not reach 0 at identical logits. With C = 2, `nontarget` is 0. The label is
/// left out by gathering around it. The teacher is a constant; computed in f64, result f32 (f64 for f64 logits); value and
/// gradient are finite for all finite logits. Costs O(B C).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Label`](crate::Error::Label),
/// [`Error::LabelType`](crate::Error::LabelType); [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in
/// either network's logits.
pub fn nkd(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
) -> Result<Normalized> {
    let parts = nkd_unchecked(student, teacher, labels, temperature)?;
    check_logits(student, Some(teacher))?;
    Ok(parts)
}

fn nkd_unchecked(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    temperature: Temperature,
) -> Result<Normalized> {
    let (rows, classes) = pair_shape(student, teacher, 2)?;
    let partition = Partition::new(label_values(labels, rows, classes)?, classes, student.device())?;
    let teacher = teacher.detach();
    let sides = |at| -> Result<(Side, Side)> {
        Ok((Side::new(&teacher, &partition, at)?, Side::new(student, &partition, at)?))
    };
    let mean = |sum: Tensor, factor: f64| narrowed(&sum, -factor / rows as f64, student);
    let (p, q) = sides(Temperature::ONE)?;
    let target = expected_log(&p.log_target()?, &q.log_target()?)?.sum_all()?;
    let (p, q) = sides(temperature)?;
    let nontarget = expected_log(&p.among_others()?, &q.among_others()?)?.sum_all()?;
    Ok(Normalized { target: mean(target, 1.0)?, nontarget: mean(nontarget, temperature.squared())? })
}

/// The objective of NKD: terms `target` with weight 1 and `nontarget` with weight gamma. See [`nkd`].
///
/// The paper's setting is gamma = 1.5 at T = 1, beside a cross-entropy of weight 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nkd {
    temperature: Temperature,
    gamma: f64,
}

impl Nkd {
    /// NKD at this temperature with this weight of the other classes.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) unless gamma is finite and at least 0.
    pub fn new(temperature: Temperature, gamma: f64) -> Result<Self> {
        check_weight("nkd", "gamma", gamma)?;
        Ok(Self { temperature, gamma })
    }
}

impl Objective for Nkd {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("nkd")?);
        let parts = nkd_unchecked(student, teacher, batch.labels, self.temperature)?;
        Ok(vec![Term::new("target", parts.target, 1.0), Term::new("nontarget", parts.nontarget, self.gamma)])
    }
}
