//! Multi-level logit distillation: predictions aligned per sample, per batch and per class, at several temperatures.
use candle_core::Tensor;

use crate::check::{check_logits, pair_shape};
use crate::kd::kd_unchecked;
use crate::softmax::{kl_sum, log_softmax, narrowed, widen};
use crate::{Batch, Form, Objective, Reduction, Result, Temperature, Term};

/// The temperatures besides the one that is set.
const FURTHER: [f64; 4] = [3.0, 5.0, 2.0, 6.0];

/// How many of [`FURTHER`] the authors' program applies to the second view; it applies the rest to the first once more.
const FURTHER_OF_SECOND: usize = 2;

/// The three levels of alignment, as scalars. See [`mlkd`].
#[derive(Clone, Debug)]
pub struct Levels {
    /// Sample by sample: KD.
    pub instance: Tensor,
    /// Between the samples of a batch.
    pub batch: Tensor,
    /// Between the classes.
    pub class: Tensor,
}

impl Levels {
    fn plus(self, other: Self) -> Result<Self> {
        Ok(Self {
            instance: (self.instance + other.instance)?,
            batch: (self.batch + other.batch)?,
            class: (self.class + other.class)?,
        })
    }
}

/// Multi-level logit distillation of `student` and `teacher` logits, both [B, C], at T and at 2, 3, 5 and 6: each level is
/// the sum over the five temperatures of, with P = softmax(t / T) and Q = softmax(s / T) as matrices,
/// - `instance`: [`kd`](crate::kd), T² included,
/// - `batch`: `|P P' - Q Q'|² / B`, squared Frobenius norm of the difference of [B, B] matrices,
/// - `class`: `|P' P - Q' Q|² / C`, of [C, C] matrices.
///
/// Jin, Wang, Lin: *Multi-level logit distillation* (CVPR 2023); the loss is the sum of the three, T = 4. The teacher is a
/// constant; computed in f64, result f32 (f64 for f64 logits); value and gradient are finite for all finite logits. Costs
/// O(B² C + B C²) for the matrices.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are [B, C] with B, C >= 1;
/// [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in either.
pub fn mlkd(student: &Tensor, teacher: &Tensor, temperature: Temperature) -> Result<Levels> {
    let levels = Pair::new(student, teacher)?.levels(temperature)?;
    check_logits(student, Some(teacher))?;
    Ok(levels)
}

/// The batch level of [`mlkd`] at one temperature.
///
/// # Errors
/// As for [`mlkd`].
pub fn mlkd_batch(student: &Tensor, teacher: &Tensor, temperature: Temperature) -> Result<Tensor> {
    let value = Pair::new(student, teacher)?.at(temperature)?.batch;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// The class level of [`mlkd`] at one temperature.
///
/// # Errors
/// As for [`mlkd`].
pub fn mlkd_class(student: &Tensor, teacher: &Tensor, temperature: Temperature) -> Result<Tensor> {
    let value = Pair::new(student, teacher)?.at(temperature)?.class;
    check_logits(student, Some(teacher))?;
    Ok(value)
}

/// Both networks' logits on one view.
struct Pair<'a> {
    student: &'a Tensor,
    teacher: Tensor,
    rows: usize,
    classes: usize,
}

impl<'a> Pair<'a> {
    fn new(student: &'a Tensor, teacher: &Tensor) -> Result<Self> {
        let (rows, classes) = pair_shape(student, teacher, 1)?;
        Ok(Self { student, teacher: widen(&teacher.detach())?, rows, classes })
    }

    /// All levels at one temperature.
    fn at(&self, temperature: Temperature) -> Result<Levels> {
        let log_p = log_softmax(&self.teacher, temperature)?;
        let log_q = log_softmax(&widen(self.student)?, temperature)?;
        let (p, q) = (log_p.exp()?, log_q.exp()?);
        let scale = temperature.squared() / self.rows as f64;
        let distance = |a: Tensor, b: Tensor, divisor: usize| {
            narrowed(&(a - b)?.sqr()?.sum_all()?, 1.0 / divisor as f64, self.student)
        };
        Ok(Levels {
            instance: narrowed(&kl_sum(&log_p, &log_q)?, scale, self.student)?,
            batch: distance(p.matmul(&p.t()?)?, q.matmul(&q.t()?)?, self.rows)?,
            class: distance(p.t()?.matmul(&p)?, q.t()?.matmul(&q)?, self.classes)?,
        })
    }

    /// All levels, summed over `first` and the further temperatures.
    fn levels(&self, first: Temperature) -> Result<Levels> {
        let mut sum = self.at(first)?;
        for value in FURTHER {
            sum = sum.plus(self.at(Temperature::new(value)?)?)?;
        }
        Ok(sum)
    }

    /// The instance level at one temperature.
    fn instance(&self, temperature: Temperature) -> Result<Tensor> {
        kd_unchecked(self.student, &self.teacher, temperature, Reduction::BatchMean)
    }

    /// The share of samples, and that of classes, of which the teacher is at most as sure as of the median one.
    fn unsure_shares(&self) -> Result<(f64, f64)> {
        let p = log_softmax(&self.teacher, Temperature::ONE)?.exp()?;
        Ok((share_up_to_median(p.max(1)?.to_vec1()?), share_up_to_median(p.sum(0)?.to_vec1()?)))
    }
}

/// The share of `values` that are at most their median; that of an even number of values is the mean of the middle two.
fn share_up_to_median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) };
    values.iter().filter(|v| **v <= median).count() as f64 / values.len() as f64
}

/// The objective of multi-level logit distillation: terms `instance`, `batch` and `class`, each of weight 1. See [`mlkd`].
///
/// A batch may have one view or more; the first two count, a weakly and a strongly augmented one in the authors' setting.
/// - [`Form::Paper`]: each level summed over the views.
/// - [`Form::Reference`], the authors' program as it was published again with logit standardisation: batch and class level
///   of the first view alone, and of its loss only a share, meant as a mask for the samples (classes) of which the teacher
///   is less sure than of the median one, but multiplied after the mean was taken. The second view has an instance level,
///   not multiplied, at T, 3 and 5; at 2 and 6 it is the first view's once more. With one view all of that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mlkd {
    /// The first temperature T.
    pub temperature: Temperature,
    /// Which version.
    pub form: Form,
}

impl Mlkd {
    fn reference(&self, first: &Pair, second: Option<&Pair>) -> Result<Levels> {
        let levels = first.levels(self.temperature)?;
        let (samples, classes) = first.unsure_shares()?;
        let mut instance = (levels.instance * samples)?;
        if let Some(second) = second {
            instance = (instance + second.instance(self.temperature)?)?;
            for (i, value) in FURTHER.into_iter().enumerate() {
                let pair = if i < FURTHER_OF_SECOND { second } else { first };
                instance = (instance + pair.instance(Temperature::new(value)?)?)?;
            }
        }
        Ok(Levels { instance, batch: (levels.batch * samples)?, class: (levels.class * classes)? })
    }
}

impl Objective for Mlkd {
    fn on_device(&self) -> bool {
        // The other form sorts probabilities.
        self.form == Form::Paper
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let pair = |at: usize| {
            Pair::new(&batch.view(at)?.student.logits, &batch.teacher_outputs("mlkd", at)?.logits)
        };
        let first = pair(0)?;
        let second = if batch.views.len() > 1 { Some(pair(1)?) } else { None };
        let levels = match (self.form, &second) {
            (Form::Reference, second) => self.reference(&first, second.as_ref())?,
            (Form::Paper, None) => first.levels(self.temperature)?,
            (Form::Paper, Some(second)) => {
                first.levels(self.temperature)?.plus(second.levels(self.temperature)?)?
            }
        };
        Ok(vec![
            Term::new("instance", levels.instance, 1.0),
            Term::new("batch", levels.batch, 1.0),
            Term::new("class", levels.class, 1.0),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_distinct_values_are_up_to_the_median() {
        assert_eq!(share_up_to_median(vec![3.0, 1.0, 2.0, 4.0]), 0.5);
        assert_eq!(share_up_to_median(vec![3.0, 1.0, 2.0]), 2.0 / 3.0);
        assert_eq!(share_up_to_median(vec![1.0; 4]), 1.0);
    }
}
