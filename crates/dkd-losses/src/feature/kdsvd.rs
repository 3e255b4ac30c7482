//! KD-SVD: the main directions of the stages' feature maps, and how they relate from one stage to the next.
use candle_core::{D, DType, Tensor};

use super::eigen::eigenvectors;
use super::numeric::sum_of;
use super::{Pair, check_maps, pairs};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// How many of the student's vectors the teacher's first one may match.
const CANDIDATES: usize = 4;

/// Divisor of a squared difference in the exponent.
const WIDTH: f64 = 8.0;

/// The main direction of each sample's map in both networks, [B, W] each: the teacher's first right singular vector, and that of the
/// student's first four that is most parallel to it, with its sign.
fn directions(student: &Tensor, teacher: &Tensor) -> Result<(Tensor, Tensor)> {
    check_maps(student, teacher)?;
    let vectors = |f: &Tensor| -> Result<Tensor> {
        let (rows, channels, height, width) = f.dims4()?;
        let matrix = f.reshape((rows, channels * height, width))?;
        // Right singular vectors of A are eigenvectors of A'A.
        Ok(eigenvectors(&matrix.transpose(1, 2)?.matmul(&matrix)?.to_dtype(DType::F64)?)?)
    };
    let first = vectors(&teacher.detach())?.narrow(2, 0, 1)?;
    let all = vectors(student)?;
    let candidates = all.narrow(2, 0, CANDIDATES.min(all.dim(2)?))?;
    let cosines = candidates.detach().transpose(1, 2)?.matmul(&first)?.squeeze(2)?;
    let best = cosines.abs()?.argmax_keepdim(D::Minus1)?;
    // ±1 at the best one: selects it and turns it towards the teacher's.
    let signs = cosines.ge(0.0)?.to_dtype(DType::F64)?.affine(2.0, -1.0)?.gather(&best, 1)?;
    let choice = cosines.zeros_like()?.scatter_add(&best, &signs, 1)?.unsqueeze(2)?;
    Ok((candidates.matmul(&choice)?.squeeze(2)?, first.squeeze(2)?))
}

/// Similarities of the entries of two vectors of each sample: `exp(-(a_i - b_j)² / 8)`, [B, W, W'].
fn relations(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let difference = a.unsqueeze(2)?.broadcast_sub(&b.unsqueeze(1)?)?;
    Ok((difference.sqr()? * (-1.0 / WIDTH))?.exp()?)
}

/// KD-SVD of the maps of two or more stages, given as (student, teacher), [B, C, H, W] each: for each stage and the one before, `1/B sum
/// (r_S - r_T)²` with `r = exp(-(v_i - u_j)² / 8)` over all entries of their main directions v and u; summed over the stages.
///
/// Lee, Kim, Song: *Self-supervised knowledge distillation using singular value decomposition* (ECCV 2018), as the reference has it, with
/// one vector. A direction is the first right singular vector of the map as a matrix of C H rows and W columns; the student's is that of its
/// first four that fits the teacher's best. The teacher is a constant; computed in f64; result in the features' type. Where two singular values
/// are equal, the direction has no derivative, and 0 takes its place. Costs B decompositions of W x W matrices per stage.
///
/// # Errors
/// [`Error::Shape`] unless both maps of a stage have the same width.
pub fn kdsvd(stages: &[(Tensor, Tensor)]) -> Result<Tensor> {
    let mut before: Option<(Tensor, Tensor)> = None;
    let mut losses = Vec::new();
    for (student, teacher) in stages {
        if student.dims().last() != teacher.dims().last() {
            let expected = format!("the width of the student's, {:?}", student.dims());
            let found = teacher.dims().to_vec();
            return Err(Error::Shape { tensor: "teacher map".to_owned(), expected, found });
        }
        let (s, t) = directions(student, teacher)?;
        if let Some((s_before, t_before)) = &before {
            let distance = (relations(&s, s_before)? - relations(&t, t_before)?)?.sqr()?.sum_all()?;
            losses.push((distance * (1.0 / s.dim(0)? as f64))?);
        }
        before = Some((s, t));
    }
    let sum = sum_of("kdsvd", losses, Ok)?;
    Ok(sum.to_dtype(stages[0].0.dtype())?)
}

/// KD-SVD over the stages `feats.1`, `feats.2`, … of both networks, whose maps must have the same widths. See [`kdsvd`]. One term,
/// `kdsvd`.
#[derive(Debug, Default)]
pub struct KdSvd {
    pairs: Vec<Pair>,
}

impl Objective for KdSvd {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(&self.pairs)
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let refuse = |reason: String| Err(Error::Networks { method: "kdsvd", reason });
        let pairs = pairs(setup, "feats")?;
        for pair in &pairs {
            let ((_, student), (_, teacher)) = pair.sizes();
            if student != teacher {
                return refuse(format!(
                    "the student's `{}` is {student} pixels wide and the teacher's `{}` {teacher}, and singular vectors of \
                     different lengths cannot be compared; use another pair or another method",
                    pair.student, pair.teacher
                ));
            }
        }
        if pairs.len() < 2 {
            return refuse("it relates stages to the ones before, and they share only one".to_owned());
        }
        self.pairs = pairs;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let maps = self.pairs.iter().map(|pair| pair.maps(batch, "kdsvd")).collect::<Result<Vec<_>>>()?;
        Ok(vec![Term::new("kdsvd", kdsvd(&maps)?, 1.0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::lcg;

    /// The reference's value, computed in f32, for one of the signs that a singular vector may have: its library's choice is not ours.
    #[test]
    fn two_stages() {
        let student = [lcg(10, &[2, 3, 4, 4]), lcg(11, &[2, 3, 4, 4])];
        let teacher = [lcg(12, &[2, 5, 4, 4]), lcg(13, &[2, 5, 4, 4])];
        let [first, second] = [0, 1].map(|i| directions(&student[i], &teacher[i]).unwrap());
        // A sign for each of the two samples.
        let values = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]].map(|signs| {
            let signs = Tensor::new(&signs, first.0.device()).unwrap().unsqueeze(1).unwrap();
            let turned = |v: &Tensor| v.broadcast_mul(&signs).unwrap();
            let of = |a: &Tensor, b: &Tensor| relations(&turned(a), b).unwrap();
            let difference = (of(&second.0, &first.0) - of(&second.1, &first.1)).unwrap();
            0.5 * difference.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        });
        assert!(values.iter().any(|v| (v - 0.0203532893).abs() < 1e-6), "{values:?}");
        let stages = student.into_iter().zip(teacher).collect::<Vec<_>>();
        let ours = kdsvd(&stages).unwrap().to_scalar::<f64>().unwrap();
        assert!(values.iter().any(|v| (v - ours).abs() < 1e-12), "{ours}, {values:?}");
    }
}
