//! PKT: how probable each sample is as a neighbour of each other one.
use candle_core::{D, Tensor};

use super::{Pair, check_batch, stage};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// Added to norms and probabilities.
const EPSILON: f64 = 1e-7;

/// PKT of two feature maps or vectors of the same batch, of any other shape: `mean over B x B of p ln((p + ε) / (q + ε))`, where p
/// (teacher) and q (student) are the rows of `(1 + cosine) / 2` between samples, divided by their sums; ε = 1e-7.
///
/// Passalis, Tefas: *Learning deep representations with probabilistic knowledge transfer* (ECCV 2018). The teacher is a constant; a
/// sample of zeros has the cosine 0 with all others and a finite gradient. Costs O(B² D) for D features.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless the batches are equal and not empty.
pub fn pkt(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_batch(student, teacher)?;
    let neighbours = |f: &Tensor| -> Result<Tensor> {
        let flat = f.flatten_from(1)?;
        // The tiny summand gives the root of 0 a finite derivative.
        let norm = ((flat.sqr()?.sum_keepdim(D::Minus1)? + 1e-30)?.sqrt()? + EPSILON)?;
        let flat = flat.broadcast_div(&norm)?;
        let shares = flat.matmul(&flat.t()?)?.affine(0.5, 0.5)?;
        Ok(shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?)
    };
    let (p, q) = (neighbours(&teacher.detach())?, neighbours(student)?);
    Ok((&p * ((&p + EPSILON)?.log()? - (q + EPSILON)?.log()?)?)?.mean_all()?)
}

/// PKT of the tap `pooled_feat`. See [`pkt`]. One term, `pkt`; the usual weight is 30,000.
#[derive(Debug, Default)]
pub struct Pkt {
    pair: Option<Pair>,
}

impl Objective for Pkt {
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
        self.pair = Some(stage(setup, "pooled_feat")?);
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let pair = self.pair.as_ref().ok_or(Error::NotPrepared { method: "pkt" })?;
        let (student, teacher) = pair.maps(batch, "pkt")?;
        Ok(vec![Term::new("pkt", pkt(&student, &teacher)?, 1.0)])
    }
}
