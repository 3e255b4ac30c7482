//! DIST: the teacher's relations between classes and between samples, compared by correlation.
use candle_core::Tensor;

use crate::check::{check_logits, check_weight, pair_shape};
use crate::softmax::{log_softmax, narrowed, sqrt_from_zero, widen};
use crate::{Batch, Objective, Result, Temperature, Term};

/// Added to the product of norms that a correlation is divided by.
const EPSILON: f64 = 1e-8;

/// How far the student's relations are from the teacher's, as scalars, T² included. See [`dist`].
#[derive(Clone, Debug)]
pub struct Relations {
    /// Between the classes of a sample: one correlation per row.
    pub inter: Tensor,
    /// Between the samples of a class: one correlation per column.
    pub intra: Tensor,
}

/// DIST of `student` and `teacher` logits, both [B, C]: `inter = T² (1 - mean_i rho(p_i, q_i))` over the rows of
/// p = softmax(t / T) and q = softmax(s / T), and `intra = T² (1 - mean_j rho(p_.j, q_.j))` over their columns.
///
/// Huang, You, Wang, Qian, Xu: *Knowledge distillation from a stronger teacher* (NeurIPS 2022); the loss is
/// `beta inter + gamma intra`. A correlation does not change when one side is scaled or shifted, so a student need not
/// reach the teacher's confidence, only its relations. `rho(a, b) = a'b' / (|a'| |b'| + 1e-8)` with `a' = a - mean(a)`;
/// the constant makes rho 0 for constant vectors, and a little less than 1 for equal ones. It and the factor T² are those
/// of the authors' program. The teacher is a constant; computed in f64, result f32 (f64 for f64 logits); value and
/// gradient are finite for all finite logits. Costs O(B C).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are [B, C] with B, C >= 1;
/// [`Error::NotFinite`](crate::Error::NotFinite) for NaN or infinity in either.
pub fn dist(student: &Tensor, teacher: &Tensor, temperature: Temperature) -> Result<Relations> {
    let relations = dist_unchecked(student, teacher, temperature)?;
    check_logits(student, Some(teacher))?;
    Ok(relations)
}

fn dist_unchecked(student: &Tensor, teacher: &Tensor, temperature: Temperature) -> Result<Relations> {
    pair_shape(student, teacher, 1)?;
    let probabilities =
        |logits: &Tensor| -> Result<Tensor> { Ok(log_softmax(&widen(logits)?, temperature)?.exp()?) };
    let (p, q) = (probabilities(&teacher.detach())?, probabilities(student)?);
    let distance =
        |along| narrowed(&(1.0 - mean_correlation(&p, &q, along)?)?, temperature.squared(), student);
    Ok(Relations { inter: distance(1)?, intra: distance(0)? })
}

/// Correlation of the vectors along dimension `along` of two matrices, mean over the other dimension.
fn mean_correlation(a: &Tensor, b: &Tensor, along: usize) -> Result<Tensor> {
    let centred = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(along)?);
    let (a, b) = (centred(a)?, centred(b)?);
    let norm = |x: &Tensor| sqrt_from_zero(&x.sqr()?.sum(along)?);
    let norms = ((norm(&a)? * norm(&b)?)? + EPSILON)?;
    Ok(((&a * &b)?.sum(along)? / norms)?.mean_all()?)
}

/// The weights of DIST's two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistWeights {
    /// Weight of the relations between classes.
    pub beta: f64,
    /// Weight of the relations between samples.
    pub gamma: f64,
}

impl Default for DistWeights {
    /// The paper's setting on CIFAR-100: 2 and 2 (on ImageNet 1 and 1, with T = 1).
    fn default() -> Self {
        Self { beta: 2.0, gamma: 2.0 }
    }
}

/// The objective of DIST: terms `inter` with weight beta and `intra` with weight gamma. See [`dist`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dist {
    weights: DistWeights,
    temperature: Temperature,
}

impl Dist {
    /// DIST with these weights at this temperature.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) unless both weights are finite and at least 0.
    pub fn new(weights: DistWeights, temperature: Temperature) -> Result<Self> {
        check_weight("dist", "beta", weights.beta)?;
        check_weight("dist", "gamma", weights.gamma)?;
        Ok(Self { weights, temperature })
    }
}

impl Objective for Dist {
    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("dist")?);
        let relations = dist_unchecked(student, teacher, self.temperature)?;
        Ok(vec![
            Term::new("inter", relations.inter, self.weights.beta),
            Term::new("intra", relations.intra, self.weights.gamma),
        ])
    }
}
