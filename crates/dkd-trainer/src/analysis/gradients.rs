//! Which term of a loss pulls how hard at the student's logits, and in which direction.

use super::Answers;
use crate::Result;
use candle_core::{DType, Device, Tensor, Var};
use dkd_losses::{Reduction, Temperature, cross_entropy, nckd, tckd};
use serde::Serialize;

/// Images that are differentiated together: results do not depend on it.
const CHUNK: usize = 2048;

/// A gradient shorter than this is what rounding leaves of none.
const NOTHING: f64 = 1e-12;

/// How hard one term pulls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pull {
    /// Mean over the images of the Euclidean norm of its gradient with respect to an image's logits.
    pub norm: f64,
    /// That norm's share of the sum of all terms' norms, in percent.
    pub share: f64,
}

/// Mean over the images of the cosine between two terms' gradients: 1 where they pull the same way, -1 where they pull against
/// each other. Images on which one of the two does not pull are left out; `None` if that is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cosines {
    /// Cross-entropy and TCKD.
    pub ce_tckd: Option<f64>,
    /// Cross-entropy and NCKD.
    pub ce_nckd: Option<f64>,
    /// TCKD and NCKD.
    pub tckd_nckd: Option<f64>,
}

/// The gradients of three terms with respect to the student's logits, each with weight 1. A loss multiplies them by its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gradients {
    /// Cross-entropy with the labels: `p - y`.
    pub ce: Pull,
    /// [`dkd_losses::tckd`].
    pub tckd: Pull,
    /// [`dkd_losses::nckd`].
    pub nckd: Pull,
    /// Between them.
    pub cosines: Cosines,
}

/// Logits in f64 and labels of some images.
pub(super) struct Chunk {
    pub student: Tensor,
    pub teacher: Tensor,
    pub labels: Tensor,
}

/// The answers of two networks to the same images, a part at a time.
pub(super) fn chunks(teacher: &Answers, student: &Answers) -> Result<Vec<Chunk>> {
    let part = |(i, labels): (usize, &[u32])| -> Result<Chunk> {
        let rows = |of: &Answers| of.logits.narrow(0, i * CHUNK, labels.len())?.to_dtype(DType::F64);
        let (student, teacher) = (rows(student)?, rows(teacher)?);
        Ok(Chunk { student, teacher, labels: Tensor::new(labels, &Device::Cpu)? })
    };
    teacher.labels.chunks(CHUNK).enumerate().map(part).collect()
}

/// The gradient of a sum over images, row after row.
fn gradient(student: &Tensor, term: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f64>> {
    let leaf = Var::from_tensor(student)?;
    let store = term(leaf.as_tensor())?.backward()?;
    Ok(match store.get(leaf.as_tensor()) {
        Some(gradient) => gradient.flatten_all()?.to_vec1()?,
        None => vec![0.0; student.elem_count()],
    })
}

fn norm(row: &[f64]) -> f64 {
    let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
    if length < NOTHING { 0.0 } else { length }
}

/// A mean over those images that have a value.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        (self.sum, self.count) = (self.sum + value, self.count + 1);
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Gradients {
    /// Of two networks that have seen the same images.
    ///
    /// # Errors
    /// Those of the losses.
    pub fn of(teacher: &Answers, student: &Answers, temperature: Temperature) -> Result<Self> {
        const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];
        let (_, classes) = teacher.size()?;
        let (mut norms, mut cosines) = ([0.0; 3], [Mean::default(), Mean::default(), Mean::default()]);
        for part in chunks(teacher, student)? {
            let (teacher, labels) = (&part.teacher, &part.labels);
            let rows = labels.elem_count() as f64;
            let of = [
                gradient(&part.student, |s| Ok((cross_entropy(s, labels, 0.0)? * rows)?))?,
                gradient(&part.student, |s| Ok(tckd(s, teacher, labels, temperature, Reduction::Sum)?))?,
                gradient(&part.student, |s| Ok(nckd(s, teacher, labels, temperature, Reduction::Sum)?))?,
            ];
            for row in 0..labels.elem_count() {
                let at = row * classes..(row + 1) * classes;
                let own = of.each_ref().map(|g| &g[at.clone()]);
                let lengths = own.map(norm);
                for (sum, length) in norms.iter_mut().zip(lengths) {
                    *sum += length;
                }
                for ((a, b), mean) in PAIRS.into_iter().zip(&mut cosines) {
                    if lengths[a] > 0.0 && lengths[b] > 0.0 {
                        let product: f64 = own[a].iter().zip(own[b]).map(|(x, y)| x * y).sum();
                        mean.add(product / (lengths[a] * lengths[b]));
                    }
                }
            }
        }
        let total: f64 = norms.iter().sum();
        let images = teacher.labels.len().max(1) as f64;
        let share = |v: f64| if total > 0.0 { 100.0 * v / total } else { 0.0 };
        let [ce, tckd, nckd] = norms.map(|v| Pull { norm: v / images, share: share(v) });
        let [ce_tckd, ce_nckd, tckd_nckd] = cosines.each_ref().map(Mean::value);
        Ok(Self { ce, tckd, nckd, cosines: Cosines { ce_tckd, ce_nckd, tckd_nckd } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEACHER: [[f32; 4]; 2] = [[3.0, 1.0, -1.0, 0.5], [0.0, 2.5, 1.0, -2.0]];
    const STUDENT: [[f32; 4]; 2] = [[0.5, 1.5, 0.0, -0.5], [1.0, 0.25, -0.75, 2.0]];
    const LABELS: [u32; 2] = [0, 3];

    fn said<const C: usize>(rows: &[[f32; C]; 2], labels: &[u32]) -> Answers {
        let logits = Tensor::new(rows, &Device::Cpu).unwrap();
        Answers { logits, labels: labels.to_vec(), features: Vec::new() }
    }

    fn softmax(row: &[f32], t: f64) -> Vec<f64> {
        let all: Vec<f64> = row.iter().map(|v| (f64::from(*v) / t).exp()).collect();
        let sum: f64 = all.iter().sum();
        all.into_iter().map(|v| v / sum).collect()
    }

    /// The three gradients on paper. With q the student's and p the teacher's softmax at T, and q^, p^ those among the other
    /// classes: CE is softmax(s) - y; TCKD is T (q_y - p_y) at the label and T (p_y - q_y) q^_j elsewhere; NCKD is 0 at the
    /// label and T (q^_j - p^_j) elsewhere.
    fn closed(t: &[f32], s: &[f32], label: usize, temperature: f64) -> [Vec<f64>; 3] {
        let (p, q) = (softmax(t, temperature), softmax(s, temperature));
        let others = |v: &[f64], j: usize| v[j] / (1.0 - v[label]);
        let each = |f: &dyn Fn(usize) -> f64| (0..s.len()).map(f).collect::<Vec<f64>>();
        let plain = softmax(s, 1.0);
        [
            each(&|j| plain[j] - f64::from(u8::from(j == label))),
            each(&|j| {
                let pull = temperature * (q[label] - p[label]);
                if j == label { pull } else { -pull * others(&q, j) }
            }),
            each(&|j| if j == label { 0.0 } else { temperature * (others(&q, j) - others(&p, j)) }),
        ]
    }

    #[test]
    fn shares_and_cosines_are_those_of_the_closed_forms() {
        let temperature = 2.5;
        let t = Temperature::new(temperature).unwrap();
        let found = Gradients::of(&said(&TEACHER, &LABELS), &said(&STUDENT, &LABELS), t).unwrap();
        let rows: Vec<[Vec<f64>; 3]> =
            (0..2).map(|i| closed(&TEACHER[i], &STUDENT[i], LABELS[i] as usize, temperature)).collect();
        let mean = |k: usize| rows.iter().map(|r| norm(&r[k])).sum::<f64>() / 2.0;
        let total = mean(0) + mean(1) + mean(2);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        for (k, pull) in [found.ce, found.tckd, found.nckd].into_iter().enumerate() {
            near(pull.norm, mean(k));
            near(pull.share, 100.0 * mean(k) / total);
        }
        let cosine = |a: usize, b: usize| {
            let of = |r: &[Vec<f64>; 3]| {
                let product: f64 = r[a].iter().zip(&r[b]).map(|(x, y)| x * y).sum();
                product / (norm(&r[a]) * norm(&r[b]))
            };
            rows.iter().map(of).sum::<f64>() / 2.0
        };
        near(found.cosines.ce_tckd.unwrap(), cosine(0, 1));
        near(found.cosines.ce_nckd.unwrap(), cosine(0, 2));
        near(found.cosines.tckd_nckd.unwrap(), cosine(1, 2));
    }

    #[test]
    fn what_does_not_pull_has_no_direction() {
        // Of two classes one is not the label: there is nothing to learn among the others.
        let (t, s) = ([[2.0_f32, 0.0], [0.0, 1.0]], [[0.0_f32, 0.0], [0.5, 0.0]]);
        let found = Gradients::of(&said(&t, &[0, 1]), &said(&s, &[0, 1]), Temperature::FOUR).unwrap();
        assert_eq!((found.nckd.norm, found.nckd.share, found.cosines.tckd_nckd), (0.0, 0.0, None));
        // Both pull the label up and the other class down.
        assert!((found.cosines.ce_tckd.unwrap() - 1.0).abs() < 1e-9, "{found:?}");
    }
}
