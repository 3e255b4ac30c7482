//! The methods by name.
use crate::{
    CrossEntropy, Dkd, DkdPart, DkdReference, DkdWeights, Error, Half, Kd, Objective, Reduction, Result,
    SeedKd, Temperature, Warmup,
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
}

impl Method {
    /// All names, in the order of the documentation.
    pub const NAMES: [&'static str; 7] = ["ce", "kd", "dkd", "tckd", "nckd", "seed_kd", "dkd_reference"];

    /// The method called `name` with its default settings: no label smoothing; T = 4, the sum over classes averaged over
    /// rows; DKD with alpha = 1, beta = 8 and, except for the reference, 20 epochs of warm-up; the replication's T = 5,
    /// a = 0.5.
    ///
    /// # Errors
    /// [`Error::UnknownMethod`], listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let temperature = Temperature::new(4.0)?;
        let weights = DkdWeights::default();
        Ok(match name {
            "ce" => Self::Ce { label_smoothing: 0.0 },
            "kd" => Self::Kd { temperature, reduction: Reduction::BatchMean },
            "dkd" => Self::Dkd { weights, temperature, warmup: Warmup { epochs: 20 } },
            "tckd" => Self::Tckd { temperature },
            "nckd" => Self::Nckd { temperature },
            "seed_kd" => Self::SeedKd { temperature: Temperature::new(5.0)?, a: 0.5 },
            "dkd_reference" => Self::DkdReference { weights, temperature, warmup: Warmup::NONE },
            _ => return Err(Error::UnknownMethod { name: name.into(), known: Self::NAMES.join(", ") }),
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
            Self::SeedKd { .. } => "seed_kd",
            Self::DkdReference { .. } => "dkd_reference",
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
            Self::SeedKd { temperature, a } => Box::new(SeedKd::new(temperature, a)?),
            Self::DkdReference { weights, temperature, warmup } => {
                Box::new(DkdReference { weights, temperature, warmup })
            }
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
            assert_eq!(method.build().unwrap().needs_teacher(), name != "ce");
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
    }
}
