//! Which losses have a kernel, and with what weights.

use crate::event::TermValue;
use crate::{PartRecipe, RowRecipe};
use dkd_kernels::gpu::losses::{Decoupling, Totals, Weights};
use dkd_losses::{Method, Reduction, Warmup};

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Ce,
    Kd,
    Tckd,
    Nckd,
}

/// One term of a row's loss.
#[derive(Clone, Debug)]
struct Term {
    which: Which,
    name: String,
    weight: f64,
    warmups: [Warmup; 2],
    /// Of the mean over rows.
    divisor: f64,
}

impl Term {
    fn weight(&self, epoch: usize) -> f64 {
        self.weight * self.warmups.iter().map(|w| w.factor(epoch)).product::<f64>()
    }
}

/// All terms of a row's loss.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    all: Vec<Term>,
    kd_temperature: f64,
    dkd_temperature: f64,
    decoupling: Decoupling,
    /// Whether KD and DKD see standardised logits.
    pub standardize: bool,
}

impl Terms {
    /// Those of a row, if each has a kernel: cross-entropy, KD, DKD (also the reference's) or its halves, the replication's KD, all but the
    /// first with or all without standardised logits, each term once. Else what has none.
    pub fn of(row: &RowRecipe, classes: usize) -> Result<Self, String> {
        let mut terms = Self {
            all: Vec::new(),
            kd_temperature: 1.0,
            dkd_temperature: 1.0,
            decoupling: Decoupling::Stable,
            standardize: false,
        };
        for part in &row.parts {
            if terms.add(part, classes).is_none() {
                return Err(format!("`{}` as it is set here", part.name));
            }
        }
        let mut distilling = row.parts.iter().filter(|p| !matches!(p.method, Method::Ce { .. }));
        terms.standardize = distilling.next().is_some_and(|p| p.standardize);
        let alike = distilling.all(|p| p.standardize == terms.standardize);
        let ce = row.parts.iter().any(|p| p.standardize && matches!(p.method, Method::Ce { .. }));
        if !alike || ce {
            return Err("standardised logits for some losses only".to_owned());
        }
        Ok(terms)
    }

    /// Adds a part's terms, unless one has no kernel or is there already.
    fn add(&mut self, part: &PartRecipe, classes: usize) -> Option<()> {
        let dkd_taken = self.dkd().is_some();
        let mut term = |which, name: &str, weight: f64, own: Warmup, divisor: f64| {
            let taken = self.all.iter().any(|t| t.which == which);
            let name = if part.name == name { name.to_owned() } else { format!("{}.{name}", part.name) };
            let weight = part.weight * weight;
            self.all.push(Term { which, name, weight, warmups: [part.warmup, own], divisor });
            (!taken).then_some(())
        };
        let mut dkd_temperature = None;
        match part.method {
            Method::Ce { label_smoothing: 0.0 } => term(Which::Ce, "ce", 1.0, Warmup::NONE, 1.0)?,
            Method::Kd { temperature, reduction } => {
                let divisor = match reduction {
                    Reduction::BatchMean => 1.0,
                    Reduction::Mean => classes as f64,
                    Reduction::Sum => return None,
                };
                term(Which::Kd, "kd", 1.0, Warmup::NONE, divisor)?;
                self.kd_temperature = temperature.get();
            }
            Method::Dkd { weights, temperature, warmup } => {
                term(Which::Tckd, "tckd", weights.alpha, warmup, 1.0)?;
                term(Which::Nckd, "nckd", weights.beta, warmup, 1.0)?;
                dkd_temperature = Some(temperature.get());
            }
            Method::DkdReference { weights, temperature, warmup } => {
                term(Which::Tckd, "tckd", weights.alpha, warmup, 1.0)?;
                term(Which::Nckd, "nckd", weights.beta, warmup, 1.0)?;
                dkd_temperature = Some(temperature.get());
                self.decoupling = Decoupling::Reference;
            }
            Method::SeedKd { temperature, a } => {
                let square = temperature.squared();
                // The kernel's KD has T^2 in it, this one has not.
                term(Which::Kd, "kd", square + a, Warmup::NONE, square * classes as f64)?;
                term(Which::Ce, "ce", 1.0 - a, Warmup::NONE, 1.0)?;
                self.kd_temperature = temperature.get();
            }
            Method::Tckd { temperature } => {
                term(Which::Tckd, "tckd", 1.0, Warmup::NONE, 1.0)?;
                dkd_temperature = Some(temperature.get());
            }
            Method::Nckd { temperature } => {
                term(Which::Nckd, "nckd", 1.0, Warmup::NONE, 1.0)?;
                dkd_temperature = Some(temperature.get());
            }
            _ => return None,
        }
        if let Some(temperature) = dkd_temperature {
            if dkd_taken && self.dkd_temperature != temperature {
                return None;
            }
            self.dkd_temperature = temperature;
        }
        Some(())
    }

    fn has(&self, which: Which) -> bool {
        self.all.iter().any(|t| t.which == which)
    }

    /// Whether KD is computed.
    pub fn kd(&self) -> bool {
        self.has(Which::Kd)
    }

    /// How DKD or a half of it is computed, if it is.
    pub fn dkd(&self) -> Option<Decoupling> {
        (self.has(Which::Tckd) || self.has(Which::Nckd)).then_some(self.decoupling)
    }

    /// Whether a teacher is asked.
    pub fn taught(&self) -> bool {
        self.kd() || self.dkd().is_some()
    }

    /// For the kernel, in an epoch.
    pub fn weights(&self, epoch: usize) -> Weights {
        let of = |which| {
            let term = self.all.iter().find(|t| t.which == which);
            term.map_or(0.0, |t| t.weight(epoch) / t.divisor) as f32
        };
        Weights {
            ce: of(Which::Ce),
            kd: of(Which::Kd),
            alpha: of(Which::Tckd),
            beta: of(Which::Nckd),
            kd_temperature: self.kd_temperature as f32,
            dkd_temperature: self.dkd_temperature as f32,
        }
    }

    /// The weighted sum of terms, and each term, as means over the rows that were summed.
    pub fn means(&self, totals: &Totals, epoch: usize) -> (f64, Vec<TermValue>) {
        let mut loss = 0.0;
        let mut values = Vec::with_capacity(self.all.len());
        for term in &self.all {
            let sum = match term.which {
                Which::Ce => totals.ce,
                Which::Kd => totals.kd,
                Which::Tckd => totals.tckd,
                Which::Nckd => totals.nckd,
            };
            let value = sum / totals.rows.max(1.0) / term.divisor;
            loss += term.weight(epoch) * value;
            values.push(TermValue { name: term.name.clone(), value });
        }
        (loss, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn terms(loss: &str) -> Result<Terms, String> {
        let text = format!("student.model = 'resnet8'\nteacher.model = 'resnet8'\nloss = [{loss}]");
        let recipe = Config::parse(&text, "test").unwrap().check().unwrap();
        Terms::of(&recipe.rows[0], 10)
    }

    #[test]
    fn losses_with_kernels_are_found() {
        let t = terms("{ method = 'ce' }, { method = 'dkd', alpha = 2.0, beta = 3.0, warmup_epochs = 4 }")
            .unwrap();
        let w = t.weights(1);
        assert_eq!((w.ce, w.kd, w.alpha, w.beta), (1.0, 0.0, 0.5, 0.75));
        assert!(t.dkd() == Some(Decoupling::Stable) && !t.kd() && !t.standardize);
        let totals = Totals { ce: 4.0, kd: 0.0, tckd: 2.0, nckd: 6.0, correct: 1.0, rows: 2.0 };
        let (loss, values) = t.means(&totals, 4);
        let named: Vec<(&str, f64)> = values.iter().map(|v| (v.name.as_str(), v.value)).collect();
        assert_eq!(named, [("ce", 2.0), ("dkd.tckd", 1.0), ("dkd.nckd", 3.0)]);
        assert_eq!(loss, 2.0 + 2.0 + 9.0);
        let t = terms("{ method = 'ce' }, { method = 'kd', weight = 0.5, reduction = 'mean' }").unwrap();
        assert!((t.weights(1).kd - 0.05).abs() < 1e-7);
        assert!(terms("{ method = 'ce' }, { method = 'kd', standardize = true }").unwrap().standardize);
    }

    #[test]
    fn others_are_not() {
        for loss in [
            "{ method = 'ce', label_smoothing = 0.1 }",
            "{ method = 'ce' }, { method = 'dist' }",
            "{ method = 'ce' }, { method = 'seed_kd' }",
            "{ method = 'dkd' }, { method = 'dkd_reference' }",
            "{ method = 'ce' }, { method = 'kd', reduction = 'sum' }",
            "{ method = 'ce' }, { method = 'kd', standardize = true }, { method = 'dkd' }",
            "{ method = 'ce' }, { method = 'tckd', temperature = 2.0 }, { method = 'nckd', temperature = 4.0 }",
        ] {
            assert!(terms(loss).is_err(), "{loss}");
        }
        assert!(terms("{ method = 'ce' }, { method = 'dist' }").unwrap_err().contains("`dist`"));
    }
}
