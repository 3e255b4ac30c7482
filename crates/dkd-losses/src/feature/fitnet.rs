//! FitNet: a feature map of the teacher as a hint for one of the student.
use candle_core::{Tensor, Var};
use dkd_kernels::tensor::adaptive_avg_pool2d;

use super::layers::{BatchNorm, Conv, ConvSettings};
use super::{Pair, stage};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// The regressor from the student's map to the teacher's: convolution, batch norm, ReLU.
#[derive(Debug)]
struct Regressor {
    conv: Conv,
    norm: BatchNorm,
    /// The teacher's map is pooled to this size first, where no convolution leads to its own.
    pooled: Option<(usize, usize)>,
}

impl Regressor {
    fn new(setup: &Setup, pair: &Pair) -> Result<Self> {
        let ((sh, sw), (th, tw)) = pair.sizes();
        let base =
            ConvSettings { bias: true, ..ConvSettings::new(pair.student_dims[0], pair.teacher_dims[0], 1) };
        let mut pooled = None;
        let settings = if (sh, sw) == (2 * th, 2 * tw) {
            ConvSettings { kernel: (3, 3), stride: 2, padding: 1, ..base }
        } else if (2 * sh, 2 * sw) == (th, tw) {
            ConvSettings { kernel: (4, 4), stride: 2, padding: 1, transposed: true, ..base }
        } else if sh >= th && sw >= tw {
            ConvSettings { kernel: (1 + sh - th, 1 + sw - tw), ..base }
        } else {
            pooled = Some((sh, sw));
            base
        };
        let conv = Conv::new(setup, "conv", &settings)?;
        Ok(Self { conv, norm: BatchNorm::new(setup, "bn", pair.teacher_dims[0])?, pooled })
    }

    fn forward(&self, student: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(&self.conv.forward(student)?)?.relu()?)
    }
}

/// FitNet: `mean((r(S) - T)²)` over all elements of the teacher's map T and the student's map S, with a trained regressor
/// r of convolution, batch norm and ReLU. One term, `fitnet`.
///
/// Romero, Ballas, Kahou, Chassang, Gatta, Bengio: *FitNets: hints for thin deep nets* (ICLR 2015); here the hint is a term of
/// the loss from the first step on, as in the reference, not a stage of its own before distillation. Both maps are the tap
/// `feats.N`. The regressor follows from their sizes: a 3x3 convolution of stride 2 for a student's map of twice the size,
/// a transposed 4x4 one of stride 2 for one of half the size, else a convolution of just the kernel (1 + difference) that
/// leads to the teacher's size; where the student's map is smaller in another ratio, the teacher's is averaged down to it and the kernel is
/// 1x1. Its statistics are the batch's. Maps are [B, C, H, W]; costs the convolution, forward and backward.
///
/// The reference sends noise through the teacher while its batch norms learn, to find these shapes; here the teacher stays as it is.
#[derive(Debug)]
pub struct FitNet {
    layer: usize,
    ready: Option<(Pair, Regressor)>,
}

impl FitNet {
    /// A hint from the tap `feats.<layer>`; the reference takes 2.
    pub fn new(layer: usize) -> Self {
        Self { layer, ready: None }
    }
}

impl Objective for FitNet {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.ready.iter().map(|(pair, _)| pair))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let pair = stage(setup, &format!("feats.{}", self.layer))?;
        let regressor = Regressor::new(setup, &pair)?;
        self.ready = Some((pair, regressor));
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (pair, regressor) = self.ready.as_ref().ok_or(Error::NotPrepared { method: "fitnet" })?;
        let (student, mut teacher) = pair.maps(batch, "fitnet")?;
        if let Some(size) = regressor.pooled {
            teacher = adaptive_avg_pool2d(&teacher, size)?;
        }
        let value = (regressor.forward(&student)? - teacher)?.sqr()?.mean_all()?;
        Ok(vec![Term::new("fitnet", value, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        if let Some((_, regressor)) = &self.ready {
            regressor.conv.parameters(&mut all);
            regressor.norm.parameters(&mut all);
        }
        all
    }
}
