//! RKD: distances between samples and angles among three of them.
use candle_core::{DType, Tensor};

use super::numeric::{rows_of_length_one, smooth_l1};
use super::{Pair, check_batch, stage};
use crate::check::check_weight;
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// Lower limit of a squared distance.
const EPSILON: f64 = 1e-12;

/// Lower limit of the mean distance, below any that [`EPSILON`] leaves.
const SMALLEST_MEAN: f64 = 1e-30;

/// RKD's parts, as scalars. See [`relational`].
#[derive(Clone, Debug)]
pub struct Relational {
    /// Of pairs.
    pub distance: Tensor,
    /// Of triples.
    pub angle: Tensor,
}

/// RKD of two feature maps or vectors of the same batch, of any other shape, flattened to f:
/// - `distance`: the mean over B x B of the smooth L1 distance between `d_ij = |f_i - f_j|`, divided by the mean of the positive
///   ones, of student and teacher; with `squared`, of the squares;
/// - `angle`: the mean over B x B x B of that between the cosines `<e_ij, e_ik>` with `e_ij = (f_j - f_i) / |f_j - f_i|`.
///
/// Park, Kim, Lu, Cho: *Relational knowledge distillation* (CVPR 2019); the loss is `25 distance + 50 angle`. The teacher is a
/// constant; computed in f64; result in the features' type. Finite for equal samples, whose distance and cosines are 0. Costs O(B³) numbers for the
/// angles (B = 64: 262,144) and O(B² D) for the differences.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless the batches are equal and not empty.
pub fn relational(student: &Tensor, teacher: &Tensor, squared: bool) -> Result<Relational> {
    check_batch(student, teacher)?;
    let wide = |f: &Tensor| -> Result<Tensor> { Ok(f.flatten_from(1)?.to_dtype(DType::F64)?) };
    let (s, t) = (wide(student)?, wide(&teacher.detach())?);
    let back = |value: Tensor| -> Result<Tensor> { Ok(value.to_dtype(student.dtype())?) };
    Ok(Relational {
        distance: back(smooth_l1(&distances(&s, squared)?, &distances(&t, squared)?)?)?,
        angle: back(smooth_l1(&angles(&s)?, &angles(&t)?)?)?,
    })
}

/// Distances divided by the mean of the positive ones, [B, B].
fn distances(f: &Tensor, squared: bool) -> Result<Tensor> {
    let rows = f.dim(0)?;
    let square = f.sqr()?.sum_keepdim(1)?;
    let product = f.matmul(&f.t()?)?;
    let square = (square.broadcast_add(&square.t()?)? - (product * 2.0)?)?.maximum(EPSILON)?;
    let off_diagonal = (1.0 - Tensor::eye(rows, f.dtype(), f.device())?)?;
    let distance = ((if squared { square } else { square.sqrt()? }) * off_diagonal)?;
    let positive = distance.detach().gt(0.0)?.to_dtype(f.dtype())?.sum_all()?.maximum(1.0)?;
    // A single sample has no distance to another: its own, 0, is then divided by something.
    let mean = (distance.sum_all()? / positive)?.maximum(SMALLEST_MEAN)?;
    Ok(distance.broadcast_div(&mean)?)
}

/// Cosines of the angles at each sample between any two others, [B, B, B].
fn angles(f: &Tensor) -> Result<Tensor> {
    let edges = rows_of_length_one(&f.unsqueeze(0)?.broadcast_sub(&f.unsqueeze(1)?)?)?;
    Ok(edges.matmul(&edges.transpose(1, 2)?)?)
}

/// RKD of the tap `pooled_feat`: terms `distance` and `angle`. See [`relational`].
#[derive(Debug)]
pub struct Rkd {
    distance_weight: f64,
    angle_weight: f64,
    pair: Option<Pair>,
}

impl Rkd {
    /// With the weights of the two terms; the paper's are 25 and 50.
    ///
    /// # Errors
    /// [`Error::Setting`] unless both are finite and at least 0.
    pub fn new(distance_weight: f64, angle_weight: f64) -> Result<Self> {
        check_weight("rkd", "distance_weight", distance_weight)?;
        check_weight("rkd", "angle_weight", angle_weight)?;
        Ok(Self { distance_weight, angle_weight, pair: None })
    }
}

impl Objective for Rkd {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(&self.pair)
    }

    fn on_device(&self) -> bool {
        true
    }

    fn device_bytes(&self, batch: usize) -> u64 {
        // Measured: 51 numbers for each angle, and 5 for each component of an edge between two samples of one network.
        let components = self.pair.as_ref().map_or(0, Pair::elements);
        (size_of::<f32>() * batch * batch * (51 * batch + 5 * components)) as u64
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.pair = Some(stage(setup, "pooled_feat")?);
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let pair = self.pair.as_ref().ok_or(Error::NotPrepared { method: "rkd" })?;
        let (student, teacher) = pair.maps(batch, "rkd")?;
        let parts = relational(&student, &teacher, false)?;
        Ok(vec![
            Term::new("distance", parts.distance, self.distance_weight),
            Term::new("angle", parts.angle, self.angle_weight),
        ])
    }
}
