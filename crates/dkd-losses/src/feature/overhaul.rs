//! OFD: feature maps before their ReLU, compared where it matters.
use candle_core::{DType, Tensor, Var};
use dkd_kernels::tensor::adaptive_avg_pool2d;
use statrs::distribution::{Continuous, ContinuousCDF, Normal};

use super::layers::{BatchNorm, Conv, ConvSettings, Start};
use super::numeric::sum_of;
use super::{Pair, aligned_at_the_end, check_equal_maps, check_per_channel};
use crate::{Batch, Error, Objective, RequiredTaps, Result, Setup, Term};

/// Below this share of negative values their mean is replaced by minus three deviations.
const FEW_NEGATIVES: f64 = 1e-3;

/// The mean of a normal variable's negative values, with the mean `shift` and the standard deviation |`scale`|: what a
/// channel's value is before a ReLU that would cut it off. Minus three deviations where hardly any value is negative.
pub fn margin(scale: f64, shift: f64) -> f64 {
    let deviation = scale.abs();
    if deviation == 0.0 {
        return shift.min(0.0);
    }
    let standard = Normal::standard();
    let at = -shift / deviation;
    let negative = standard.cdf(at);
    if negative > FEW_NEGATIVES { shift - deviation * standard.pdf(at) / negative } else { -3.0 * deviation }
}

/// Partial L2 distance of maps before ReLU, [B, C, H, W] both, with a margin per channel, `[C]`: the sum over all elements of
/// `(s - max(t, m))²` where s is above that or t is positive, else 0, divided by B. See [`Overhaul`].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless the maps have the same shape and there is one margin per channel.
pub fn partial_l2(student: &Tensor, teacher: &Tensor, margins: &Tensor) -> Result<Tensor> {
    check_equal_maps(student, teacher)?;
    check_per_channel("margins", margins, student)?;
    let (rows, channels) = (student.dim(0)?, student.dim(1)?);
    let teacher = teacher.detach();
    let target = teacher.broadcast_maximum(&margins.detach().reshape((1, channels, 1, 1))?)?;
    let counts = (student.detach().gt(&target)? + teacher.gt(0.0)?)?.gt(0_u8)?.to_dtype(student.dtype())?;
    Ok(((student - target)?.sqr()? * counts)?.sum_all()?.affine(1.0 / rows as f64, 0.0)?)
}

/// One stage: the student's map through a 1x1 convolution and batch norm.
#[derive(Debug)]
struct Connector {
    pair: Pair,
    conv: Conv,
    norm: BatchNorm,
    /// The teacher's batch norm before its ReLU.
    teacher_norm: String,
    weight: f64,
    /// Computed from the teacher's parameters at the first step.
    margins: Option<Tensor>,
}

impl Connector {
    fn loss(&mut self, batch: &Batch) -> Result<Tensor> {
        let (student, teacher) = self.pair.maps(batch, "ofd")?;
        let (_, _, height, width) = student.dims4()?;
        let mapped = self.norm.forward(&self.conv.forward(&student)?)?;
        let margins = match &self.margins {
            Some(margins) => margins.clone(),
            None => {
                let values = |what: &str| -> Result<Vec<f64>> {
                    let name = format!("{}.{what}", self.teacher_norm);
                    Ok(batch.teacher.get(&name)?.to_dtype(DType::F64)?.to_vec1()?)
                };
                let scales = values("weight")?.into_iter().zip(values("bias")?);
                let margins = scales.map(|(scale, shift)| margin(scale, shift) as f32);
                let margins = Tensor::from_iter(margins, student.device())?;
                self.margins.insert(margins).clone()
            }
        };
        partial_l2(&mapped, &adaptive_avg_pool2d(&teacher, (height, width))?, &margins)
    }
}

/// OFD: the sum over the stages of [`partial_l2`] between the student's map before its ReLU, through a 1x1 convolution and
/// batch norm, and the teacher's, the last stage with weight 1, each earlier one with half the weight of the next. One term, `ofd`.
///
/// Heo, Kim, Yun, Park, Kwak, Choi: *A comprehensive overhaul of feature distillation* (ICCV 2019). Maps are `preact_feats.1` and
/// further (`feats.*` for a student that has none: MobileNetV2's stages end without ReLU), paired from the last stage
/// backwards; the teacher's map is averaged to the student's size. [`margin`]s come from the scale and shift of the
/// teacher's batch norm in front of the ReLU (the last one of the residual branch where a sum goes into it).
///
/// The authors let the teacher's batch norms use the batch's statistics: set the teacher's mode to `train` for that. The
/// reference takes wrong channels or margins for some pairs and cannot run others; here they follow from the maps. The sum
/// over all elements is large: the usual weight is 0.001.
#[derive(Debug, Default)]
pub struct Overhaul {
    stages: Vec<Connector>,
}

impl Objective for Overhaul {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.stages.iter().map(|s| &s.pair))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let pairs = aligned_at_the_end(setup, "preact_feats", "preact_feats")?;
        let last = pairs.len() as i32 - 1;
        let connectors = pairs.into_iter().enumerate().map(|(i, pair)| {
            let teacher_norm = setup.teacher_norms.get(&pair.teacher).cloned().ok_or_else(|| Error::Networks {
                method: "ofd",
                reason: format!(
                    "the teacher's `{}` does not come from a batch norm, whose scale and shift decide the margin; \
                     use another teacher or another method",
                    pair.teacher
                ),
            })?;
            let channels = pair.teacher_dims[0];
            let settings =
                ConvSettings { start: Start::Normal, ..ConvSettings::new(pair.student_dims[0], channels, 1) };
            Ok(Connector {
                conv: Conv::new(setup, &format!("{i}.conv"), &settings)?,
                norm: BatchNorm::new(setup, &format!("{i}.bn"), channels)?,
                pair,
                teacher_norm,
                weight: 0.5_f64.powi(last - i as i32),
                margins: None,
            })
        });
        self.stages = connectors.collect::<Result<_>>()?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let value = sum_of("ofd", &mut self.stages, |stage| Ok((stage.loss(batch)? * stage.weight)?))?;
        Ok(vec![Term::new("ofd", value, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for stage in &self.stages {
            stage.conv.parameters(&mut all);
            stage.norm.parameters(&mut all);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_the_mean_of_the_negative_values() {
        // A standard normal variable's negative values have the mean -sqrt(2 / pi).
        assert!((margin(1.0, 0.0) + (2.0 / std::f64::consts::PI).sqrt()).abs() < 1e-9);
        assert_eq!(margin(-2.0, 8.0), -6.0, "hardly any is negative");
        assert_eq!((margin(0.0, -1.0), margin(0.0, 1.0)), (-1.0, 0.0));
        // Nearly all are negative: their mean is the mean of all.
        assert!((margin(1.0, -6.0) + 6.0).abs() < 1e-6);
    }
}
