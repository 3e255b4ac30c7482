//! ReviewKD: every level of the student, with what the deeper ones found, against a level of the teacher.
use candle_core::{Tensor, Var};
use dkd_kernels::tensor::resize_nearest2d;

use super::hierarchy::hcl;
use super::layers::{BatchNorm, Conv, ConvSettings, Start};
use super::numeric::sum_of;
use super::{Pair, aligned_at_the_end, stage};
use crate::{Batch, Objective, RequiredTaps, Result, Setup, Term};

/// Most channels in which levels are fused.
const MAX_WIDTH: usize = 512;

/// Attention-based fusion of a level with the result of the deeper ones.
#[derive(Debug)]
struct Fusion {
    pair: Pair,
    enter: (Conv, BatchNorm),
    leave: (Conv, BatchNorm),
    /// Weighs the level against the deeper ones; the deepest has none below it.
    attention: Option<Conv>,
}

impl Fusion {
    fn new(setup: &Setup, number: usize, pair: Pair, width: usize, deepest: bool) -> Result<Self> {
        let (from, to) = (pair.student_dims[0], pair.teacher_dims[0]);
        let conv = |name: &str, from, to, kernel, bias| {
            let settings =
                ConvSettings { bias, start: Start::Kaiming, ..ConvSettings::new(from, to, kernel) };
            Conv::new(setup, &format!("{number}.{name}"), &settings)
        };
        let norm = |name: &str, channels| BatchNorm::new(setup, &format!("{number}.{name}"), channels);
        Ok(Self {
            enter: (conv("conv1", from, width, 1, false)?, norm("bn1", width)?),
            leave: (conv("conv2", width, to, 3, false)?, norm("bn2", to)?),
            attention: if deepest { None } else { Some(conv("attention", 2 * width, 2, 1, true)?) },
            pair,
        })
    }

    /// The level's answer to the teacher, and what the next level gets; both of the teacher's size.
    fn forward(&self, student: &Tensor, deeper: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let ((height, width), size) = self.pair.sizes();
        let mut x = self.enter.1.forward(&self.enter.0.forward(student)?)?;
        if let (Some(attention), Some(deeper)) = (&self.attention, deeper) {
            let deeper = resize_nearest2d(deeper, (height, width))?;
            let shares = attention.forward(&Tensor::cat(&[&x, &deeper], 1)?)?;
            // The logistic function by tanh, whose derivative is finite everywhere.
            let shares = (shares * 0.5)?.tanh()?.affine(0.5, 0.5)?;
            let own = x.broadcast_mul(&shares.narrow(1, 0, 1)?)?;
            x = (own + deeper.broadcast_mul(&shares.narrow(1, 1, 1)?)?)?;
        }
        let x = resize_nearest2d(&x, size)?;
        Ok((self.leave.1.forward(&self.leave.0.forward(&x)?)?, x))
    }
}

/// ReviewKD: the sum over the levels of [`hcl`](crate::hcl) between the teacher's map and the student's, which is fused with those of all
/// deeper levels first. One term, `reviewkd`.
///
/// Chen, Liu, Zhao, Jia: *Distilling knowledge via knowledge review* (CVPR 2021). Levels are the stages and `pooled_feat` as a
/// map of 1x1; the student's are its `feats`, the teacher's `preact_feats` (`feats` in a network without), paired from the deepest
/// backwards. From the deepest level to the first: 1x1 convolution and batch norm to a common width (that of the student's
/// `pooled_feat`, at most 512); a weighted sum, pixel by pixel, with the deeper level's map, brought to this size by repetition; then the
/// teacher's size; a 3x3 convolution and batch norm give the level's answer. Convolutions begin as Kaiming proposed (a = 1). All sizes follow from the networks, where the
/// reference has to be told. The usual warm-up is 20 epochs.
#[derive(Debug, Default)]
pub struct ReviewKd {
    /// The deepest first.
    levels: Vec<Fusion>,
}

impl Objective for ReviewKd {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.levels.iter().map(|l| &l.pair))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let pairs = review_pairs(setup)?;
        let width = pairs[0].student_dims[0].min(MAX_WIDTH);
        let levels = pairs.into_iter().enumerate();
        self.levels =
            levels.map(|(i, pair)| Fusion::new(setup, i, pair, width, i == 0)).collect::<Result<_>>()?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let mut deeper: Option<Tensor> = None;
        let value = sum_of("reviewkd", &self.levels, |level| {
            let (student, teacher) = level.pair.maps(batch, "reviewkd")?;
            let (answer, fused) = level.forward(&as_map(student)?, deeper.as_ref())?;
            deeper = Some(fused);
            hcl(&answer, &as_map(teacher)?)
        })?;
        Ok(vec![Term::new("reviewkd", value, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for level in &self.levels {
            for (conv, norm) in [&level.enter, &level.leave] {
                conv.parameters(&mut all);
                norm.parameters(&mut all);
            }
            level.attention.iter().for_each(|a| a.parameters(&mut all));
        }
        all
    }
}

/// A vector [B, n] as a map [B, n, 1, 1].
fn as_map(x: Tensor) -> Result<Tensor> {
    Ok(if x.rank() == 2 { x.unsqueeze(2)?.unsqueeze(3)? } else { x })
}

/// The levels, the deepest first.
fn review_pairs(setup: &Setup) -> Result<Vec<Pair>> {
    let mut pairs = vec![stage(setup, "pooled_feat")?];
    pairs.extend(aligned_at_the_end(setup, "feats", "preact_feats")?.into_iter().rev());
    Ok(pairs)
}
