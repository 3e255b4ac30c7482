//! Parts of a loss.

use super::super::raw::RawLoss;
use super::Checker;
use crate::recipe::PartRecipe;
use crate::{Error, Result};
use dkd_losses::{Method, Reduction, Temperature, Warmup};

impl Checker<'_> {
    pub(super) fn part(&self, key: &str, raw: &RawLoss) -> Result<PartRecipe> {
        let fail = |e: dkd_losses::Error| Error::Config {
            place: self.place.to_owned(),
            message: format!("`{key}`: {e}"),
        };
        let mut method = Method::named(&raw.method).map_err(fail)?;
        let mut used: Vec<&str> = Vec::new();
        let mut own_warmup = Warmup::NONE;
        let temperature = |t: &mut Temperature| -> Result<()> {
            if let Some(v) = raw.temperature {
                *t = Temperature::new(v).map_err(fail)?;
            }
            Ok(())
        };
        match &mut method {
            Method::Ce { label_smoothing } => {
                used.push("label_smoothing");
                *label_smoothing = raw.label_smoothing.unwrap_or(*label_smoothing);
            }
            Method::Kd { temperature: t, reduction } => {
                used.extend(["temperature", "reduction"]);
                temperature(t)?;
                if let Some(name) = &raw.reduction {
                    *reduction = Reduction::from_name(name).ok_or_else(|| {
                        self.error(&format!("{key}.reduction"), name, "`batchmean`, `mean` or `sum`")
                    })?;
                }
            }
            Method::Tckd { temperature: t } | Method::Nckd { temperature: t } => {
                used.push("temperature");
                temperature(t)?;
            }
            Method::SeedKd { temperature: t, a } => {
                used.extend(["temperature", "a"]);
                temperature(t)?;
                *a = raw.a.unwrap_or(*a);
            }
            Method::Dkd { weights, temperature: t, warmup }
            | Method::DkdReference { weights, temperature: t, warmup } => {
                used.extend(["temperature", "alpha", "beta"]);
                temperature(t)?;
                for (name, given, value) in
                    [("alpha", raw.alpha, &mut weights.alpha), ("beta", raw.beta, &mut weights.beta)]
                {
                    let given = given.unwrap_or(*value);
                    *value = self.number(&format!("{key}.{name}"), given, true, "a finite number")?;
                }
                // It becomes the part's, which every method has.
                own_warmup = std::mem::replace(warmup, Warmup::NONE);
            }
        }
        let given = [
            ("temperature", raw.temperature.is_some()),
            ("alpha", raw.alpha.is_some()),
            ("beta", raw.beta.is_some()),
            ("a", raw.a.is_some()),
            ("label_smoothing", raw.label_smoothing.is_some()),
            ("reduction", raw.reduction.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(name, given)| *given && !used.contains(name)) {
            let message = format!(
                "`{key}.{name}` is no setting of method `{}`; it has: {}",
                raw.method,
                used.join(", ")
            );
            return Err(Error::Config { place: self.place.to_owned(), message });
        }
        method.build().map_err(fail)?;
        let weight = raw.weight.unwrap_or(1.0);
        self.number(&format!("{key}.weight"), weight, true, "a finite number")?;
        Ok(PartRecipe {
            name: raw.name.clone().unwrap_or_else(|| raw.method.clone()),
            method,
            weight,
            warmup: raw.warmup_epochs.map_or(own_warmup, |epochs| Warmup { epochs }),
        })
    }
}
