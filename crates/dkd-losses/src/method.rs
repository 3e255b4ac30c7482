//! The methods by name.
use crate::{
    Attention, Crd, CrdSettings, CrossEntropy, Ctkd, Curriculum, Custom, Dist, DistWeights, Dkd, DkdPart,
    DkdReference, DkdWeights, Error, FitNet, Form, Half, Kd, KdSvd, Mlkd, Nkd, Nst, Objective, Overhaul, Pkt,
    Reduction, Result, ReviewKd, Rkd, Rld, RldSettings, Sdd, SddSettings, SeedKd, Similarity, Temperature,
    TfKd, Ttm, Vid, Warmup,
};

/// A method and its settings: what a configuration file says, checked, from which an objective is built.
///
/// ```
/// use dkd_losses::Method;
/// let mut method = Method::named("dkd")?;
/// if let Method::Dkd { temperature, .. } = &mut method {
///     *temperature = 2.0.try_into()?;
/// }
/// let objective = method.build()?;
/// assert!(objective.needs_teacher());
/// # Ok::<(), dkd_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `ce`: [`CrossEntropy`].
    Ce {
        /// Share of the target spread over all classes, 0 to below 1.
        label_smoothing: f64,
    },
    /// `kd`: [`Kd`].
    Kd {
        /// Softmax temperature T.
        temperature: Temperature,
        /// Divisor of the sum over all elements.
        reduction: Reduction,
    },
    /// `dkd`: [`Dkd`].
    Dkd {
        /// Weights alpha and beta.
        weights: DkdWeights,
        /// Softmax temperature T.
        temperature: Temperature,
        /// Growth of the weights over the first epochs.
        warmup: Warmup,
    },
    /// `tckd`: DKD's target part alone.
    Tckd {
        /// Softmax temperature T.
        temperature: Temperature,
    },
    /// `nckd`: DKD's non-target part alone.
    Nckd {
        /// Softmax temperature T.
        temperature: Temperature,
    },
    /// `dist`: [`Dist`].
    Dist {
        /// Weights beta and gamma.
        weights: DistWeights,
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
    /// `mlkd`: [`Mlkd`].
    Mlkd {
        /// The first of the five softmax temperatures.
        temperature: Temperature,
        /// Which version.
        form: Form,
    },
    /// `ttm`: [`Ttm::new`].
    Ttm {
        /// The exponent.
        gamma: f64,
    },
    /// `wttm`: [`Ttm::weighted`].
    Wttm {
        /// The exponent.
        gamma: f64,
    },
    /// `ctkd`: [`Ctkd`].
    Ctkd {
        /// Range of the temperature, and how it is learned.
        curriculum: Curriculum,
    },
    /// `rld`: [`Rld`].
    Rld {
        /// Weights and temperatures.
        settings: RldSettings,
        /// Growth of the weights over the first epochs.
        warmup: Warmup,
    },
    /// `sdd`: [`Sdd`].
    Sdd {
        /// Loss of the regions, scales, weight of complementary regions.
        settings: SddSettings,
    },
    /// `tfkd`: [`TfKd`].
    TfKd {
        /// Softmax temperature T.
        temperature: Temperature,
        /// The virtual teacher's probability of the label.
        confidence: f64,
        /// Which version.
        form: Form,
    },
    /// `fitnet`: [`FitNet`].
    FitNet {
        /// The stage: the tap `feats.<layer>`.
        layer: usize,
    },
    /// `at`: [`Attention`].
    At {
        /// The exponent p.
        power: u32,
    },
    /// `nst`: [`Nst`].
    Nst,
    /// `pkt`: [`Pkt`].
    Pkt,
    /// `kdsvd`: [`KdSvd`].
    KdSvd,
    /// `ofd`: [`Overhaul`].
    Ofd,
    /// `rkd`: [`Rkd`].
    Rkd {
        /// Weight of the distances.
        distance_weight: f64,
        /// Weight of the angles.
        angle_weight: f64,
    },
    /// `vid`: [`Vid`].
    Vid {
        /// Which version.
        form: Form,
    },
    /// `sp`: [`Similarity`].
    Sp,
    /// `crd`: [`Crd`].
    Crd {
        /// Embeddings, negatives, temperature, momentum.
        settings: CrdSettings,
    },
    /// `reviewkd`: [`ReviewKd`].
    ReviewKd,
    /// `seed_kd`: [`SeedKd`].
    SeedKd {
        /// Softmax temperature T.
        temperature: Temperature,
        /// The balance a.
        a: f64,
    },
    /// `dkd_reference`: [`DkdReference`].
    DkdReference {
        /// Weights alpha and beta.
        weights: DkdWeights,
        /// Softmax temperature T.
        temperature: Temperature,
        /// Growth of the weights over the first epochs.
        warmup: Warmup,
    },
    /// One that [`crate::register_loss`] or [`crate::register_objective`] made known.
    Custom(Custom),
}

impl Method {
    /// All names but those of registered methods, in the order of the documentation.
    pub const NAMES: [&'static str; 27] = [
        "ce",
        "kd",
        "dkd",
        "tckd",
        "nckd",
        "dist",
        "nkd",
        "mlkd",
        "ttm",
        "wttm",
        "ctkd",
        "rld",
        "sdd",
        "tfkd",
        "fitnet",
        "at",
        "nst",
        "pkt",
        "kdsvd",
        "ofd",
        "rkd",
        "vid",
        "sp",
        "crd",
        "reviewkd",
        "seed_kd",
        "dkd_reference",
    ];

    /// The method called `name` with its default settings: no label smoothing; T = 4, the sum over classes averaged over
    /// rows; DKD with alpha = 1, beta = 8 and, except for the reference, 20 epochs of warm-up; DIST with weights 2 and 2;
    /// NKD with T = 1, gamma = 1.5; TTM and WTTM with the exponent 0.1; CTKD from 1 to 21 over 10 epochs; RLD with
    /// alpha = 1 at T = 1, beta = 8 at T = 4 and 20 epochs of warm-up; SDD with DKD (alpha = 1, beta = 8, T = 4) at
    /// the scales 1, 2, 4 and a complementary weight of 2; Tf-KD with T = 20, confidence 0.99; FitNet's
    /// stage 2; AT's p = 2; RKD's weights 25 and 50; CRD with 128 dimensions, 16,384 negatives, T = 0.07; the papers'
    /// forms; the replication's T = 5, a = 0.5.
    ///
    /// # Errors
    /// [`Error::UnknownMethod`], listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let temperature = Temperature::FOUR;
        let weights = DkdWeights::default();
        Ok(match name {
            "ce" => Self::Ce { label_smoothing: 0.0 },
            "kd" => Self::Kd { temperature, reduction: Reduction::BatchMean },
            "dkd" => Self::Dkd { weights, temperature, warmup: Warmup { epochs: 20 } },
            "tckd" => Self::Tckd { temperature },
            "nckd" => Self::Nckd { temperature },
            "dist" => Self::Dist { weights: DistWeights::default(), temperature },
            "nkd" => Self::Nkd { temperature: Temperature::ONE, gamma: 1.5 },
            "mlkd" => Self::Mlkd { temperature, form: Form::Paper },
            "ttm" => Self::Ttm { gamma: 0.1 },
            "wttm" => Self::Wttm { gamma: 0.1 },
            "ctkd" => Self::Ctkd { curriculum: Curriculum::default() },
            "rld" => Self::Rld { settings: RldSettings::default(), warmup: Warmup { epochs: 20 } },
            "sdd" => Self::Sdd { settings: SddSettings::default() },
            "tfkd" => {
                Self::TfKd { temperature: Temperature::new(20.0)?, confidence: 0.99, form: Form::Paper }
            }
            "fitnet" => Self::FitNet { layer: 2 },
            "at" => Self::At { power: 2 },
            "nst" => Self::Nst,
            "pkt" => Self::Pkt,
            "kdsvd" => Self::KdSvd,
            "ofd" => Self::Ofd,
            "rkd" => Self::Rkd { distance_weight: 25.0, angle_weight: 50.0 },
            "vid" => Self::Vid { form: Form::Paper },
            "sp" => Self::Sp,
            "crd" => Self::Crd { settings: CrdSettings::default() },
            "reviewkd" => Self::ReviewKd,
            "seed_kd" => Self::SeedKd { temperature: Temperature::new(5.0)?, a: 0.5 },
            "dkd_reference" => Self::DkdReference { weights, temperature, warmup: Warmup::NONE },
            _ => match Custom::named(name) {
                Some(custom) => Self::Custom(custom),
                None => {
                    let known = Self::NAMES.into_iter().chain(Custom::names()).collect::<Vec<_>>().join(", ");
                    return Err(Error::UnknownMethod { name: name.into(), known });
                }
            },
        })
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ce { .. } => "ce",
            Self::Kd { .. } => "kd",
            Self::Dkd { .. } => "dkd",
            Self::Tckd { .. } => "tckd",
            Self::Nckd { .. } => "nckd",
            Self::Dist { .. } => "dist",
            Self::Nkd { .. } => "nkd",
            Self::Mlkd { .. } => "mlkd",
            Self::Ttm { .. } => "ttm",
            Self::Wttm { .. } => "wttm",
            Self::Ctkd { .. } => "ctkd",
            Self::Rld { .. } => "rld",
            Self::Sdd { .. } => "sdd",
            Self::TfKd { .. } => "tfkd",
            Self::FitNet { .. } => "fitnet",
            Self::At { .. } => "at",
            Self::Nst => "nst",
            Self::Pkt => "pkt",
            Self::KdSvd => "kdsvd",
            Self::Ofd => "ofd",
            Self::Rkd { .. } => "rkd",
            Self::Vid { .. } => "vid",
            Self::Sp => "sp",
            Self::Crd { .. } => "crd",
            Self::ReviewKd => "reviewkd",
            Self::SeedKd { .. } => "seed_kd",
            Self::DkdReference { .. } => "dkd_reference",
            Self::Custom(custom) => custom.name(),
        }
    }

    /// Whether it needs a teacher's outputs.
    pub fn needs_teacher(&self) -> bool {
        match self {
            Self::Ce { .. } | Self::TfKd { .. } => false,
            Self::Custom(custom) => custom.build().needs_teacher(),
            _ => true,
        }
    }

    /// Whether it reads feature maps: logits that a caller changes (standardised ones) are not for it.
    pub fn reads_features(&self) -> bool {
        use Method::{At, Crd, FitNet, KdSvd, Nst, Ofd, Pkt, ReviewKd, Rkd, Sdd, Sp, Vid};
        let by_stage = matches!(self, FitNet { .. } | At { .. } | Nst | KdSvd | Ofd | Vid { .. } | ReviewKd);
        by_stage || matches!(self, Pkt | Rkd { .. } | Sp | Crd { .. } | Sdd { .. })
    }

    /// Whether its loss of two views is more than the sum of the losses of each: they must then be computed together.
    pub fn joins_views(&self) -> bool {
        matches!(self, Self::Mlkd { form: Form::Reference, .. })
    }

    /// Whether it uses labels: a loss of images that were mixed must not. A registered method is taken not to.
    pub fn uses_labels(&self) -> bool {
        use Method::{Ce, Crd, Dkd, DkdReference, Nckd, Nkd, Rld, Sdd, SeedKd, Tckd, TfKd};
        let target = matches!(
            self,
            Dkd { .. } | DkdReference { .. } | Tckd { .. } | Nckd { .. } | Nkd { .. } | Rld { .. }
        );
        target || matches!(self, Ce { .. } | SeedKd { .. } | TfKd { .. } | Crd { .. } | Sdd { .. })
    }

    /// The factor with which it is usually added to a cross-entropy of weight 1: for losses on feature maps, whose sizes differ by
    /// orders of magnitude, that of the DKD paper's reference; 1 for others.
    pub fn usual_weight(&self) -> f64 {
        match self {
            Self::FitNet { .. } => 100.0,
            Self::At { .. } => 1000.0,
            Self::Nst => 50.0,
            Self::Pkt => 30_000.0,
            Self::Ofd => 0.001,
            Self::Sp => 3000.0,
            Self::Crd { .. } => 0.8,
            _ => 1.0,
        }
    }

    /// The objective.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting outside its range.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let half = |half, temperature| Box::new(DkdPart { half, temperature });
        Ok(match *self {
            Self::Ce { label_smoothing } => Box::new(CrossEntropy::new(label_smoothing)?),
            Self::Kd { temperature, reduction } => Box::new(Kd { temperature, reduction }),
            Self::Dkd { weights, temperature, warmup } => Box::new(Dkd { weights, temperature, warmup }),
            Self::Tckd { temperature } => half(Half::Target, temperature),
            Self::Nckd { temperature } => half(Half::NonTarget, temperature),
            Self::Dist { weights, temperature } => Box::new(Dist::new(weights, temperature)?),
            Self::Nkd { temperature, gamma } => Box::new(Nkd::new(temperature, gamma)?),
            Self::Mlkd { temperature, form } => Box::new(Mlkd { temperature, form }),
            Self::Ttm { gamma } => Box::new(Ttm::new(gamma)?),
            Self::Wttm { gamma } => Box::new(Ttm::weighted(gamma)?),
            Self::Ctkd { curriculum } => Box::new(Ctkd::new(curriculum)?),
            Self::Rld { settings, warmup } => Box::new(Rld::new(settings, warmup)?),
            Self::Sdd { settings } => Box::new(Sdd::new(settings)?),
            Self::TfKd { temperature, confidence, form } => {
                Box::new(TfKd::new(temperature, confidence, form)?)
            }
            Self::FitNet { layer } => Box::new(FitNet::new(layer)),
            Self::At { power } => Box::new(Attention::new(power)?),
            Self::Nst => Box::new(Nst::default()),
            Self::Pkt => Box::new(Pkt::default()),
            Self::KdSvd => Box::new(KdSvd::default()),
            Self::Ofd => Box::new(Overhaul::default()),
            Self::Rkd { distance_weight, angle_weight } => Box::new(Rkd::new(distance_weight, angle_weight)?),
            Self::Vid { form } => Box::new(Vid::new(form)),
            Self::Sp => Box::new(Similarity::default()),
            Self::Crd { settings } => Box::new(Crd::new(settings)?),
            Self::ReviewKd => Box::new(ReviewKd::default()),
            Self::SeedKd { temperature, a } => Box::new(SeedKd::new(temperature, a)?),
            Self::DkdReference { weights, temperature, warmup } => {
                Box::new(DkdReference { weights, temperature, warmup })
            }
            Self::Custom(custom) => custom.build(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_builds() {
        for name in Method::NAMES {
            let method = Method::named(name).unwrap();
            assert_eq!(method.name(), name);
            assert_eq!(method.build().unwrap().needs_teacher(), method.needs_teacher());
            assert_eq!(method.needs_teacher(), !["ce", "tfkd"].contains(&name));
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let message = Method::named("dkd2").unwrap_err().to_string();
        assert!(message.contains("`dkd2`") && message.contains("ce, kd, dkd"), "{message}");
    }

    #[test]
    fn settings_are_checked() {
        let message = Method::Ce { label_smoothing: 1.0 }.build().err().unwrap().to_string();
        assert!(message.contains("label_smoothing") && message.contains("below 1"), "{message}");
        let seed = Method::SeedKd { temperature: Temperature::ONE, a: f64::NAN };
        assert!(matches!(seed.build(), Err(Error::Setting { key: "a", .. })));
        let (temperature, warmup) = (Temperature::ONE, Warmup::NONE);
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            let gamma = DistWeights { gamma: value, ..DistWeights::default() };
            let beta = RldSettings { beta: value, ..RldSettings::default() };
            let lowest = Curriculum { temperature_min: value, ..Curriculum::default() };
            let range = Curriculum { temperature_range: value, ..Curriculum::default() };
            for (method, at) in [
                (Method::Dist { weights: gamma, temperature }, "gamma"),
                (Method::Nkd { temperature, gamma: value }, "gamma"),
                (Method::Ttm { gamma: value }, "gamma"),
                (Method::Wttm { gamma: value }, "gamma"),
                (Method::Ctkd { curriculum: lowest }, "temperature_min"),
                (Method::Ctkd { curriculum: range }, "temperature_range"),
                (Method::Rld { settings: beta, warmup }, "beta"),
                (Method::TfKd { temperature, confidence: value, form: Form::Paper }, "confidence"),
            ] {
                let outcome = method.build();
                assert!(matches!(outcome, Err(Error::Setting { key, .. }) if key == at), "{method:?}");
            }
        }
        assert!(Method::Ttm { gamma: 0.0 }.build().is_err());
        let zero = Curriculum { temperature_min: 0.0, ..Curriculum::default() };
        assert!(Method::Ctkd { curriculum: zero }.build().is_err());
    }
}
