//! NST: which patterns the channels respond to, as a distribution.
use candle_core::Tensor;

use super::numeric::{rows_of_length_one, sum_of};
use super::{Pair, check_maps, pairs, same_size};
use crate::{Batch, Objective, RequiredTaps, Result, Setup, Term};

/// NST of two maps, [B, C, H, W] each, with any channels: the squared maximum mean discrepancy
/// `k(T, T) + k(S, S) - 2 k(S, T)` of their channels, each flattened and divided by its Euclidean norm, with the kernel
/// `<a, b>²` averaged over samples and pairs of channels.
///
/// Huang, Wang: *Like what you like: knowledge distill via neuron selectivity transfer* (2017), with the polynomial kernel of degree 2. A
/// larger map is averaged down to the smaller one. The teacher is a constant; finite for channels of zeros.
/// Costs O(B C² H W).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are maps of the same batch.
pub fn nst(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_maps(student, teacher)?;
    let (student, teacher) = same_size(student, &teacher.detach())?;
    let channels = |f: &Tensor| rows_of_length_one(&f.flatten_from(2)?);
    let (s, t) = (channels(&student)?, channels(&teacher)?);
    let kernel =
        |a: &Tensor, b: &Tensor| -> Result<Tensor> { Ok(a.matmul(&b.transpose(1, 2)?)?.sqr()?.mean_all()?) };
    Ok(((kernel(&t, &t)? + kernel(&s, &s)?)? - (kernel(&s, &t)? * 2.0)?)?)
}

/// NST over all stages: the sum of [`nst`] between `feats.1`, `feats.2`, … of both networks. One term, `nst`; the usual
/// weight is 50.
#[derive(Debug, Default)]
pub struct Nst {
    pairs: Vec<Pair>,
}

impl Objective for Nst {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(&self.pairs)
    }

    fn on_device(&self) -> bool {
        // Averages of larger maps are taken on the CPU.
        self.pairs.iter().all(Pair::same_size)
    }

    fn device_bytes(&self, batch: usize) -> u64 {
        // Measured: some nine times the maps. Three products of channels by channels are squared and averaged, for one pair after the other, but
        // all stay until the gradient.
        let elements = |pair: &Pair| {
            let [s, t] = pair.channels();
            10 * pair.elements() + 4 * (s * s + t * t + s * t)
        };
        (size_of::<f32>() * self.pairs.iter().map(elements).sum::<usize>() * batch) as u64
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.pairs = pairs(setup, "feats")?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let value = sum_of("nst", &self.pairs, |pair| {
            let (student, teacher) = pair.maps(batch, "nst")?;
            nst(&student, &teacher)
        })?;
        Ok(vec![Term::new("nst", value, 1.0)])
    }
}
