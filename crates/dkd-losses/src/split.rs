//! Logits split at one class of each row: that class against the others together, and the others among themselves.
use candle_core::{Device, Tensor};

use crate::softmax::{log_softmax, log_sum_exp, row_max, scaled_below, widen};
use crate::{Result, Temperature};

/// One class of each row and all its others, as indices to gather by.
pub(crate) struct Partition {
    /// The class, shape [B, 1].
    target: Tensor,
    /// The others in ascending order, shape [B, C - 1].
    others: Tensor,
}

impl Partition {
    /// Of the classes `labels`, one per row, each below `classes`.
    pub fn new(labels: Vec<u32>, classes: usize, device: &Device) -> Result<Self> {
        let rows = labels.len();
        let others: Vec<u32> =
            labels.iter().flat_map(|&y| (0..classes as u32).filter(move |&j| j != y)).collect();
        let others = Tensor::from_vec(others, (rows, classes - 1), device)?;
        Ok(Self { target: Tensor::from_vec(labels, (rows, 1), device)?, others })
    }
}

/// The logits of one network, split: the class and the others relative to the largest other, over T.
pub(crate) struct Side {
    target: Tensor,
    others: Tensor,
    log_sum: Tensor,
}

impl Side {
    /// Splits `logits` [B, C] at `partition`. The others' log-sum-exp is exact: they are gathered, the class is not masked
    /// by a constant.
    pub fn new(logits: &Tensor, partition: &Partition, temperature: Temperature) -> Result<Self> {
        let wide = widen(logits)?;
        let others = wide.gather(&partition.others, 1)?;
        let max = row_max(&others)?;
        let others = scaled_below(&others, &max, temperature)?;
        let log_sum = log_sum_exp(&others)?;
        let target = scaled_below(&wide.gather(&partition.target, 1)?, &max, temperature)?;
        Ok(Self { target, others, log_sum })
    }

    /// `[log p_y, log (1 - p_y)]`, shape [B, 2].
    pub fn binary(&self) -> Result<Tensor> {
        log_softmax(&Tensor::cat(&[&self.target, &self.log_sum], 1)?, Temperature::ONE)
    }

    /// `log p_y`, shape [B, 1].
    pub fn log_target(&self) -> Result<Tensor> {
        Ok(self.binary()?.narrow(1, 0, 1)?)
    }

    /// Log-probabilities among the other classes, shape [B, C - 1].
    pub fn among_others(&self) -> Result<Tensor> {
        Ok(self.others.broadcast_sub(&self.log_sum)?)
    }
}
