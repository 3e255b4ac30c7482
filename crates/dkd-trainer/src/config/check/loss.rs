//! Parts of a loss.

use super::super::raw::RawLoss;
use super::Checker;
use crate::recipe::PartRecipe;
use crate::{Error, Result};
use dkd_losses::{Form, Method, Reduction, Scales, SddBase, Temperature, Warmup};

impl Checker<'_> {
    pub(super) fn part(&self, key: &str, raw: &RawLoss) -> Result<PartRecipe> {
        let fail = |e: dkd_losses::Error| Error::Config {
            place: self.place.to_owned(),
            message: format!("`{key}`: {e}"),
        };
        let mut method = Method::named(&raw.method).map_err(fail)?;
        let mut used: Vec<&str> = Vec::new();
        let mut own_warmup = Warmup::NONE;
        let softmax = |given: Option<f64>, t: &mut Temperature| -> Result<()> {
            if let Some(v) = given {
                *t = Temperature::new(v).map_err(fail)?;
            }
            Ok(())
        };
        let temperature = |t: &mut Temperature| softmax(raw.temperature, t);
        let finite = |name: &str, given: Option<f64>, value: &mut f64| -> Result<()> {
            let given = given.unwrap_or(*value);
            *value = self.number(&format!("{key}.{name}"), given, true, "a finite number")?;
            Ok(())
        };
        let version = |form: &mut Form| -> Result<()> {
            if let Some(name) = &raw.form {
                *form = Form::from_name(name)
                    .ok_or_else(|| self.error(&format!("{key}.form"), name, "`paper` or `reference`"))?;
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
            Method::Dist { weights, temperature: t } => {
                used.extend(["temperature", "beta", "gamma"]);
                temperature(t)?;
                finite("beta", raw.beta, &mut weights.beta)?;
                finite("gamma", raw.gamma, &mut weights.gamma)?;
            }
            Method::Nkd { temperature: t, gamma } => {
                used.extend(["temperature", "gamma"]);
                temperature(t)?;
                finite("gamma", raw.gamma, gamma)?;
            }
            Method::Mlkd { temperature: t, form } => {
                used.extend(["temperature", "form"]);
                temperature(t)?;
                version(form)?;
            }
            Method::Ttm { gamma } | Method::Wttm { gamma } => {
                used.push("gamma");
                finite("gamma", raw.gamma, gamma)?;
            }
            Method::Ctkd { curriculum: c } => {
                used.extend(["temperature_min", "temperature_range", "curriculum_epochs"]);
                finite("temperature_min", raw.temperature_min, &mut c.temperature_min)?;
                finite("temperature_range", raw.temperature_range, &mut c.temperature_range)?;
                c.epochs = raw.curriculum_epochs.unwrap_or(c.epochs);
            }
            Method::Rld { settings, warmup } => {
                used.extend(["temperature", "alpha_temperature", "alpha", "beta"]);
                temperature(&mut settings.temperature)?;
                softmax(raw.alpha_temperature, &mut settings.alpha_temperature)?;
                finite("alpha", raw.alpha, &mut settings.alpha)?;
                finite("beta", raw.beta, &mut settings.beta)?;
                own_warmup = std::mem::replace(warmup, Warmup::NONE);
            }
            Method::Sdd { settings: s } => {
                used.extend(["base", "scales", "complementary_weight", "temperature"]);
                if let Some(name) = &raw.base {
                    s.base = SddBase::named(name)
                        .ok_or_else(|| self.error(&format!("{key}.base"), name, "`kd`, `dkd` or `nkd`"))?;
                }
                if let Some(scales) = &raw.scales {
                    s.scales = Scales::new(scales).map_err(fail)?;
                }
                finite("complementary_weight", raw.complementary_weight, &mut s.complementary_weight)?;
                match &mut s.base {
                    SddBase::Kd { temperature: t } => temperature(t)?,
                    SddBase::Dkd { weights, temperature: t } => {
                        used.extend(["alpha", "beta"]);
                        temperature(t)?;
                        finite("alpha", raw.alpha, &mut weights.alpha)?;
                        finite("beta", raw.beta, &mut weights.beta)?;
                        own_warmup = Warmup { epochs: 20 };
                    }
                    SddBase::Nkd { temperature: t, gamma } => {
                        used.push("gamma");
                        temperature(t)?;
                        finite("gamma", raw.gamma, gamma)?;
                    }
                }
            }
            Method::TfKd { temperature: t, confidence, form } => {
                used.extend(["temperature", "confidence", "form"]);
                temperature(t)?;
                finite("confidence", raw.confidence, confidence)?;
                version(form)?;
            }
            Method::FitNet { layer } => {
                used.push("layer");
                *layer = raw.layer.unwrap_or(*layer);
            }
            Method::At { power } => {
                used.push("power");
                *power = raw.power.unwrap_or(*power);
            }
            Method::Nst | Method::Pkt | Method::KdSvd | Method::Ofd | Method::Sp | Method::Custom(_) => {}
            Method::ReviewKd => own_warmup = Warmup { epochs: 20 },
            Method::Rkd { distance_weight, angle_weight } => {
                used.extend(["distance_weight", "angle_weight"]);
                finite("distance_weight", raw.distance_weight, distance_weight)?;
                finite("angle_weight", raw.angle_weight, angle_weight)?;
            }
            Method::Vid { form } => {
                used.push("form");
                version(form)?;
            }
            Method::Crd { settings: s } => {
                used.extend(["dimension", "negatives", "temperature", "momentum"]);
                s.dimension = raw.dimension.unwrap_or(s.dimension);
                s.negatives = raw.negatives.unwrap_or(s.negatives);
                s.temperature = raw.temperature.unwrap_or(s.temperature);
                s.momentum = raw.momentum.unwrap_or(s.momentum);
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
                finite("alpha", raw.alpha, &mut weights.alpha)?;
                finite("beta", raw.beta, &mut weights.beta)?;
                // It becomes the part's, which every method has.
                own_warmup = std::mem::replace(warmup, Warmup::NONE);
            }
        }
        // Standardised logits are for what compares them; a cross-entropy on them could never become small.
        if raw.method != "ce" && !method.reads_features() {
            used.push("standardize");
        }
        let given = [
            ("temperature", raw.temperature.is_some()),
            ("alpha", raw.alpha.is_some()),
            ("beta", raw.beta.is_some()),
            ("gamma", raw.gamma.is_some()),
            ("alpha_temperature", raw.alpha_temperature.is_some()),
            ("temperature_min", raw.temperature_min.is_some()),
            ("temperature_range", raw.temperature_range.is_some()),
            ("curriculum_epochs", raw.curriculum_epochs.is_some()),
            ("confidence", raw.confidence.is_some()),
            ("form", raw.form.is_some()),
            ("base", raw.base.is_some()),
            ("scales", raw.scales.is_some()),
            ("complementary_weight", raw.complementary_weight.is_some()),
            ("layer", raw.layer.is_some()),
            ("power", raw.power.is_some()),
            ("distance_weight", raw.distance_weight.is_some()),
            ("angle_weight", raw.angle_weight.is_some()),
            ("dimension", raw.dimension.is_some()),
            ("negatives", raw.negatives.is_some()),
            ("momentum", raw.momentum.is_some()),
            ("a", raw.a.is_some()),
            ("label_smoothing", raw.label_smoothing.is_some()),
            ("reduction", raw.reduction.is_some()),
            ("standardize", raw.standardize.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(name, given)| *given && !used.contains(name)) {
            let message = format!(
                "`{key}.{name}` is no setting of method `{}`; it has: {}",
                raw.method,
                if used.is_empty() { "none".to_owned() } else { used.join(", ") }
            );
            return Err(Error::Config { place: self.place.to_owned(), message });
        }
        method.build().map_err(fail)?;
        let weight = raw.weight.unwrap_or(method.usual_weight());
        self.number(&format!("{key}.weight"), weight, true, "a finite number")?;
        let own_momentum = raw.own_momentum;
        if let Some(value) = own_momentum {
            self.number(
                &format!("{key}.own_momentum"),
                value,
                (0.0..1.0).contains(&value),
                "at least 0 and below 1",
            )?;
        }
        Ok(PartRecipe {
            name: raw.name.clone().unwrap_or_else(|| raw.method.clone()),
            method,
            weight,
            warmup: raw.warmup_epochs.map_or(own_warmup, |epochs| Warmup { epochs }),
            standardize: raw.standardize.unwrap_or(false),
            own_momentum,
        })
    }
}
