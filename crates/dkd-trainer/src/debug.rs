//! Looking inside a step: ranges of values and gradients, layer by layer.

use crate::event::TermValue;
use serde::Serialize;

/// How far values spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest finite value; `null` in JSON if there is none.
    pub min: f32,
    /// Largest finite value.
    pub max: f32,
    /// Root of the mean square of the finite values.
    pub rms: f64,
    /// How many are infinite or NaN.
    pub nonfinite: usize,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// The spread of `values`.
    pub fn of(values: &[f32]) -> Self {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let count = finite().count();
        let squares: f64 = finite().map(|v| f64::from(v) * f64::from(v)).sum();
        Self {
            min: finite().reduce(f32::min).unwrap_or(f32::NAN),
            max: finite().reduce(f32::max).unwrap_or(f32::NAN),
            rms: if count == 0 { f64::NAN } else { (squares / count as f64).sqrt() },
            nonfinite: values.len() - count,
            count: values.len(),
        }
    }
}

/// A layer's output in a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Name: that of its parameters, or its kind and number.
    pub name: String,
    /// Its values.
    pub values: Spread,
}

/// A parameter in a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterReport {
    /// Name.
    pub name: String,
    /// Its values.
    pub values: Spread,
    /// Its gradient, if there is one.
    pub gradient: Option<Spread>,
}

/// Where numbers stopped being finite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The first place on the way from the images to the loss: `the images`, `weight conv1.weight`, `the output of conv1`, …
    pub place: String,
    /// The samples with such values there, by their numbers in the training set.
    pub samples: Vec<u32>,
}

impl Origin {
    /// Samples in a line, the first twenty.
    pub fn samples_text(&self) -> String {
        const SHOWN: usize = 20;
        let shown: Vec<String> = self.samples.iter().take(SHOWN).map(u32::to_string).collect();
        let more = self.samples.len().saturating_sub(SHOWN);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        shown.join(", ") + &more
    }
}

/// One step of one row, seen from inside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Row.
    pub row: String,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Step over all epochs, from 0.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// The batch's samples, by their numbers in the training set.
    pub samples: Vec<u32>,
    /// Terms of the loss.
    pub terms: Vec<TermValue>,
    /// Their weighted sum.
    pub loss: f64,
    /// The batch's pixels, normalised.
    pub images: Spread,
    /// The teacher's logits, if the row has a teacher.
    pub teacher: Option<Spread>,
    /// Outputs of all layers, in order; empty for a network that cannot be looked into.
    pub layers: Vec<LayerReport>,
    /// All parameters, with gradients if the loss could be differentiated.
    pub parameters: Vec<ParameterReport>,
    /// Euclidean norm of all gradients of the network together.
    pub gradient_norm: f64,
    /// Where numbers stopped being finite, if they did.
    pub origin: Option<Origin>,
}

/// Asks a run to look inside one step and to end before its update.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Step over all epochs, from 0.
    pub step: u64,
    /// Whether a step of the teacher's own training is meant.
    pub teacher: bool,
    /// What was found: one report for each row that was alive.
    pub reports: Vec<StepReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_count_what_is_not_finite() {
        let s = Spread::of(&[3.0, f32::NAN, -4.0, f32::INFINITY]);
        assert_eq!((s.min, s.max, s.nonfinite, s.count), (-4.0, 3.0, 2, 4));
        assert!((s.rms - 12.5_f64.sqrt()).abs() < 1e-12);
        let none = Spread::of(&[]);
        assert!(none.min.is_nan() && none.rms.is_nan() && none.count == 0);
    }

    #[test]
    fn long_lists_of_samples_are_shortened() {
        let origin = |n: u32| Origin { place: "x".to_owned(), samples: (0..n).collect() };
        assert_eq!(origin(3).samples_text(), "0, 1, 2");
        assert!(origin(25).samples_text().ends_with("19 and 5 more"));
    }
}
