//! Scale-decoupled distillation: a loss on logits, for every region of the last map.
use candle_core::Tensor;
use dkd_kernels::tensor::adaptive_avg_pool2d;

use crate::check::{check_weight, label_values, pair_shape};
use crate::feature::Pair;
use crate::{
    Batch, Dkd, DkdWeights, Error, Head, Kd, NamedTensors, Nkd, Objective, Reduction, RequiredTaps, Result,
    Setup, Temperature, Term, View, Warmup,
};

#[cfg(test)]
mod tests;

/// The loss that SDD applies to every region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SddBase {
    /// `kd`: [`Kd`], averaged over the rows.
    Kd {
        /// Softmax temperature T.
        temperature: Temperature,
    },
    /// `dkd`: [`Dkd`].
    Dkd {
        /// Weights alpha and beta.
        weights: DkdWeights,
        /// Softmax temperature T.
        temperature: Temperature,
    },
    /// `nkd`: [`Nkd`].
    Nkd {
        /// Softmax temperature T among the other classes.
        temperature: Temperature,
        /// Weight of the other classes.
        gamma: f64,
    },
}

impl SddBase {
    /// Names in configuration files.
    pub const NAMES: [&'static str; 3] = ["kd", "dkd", "nkd"];

    /// The base called `name` with its default settings, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        let temperature = Temperature::FOUR;
        match name {
            "kd" => Some(Self::Kd { temperature }),
            "dkd" => Some(Self::Dkd { weights: DkdWeights::default(), temperature }),
            "nkd" => Some(Self::Nkd { temperature: Temperature::ONE, gamma: 1.5 }),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kd { .. } => "kd",
            Self::Dkd { .. } => "dkd",
            Self::Nkd { .. } => "nkd",
        }
    }

    fn build(self) -> Result<Box<dyn Objective>> {
        Ok(match self {
            Self::Kd { temperature } => Box::new(Kd { temperature, reduction: Reduction::BatchMean }),
            Self::Dkd { weights, temperature } => {
                check_weight("sdd", "alpha", weights.alpha)?;
                check_weight("sdd", "beta", weights.beta)?;
                Box::new(Dkd { weights, temperature, warmup: Warmup::NONE })
            }
            Self::Nkd { temperature, gamma } => Box::new(Nkd::new(temperature, gamma)?),
        })
    }
}

/// Into how many rows and columns of regions a map is cut: different numbers from 1, 1 being the whole map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scales {
    /// Zeros behind the last.
    all: [usize; Self::MOST],
}

impl Scales {
    /// Most scales at a time.
    pub const MOST: usize = 8;

    /// These scales, in this order.
    ///
    /// # Errors
    /// [`Error::Setting`] for none or more than [`Scales::MOST`], for 0 and for a scale that occurs twice.
    pub fn new(scales: &[usize]) -> Result<Self> {
        let fail = |key, value: usize, expected| {
            Err(Error::Setting { method: "sdd", key, value: value as f64, expected })
        };
        if scales.is_empty() || scales.len() > Self::MOST {
            return fail("number of scales", scales.len(), "from 1 to 8, such as the three of [1, 2, 4]");
        }
        let mut all = [0; Self::MOST];
        for (i, &scale) in scales.iter().enumerate() {
            if scale == 0 {
                return fail("scales", 0, "whole numbers from 1, such as [1, 2, 4]");
            }
            if all.contains(&scale) {
                return fail("scales", scale, "there only once: take the other one out");
            }
            all[i] = scale;
        }
        Ok(Self { all })
    }

    /// The scales.
    pub fn get(&self) -> &[usize] {
        let count = self.all.iter().take_while(|scale| **scale > 0).count();
        &self.all[..count]
    }

    /// Regions of all scales together.
    pub fn regions(&self) -> usize {
        self.get().iter().map(|scale| scale.saturating_mul(*scale)).sum()
    }
}

impl std::fmt::Debug for Scales {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.get()).finish()
    }
}

/// What SDD can be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SddSettings {
    /// The loss of a region.
    pub base: SddBase,
    /// How the maps are cut.
    pub scales: Scales,
    /// Weight of regions in which the teacher is right where it is wrong about the whole image, or the other way round.
    pub complementary_weight: f64,
}

impl Default for SddSettings {
    /// DKD with alpha = 1, beta = 8, T = 4, the scales 1, 2, 4 and a weight of 2: as in the paper.
    fn default() -> Self {
        let mut all = [0; Scales::MOST];
        all[..3].copy_from_slice(&[1, 2, 4]);
        let base = SddBase::Dkd { weights: DkdWeights::default(), temperature: Temperature::FOUR };
        Self { base, scales: Scales { all }, complementary_weight: 2.0 }
    }
}

/// SDD: `1 / (B R) sum_i sum_r w_ir L(s_ir, t_ir, y_i)` over the B images of a batch and their R regions.
///
/// Luo: *Scale Decoupled Distillation* (CVPR 2024). At scale m the map [B, c, h, w] that a network averages and classifies is cut
/// into m x m regions as adaptive average pooling does (row i of them covers the pixels floor(i h / m) up to ceil((i + 1) h / m)), and
/// s_ir, t_ir `[C]` are what the networks' own classifiers make of the average of region r; R is the sum of all m². At scale 1 they are
/// the networks' logits. L is KD, DKD or NKD of one row. A region is complementary if the teacher errs about it but not about the
/// image, or about the image but not about it, and w is the complementary weight then; else it is consistent, and w is 1. The mean is
/// over all regions alike, so that larger scales count for more; it is of the size of L alone.
///
/// Two terms, `consistent` and `complementary`, in which all weights are contained. Gradients flow to the student's map, logits and
/// classifier; the teacher is a constant. Nothing is replaced if it is not finite, and NKD leaves out the label: in both the
/// reference differs. Costs O(B c h w) for each scale, O(B R c C) for the classifiers, and L of B R rows.
pub struct Sdd {
    settings: SddSettings,
    base: Box<dyn Objective>,
    ready: Option<Ready>,
}

/// What is known of the two networks.
struct Ready {
    maps: Pair,
    student: Head,
    teacher: Head,
}

impl Sdd {
    /// With these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight that is negative or not finite.
    pub fn new(settings: SddSettings) -> Result<Self> {
        check_weight("sdd", "complementary_weight", settings.complementary_weight)?;
        Ok(Self { settings, base: settings.base.build()?, ready: None })
    }

    /// The logits of all regions, `[rows of the result, C]`: scale after scale, image after image, region after region.
    fn regions(&self, logits: &Tensor, map: &Tensor, head: &Head, of: &dyn NamedTensors) -> Result<Tensor> {
        let (rows, channels, ..) = map.dims4()?;
        let mut all = Vec::new();
        for &scale in self.settings.scales.get() {
            if scale == 1 {
                all.push(logits.clone());
                continue;
            }
            let means = adaptive_avg_pool2d(map, (scale, scale))?.permute((0, 2, 3, 1))?;
            let means = means.reshape((rows * scale * scale, channels))?;
            let local = means.matmul(&of.get(&head.weight)?.t()?)?;
            all.push(match &head.bias {
                Some(bias) => local.broadcast_add(&of.get(bias)?)?,
                None => local,
            });
        }
        Ok(Tensor::cat(&all, 0)?)
    }

    /// The number of the image that each region belongs to, in the order of [`Sdd::regions`].
    fn images(&self, rows: usize) -> impl Iterator<Item = usize> {
        let each = self.settings.scales.get().iter().map(|scale| scale * scale);
        each.flat_map(move |regions| (0..rows).flat_map(move |image| (0..regions).map(move |_| image)))
    }

    /// The base loss of the regions `chosen`, as their share of the mean over all.
    fn share(
        &mut self,
        batch: &Batch,
        regions: [&Tensor; 2],
        labels: &[u32],
        chosen: &[u32],
    ) -> Result<Tensor> {
        let [student, teacher] = regions;
        if chosen.is_empty() {
            return Ok(Tensor::zeros((), student.dtype(), student.device())?);
        }
        let device = student.device();
        let of_chosen = Tensor::new(chosen, device)?;
        let views =
            [View::new(student.index_select(&of_chosen, 0)?, Some(teacher.index_select(&of_chosen, 0)?))];
        let labels: Vec<u32> = chosen.iter().map(|region| labels[*region as usize]).collect();
        let labels = Tensor::new(labels.as_slice(), device)?;
        let terms = self.base.terms(&Batch { views: &views, labels: &labels, ..*batch })?;
        let share = chosen.len() as f64 / student.dim(0)? as f64;
        let mut sum: Option<Tensor> = None;
        for term in terms {
            let weighted = (term.value * (term.weight * share))?;
            sum = Some(match sum {
                Some(sum) => (sum + weighted)?,
                None => weighted,
            });
        }
        Ok(sum.expect("a loss has a term"))
    }
}

impl Objective for Sdd {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.ready.iter().map(|ready| &ready.maps))
    }

    fn student_parameters(&self) -> Vec<String> {
        // The whole map is classified by the network itself.
        let local = self.settings.scales.get() != [1];
        let heads = self.ready.iter().filter(|_| local).map(|ready| &ready.student);
        heads.flat_map(|head| std::iter::once(head.weight.clone()).chain(head.bias.clone())).collect()
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let fail = |reason| Error::Networks { method: "sdd", reason };
        let largest = self.settings.scales.get().iter().copied().max().unwrap_or(1);
        let side = |side: &str,
                    head: Option<&Head>,
                    taps: &std::collections::BTreeMap<String, Vec<usize>>| {
            let found = head.and_then(|head| Some((head.clone(), taps.get(&head.map)?.clone())));
            let Some((head, dims)) = found else {
                return Err(fail(format!(
                    "the {side} is not known to make its logits by averaging a feature map and one linear layer; take a \
                     network that does, and none that was registered from outside"
                )));
            };
            match dims[..] {
                [_, h, w] if h.min(w) >= largest => Ok((head, dims)),
                _ => Err(fail(format!(
                    "`scales` has {largest}, but the {side}'s last map `{}` is {dims:?} (channels, height, width): leave \
                     out the scales that are larger than the map",
                    head.map
                ))),
            }
        };
        let (student, student_dims) = side("student", setup.student_head, setup.student_taps)?;
        let (teacher, teacher_dims) = side("teacher", setup.teacher_head, setup.teacher_taps)?;
        let maps =
            Pair { student: student.map.clone(), student_dims, teacher: teacher.map.clone(), teacher_dims };
        self.ready = Some(Ready { maps, student, teacher });
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let ready = self.ready.as_ref().ok_or(Error::NotPrepared { method: "sdd" })?;
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("sdd")?.detach());
        let (rows, classes) = pair_shape(student, &teacher, 2)?;
        let labels = label_values(batch.labels, rows, classes)?;
        let (student_map, teacher_map) = ready.maps.maps(batch, "sdd")?;
        let student_regions = self.regions(student, &student_map, &ready.student, batch.student)?;
        let teacher_regions = self.regions(&teacher, &teacher_map, &ready.teacher, batch.teacher)?.detach();
        let says = |logits: &Tensor| Ok::<_, Error>(logits.argmax(1)?.to_vec1::<u32>()?);
        let (global, each) = (says(&teacher)?, says(&teacher_regions)?);
        let (mut consistent, mut complementary) = (Vec::new(), Vec::new());
        let mut region_labels = Vec::with_capacity(each.len());
        for (region, (image, said)) in self.images(rows).zip(each).enumerate() {
            let label = labels[image];
            region_labels.push(label);
            let agree = (global[image] == label) == (said == label);
            if agree { &mut consistent } else { &mut complementary }.push(region as u32);
        }
        let weight = self.settings.complementary_weight;
        let regions = [&student_regions, &teacher_regions];
        let consistent = self.share(batch, regions, &region_labels, &consistent)?;
        let complementary = (self.share(batch, regions, &region_labels, &complementary)? * weight)?;
        Ok(vec![Term::new("consistent", consistent, 1.0), Term::new("complementary", complementary, 1.0)])
    }
}
