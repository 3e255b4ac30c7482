//! The softmax temperature.
use crate::{Error, Result};

/// A softmax temperature T: finite and above 0, by construction.
///
/// `softmax(z / T)` is sharper than `softmax(z)` for T < 1 and flatter for T > 1. A distillation loss is multiplied by
/// T² so that its gradient keeps its size (Hinton, Vinyals, Dean: *Distilling the knowledge in a neural network*, 2015).
///
/// ```
/// use dkd_losses::Temperature;
/// assert_eq!(Temperature::new(4.0)?.get(), 4.0);
/// assert!(Temperature::new(0.0).is_err() && Temperature::new(f64::NAN).is_err());
/// # Ok::<(), dkd_losses::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Temperature(f64);

impl Temperature {
    /// T = 1: the plain softmax.
    pub const ONE: Self = Self(1.0);
    /// T = 4: what most papers take on CIFAR-100.
    pub const FOUR: Self = Self(4.0);

    /// The temperature `value`.
    ///
    /// # Errors
    /// [`Error::Temperature`] unless `value` is finite and above 0.
    pub fn new(value: f64) -> Result<Self> {
        if value.is_finite() && value > 0.0 { Ok(Self(value)) } else { Err(Error::Temperature { value }) }
    }

    /// T.
    pub fn get(self) -> f64 {
        self.0
    }

    /// T².
    pub fn squared(self) -> f64 {
        self.0 * self.0
    }
}

impl TryFrom<f64> for Temperature {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self> {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_softmax_cannot_use() {
        for value in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(Temperature::new(value), Err(Error::Temperature { .. })), "{value}");
        }
        assert_eq!(Temperature::new(0.05).unwrap().squared(), 0.05 * 0.05);
    }
}
