//! AT: where in an image the networks look.
use candle_core::Tensor;

use super::numeric::{rows_of_length_one, sum_of};
use super::{Pair, check_maps, pairs, same_size};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// AT of two maps, [B, C, H, W] each, with any channels: `mean over B and H W of (a(S) - a(T))²`, where a is the mean over the
/// channels of |F|^p, flattened and divided by its Euclidean norm (at least 1e-12).
///
/// Zagoruyko, Komodakis: *Paying more attention to attention* (ICLR 2017), with p = 2; the authors sum over the positions, and the
/// mean is the reference's. A larger map is averaged down to the smaller one. The teacher is a constant; finite for maps of zeros.
/// Costs O(B C H W).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are maps of the same batch.
pub fn attention(student: &Tensor, teacher: &Tensor, power: u32) -> Result<Tensor> {
    check_maps(student, teacher)?;
    let (student, teacher) = same_size(student, &teacher.detach())?;
    let map = |f: &Tensor| -> Result<Tensor> {
        let powered = if power == 2 { f.sqr()? } else { f.abs()?.powf(f64::from(power))? };
        rows_of_length_one(&powered.mean(1)?.flatten_from(1)?)
    };
    Ok((map(&student)? - map(&teacher)?)?.sqr()?.mean_all()?)
}

/// AT over all stages: the sum of [`attention`] between `feats.1`, `feats.2`, … of both networks. One term, `at`; the usual
/// weight is 1000.
#[derive(Debug)]
pub struct Attention {
    power: u32,
    pairs: Vec<Pair>,
}

impl Attention {
    /// With the exponent p.
    ///
    /// # Errors
    /// [`Error::Setting`] unless it is at least 1.
    pub fn new(power: u32) -> Result<Self> {
        if power == 0 {
            return Err(Error::Setting { method: "at", key: "power", value: 0.0, expected: "at least 1" });
        }
        Ok(Self { power, pairs: Vec::new() })
    }
}

impl Objective for Attention {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(&self.pairs)
    }

    fn on_device(&self) -> bool {
        // Averages of larger maps are taken on the CPU.
        self.pairs.iter().all(Pair::same_size)
    }

    fn device_bytes(&self, batch: usize) -> u64 {
        // Measured: somewhat more than four times the maps.
        let maps: usize = self.pairs.iter().map(Pair::elements).sum();
        (5 * size_of::<f32>() * maps * batch) as u64
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.pairs = pairs(setup, "feats")?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let value = sum_of("at", &self.pairs, |pair| {
            let (student, teacher) = pair.maps(batch, "at")?;
            attention(&student, &teacher, self.power)
        })?;
        Ok(vec![Term::new("at", value, 1.0)])
    }
}
