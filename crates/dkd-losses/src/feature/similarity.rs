//! SP: which samples of a batch are alike.
use candle_core::Tensor;

use super::numeric::rows_of_length_one;
use super::{Pair, check_batch, last_stages};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// SP of two feature maps or vectors of the same batch, of any other shape: `1/B² sum (G_S - G_T)²`, where G is the matrix [B, B]
/// of products of flattened features, each row divided by its Euclidean norm (at least 1e-12).
///
/// Tung, Mori: *Similarity-preserving knowledge distillation* (ICCV 2019). The teacher is a constant; finite for samples of zeros.
/// Costs O(B² D) for D features.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless the batches are equal and not empty.
pub fn similarity(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let rows = check_batch(student, teacher)?;
    let gram = |f: &Tensor| -> Result<Tensor> {
        let flat = f.flatten_from(1)?;
        rows_of_length_one(&flat.matmul(&flat.t()?)?)
    };
    let distance = (gram(student)? - gram(&teacher.detach())?)?.sqr()?.sum_all()?;
    Ok((distance * (1.0 / (rows * rows) as f64))?)
}

/// SP of the last stages: [`similarity`] between the last `feats` of both networks. One term, `sp`; the usual weight is 3000.
#[derive(Debug, Default)]
pub struct Similarity {
    pair: Option<Pair>,
}

impl Objective for Similarity {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(&self.pair)
    }

    fn on_device(&self) -> bool {
        true
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.pair = Some(last_stages(setup)?);
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let pair = self.pair.as_ref().ok_or(Error::NotPrepared { method: "sp" })?;
        let (student, teacher) = pair.maps(batch, "sp")?;
        Ok(vec![Term::new("sp", similarity(&student, &teacher)?, 1.0)])
    }
}
