//! How a loss of many samples becomes one number.

/// How the B x C elements of a loss are brought to one number.
///
/// Every loss sums over the classes within a row (a Kullback-Leibler divergence is such a sum); what remains to be
/// chosen is the divisor. It is the same for all losses, so that `DKD = alpha TCKD + beta NCKD` holds under each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Sum over classes, mean over rows: divide by B. The definition used in the papers (`batchmean`).
    #[default]
    BatchMean,
    /// Divide by B * C: what `KLDivLoss(reduction="mean")` of PyTorch does. C times smaller than a divergence.
    Mean,
    /// No division.
    Sum,
}

impl Reduction {
    /// All reductions.
    pub const ALL: [Self; 3] = [Self::BatchMean, Self::Mean, Self::Sum];

    /// What the sum over all elements of logits with `rows` rows and `classes` columns is divided by.
    pub fn divisor(self, rows: usize, classes: usize) -> f64 {
        match self {
            Self::BatchMean => rows as f64,
            Self::Mean => (rows * classes) as f64,
            Self::Sum => 1.0,
        }
    }

    /// The name used in configuration files: `batchmean`, `mean`, `sum`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchMean => "batchmean",
            Self::Mean => "mean",
            Self::Sum => "sum",
        }
    }

    /// The reduction called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_divisors() {
        for r in Reduction::ALL {
            assert_eq!(Reduction::from_name(r.name()), Some(r));
        }
        assert_eq!(Reduction::from_name("none"), None);
        assert_eq!(Reduction::ALL.map(|r| r.divisor(4, 10)), [4.0, 40.0, 1.0]);
    }
}
