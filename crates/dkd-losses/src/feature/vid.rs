//! VID: the teacher's feature maps as Gaussian variables that the student's predict.
use candle_core::{Tensor, Var};

use super::layers::{Conv, ConvSettings};
use super::numeric::sum_of;
use super::{Pair, check_equal_maps, check_per_channel, pairs, same_size};
use crate::{Batch, Form, Objective, RequiredTaps, Result, Setup, Term};

/// Added to the variances.
const EPSILON: f64 = 1e-5;

/// The variances' first value.
const FIRST_VARIANCE: f64 = 5.0;

/// `mean(0.5 ((m - t)² / v + log v))` over all elements of the predicted mean `m` and the teacher's map `t`, both
/// [B, C, H, W], with a variance `v = log(1 + exp(log_scale)) + 1e-5` per channel; `log_scale` is `[C]`.
///
/// See [`Vid`]. The teacher is a constant; finite for finite input. Costs O(B C H W).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both maps have the same shape and `log_scale` one value per channel.
pub fn vid(mean: &Tensor, teacher: &Tensor, log_scale: &Tensor) -> Result<Tensor> {
    check_equal_maps(mean, teacher)?;
    check_per_channel("log_scale", log_scale, mean)?;
    let channels = mean.dim(1)?;
    // log(1 + exp(x)) without overflow; the gradient of |x| at 0 is 0, which leaves relu's there.
    let softplus = (log_scale.relu()? + (log_scale.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let variance = (softplus + EPSILON)?.reshape((1, channels, 1, 1))?;
    let likelihood = (mean - teacher.detach())?.sqr()?.broadcast_div(&variance)?.mean_all()?;
    Ok(((likelihood + variance.log()?.mean_all()?)? * 0.5)?)
}

/// What leads from a student's map to the mean, and the variances.
#[derive(Debug)]
struct Prediction {
    pair: Pair,
    convs: Vec<Conv>,
    log_scale: Var,
}

impl Prediction {
    fn new(setup: &Setup, number: usize, pair: Pair) -> Result<Self> {
        let (from, to) = (pair.student_dims[0], pair.teacher_dims[0]);
        let conv = |i: usize, inputs| {
            Conv::new(setup, &format!("{number}.conv{i}"), &ConvSettings::new(inputs, to, 1))
        };
        let convs = vec![conv(0, from)?, conv(1, to)?, conv(2, to)?];
        let first = (FIRST_VARIANCE - EPSILON).exp_m1().ln() as f32;
        let log_scale = Var::from_tensor(&Tensor::full(first, to, setup.device)?)?;
        Ok(Self { pair, convs, log_scale })
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let (student, teacher) = self.pair.maps(batch, "vid")?;
        let (mut mean, teacher) = same_size(&student, &teacher)?;
        for (i, conv) in self.convs.iter().enumerate() {
            mean = conv.forward(&if i > 0 { mean.relu()? } else { mean })?;
        }
        vid(&mean, &teacher, self.log_scale.as_tensor())
    }
}

/// VID: the sum over the stages of [`vid`], where the mean is predicted from the student's map by three 1x1 convolutions with
/// ReLU between them. One term, `vid`.
///
/// Ahn, Hu, Damianou, Lawrence, Dai: *Variational information distillation for knowledge transfer* (CVPR 2019): a lower bound of
/// the information that the maps share. Pairs are `feats.1`, `feats.2`, … of both networks; a larger map is averaged down to the
/// smaller. Convolutions have no bias, variances begin at 5.
/// - [`Form::Paper`]: the variances are learned;
/// - [`Form::Reference`]: they stay, as in the reference, whose list of them no optimizer sees.
#[derive(Debug)]
pub struct Vid {
    form: Form,
    stages: Vec<Prediction>,
}

impl Vid {
    /// With variances that are learned or not.
    pub fn new(form: Form) -> Self {
        Self { form, stages: Vec::new() }
    }
}

impl Objective for Vid {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.stages.iter().map(|s| &s.pair))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let stages = pairs(setup, "feats")?.into_iter().enumerate();
        self.stages = stages.map(|(i, pair)| Prediction::new(setup, i, pair)).collect::<Result<_>>()?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        Ok(vec![Term::new("vid", sum_of("vid", &self.stages, |s| s.loss(batch))?, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            stage.convs.iter().for_each(|c| c.parameters(&mut all));
            if self.form == Form::Paper {
                all.push((format!("{i}.log_scale"), stage.log_scale.clone()));
            }
        }
        all
    }
}
