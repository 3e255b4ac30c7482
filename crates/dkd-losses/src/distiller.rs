//! Several objectives as one.
use candle_core::{Tensor, Var};

use crate::{Batch, Checks, Error, Objective, RequiredTaps, Result, Setup, Term, View, Warmup};

/// One objective inside a [`Distiller`], with its weight.
pub struct Part {
    name: String,
    objective: Box<dyn Objective>,
    weight: f64,
    warmup: Warmup,
    group: Option<usize>,
    standardized: bool,
}

impl Part {
    /// An objective with weight 1 and without warm-up, called `name` in logs and checkpoints.
    pub fn new(name: impl Into<String>, objective: impl Objective + 'static) -> Self {
        Self::boxed(name, Box::new(objective))
    }

    /// [`Part::new`] for an objective that is boxed already, such as [`Method::build`](crate::Method::build)'s.
    pub fn boxed(name: impl Into<String>, objective: Box<dyn Objective>) -> Self {
        Self {
            name: name.into(),
            objective,
            weight: 1.0,
            warmup: Warmup::NONE,
            group: None,
            standardized: false,
        }
    }

    /// Multiplies the weight of each of its terms.
    pub fn weight(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    /// Lets the weight grow over the first epochs, on top of a warm-up of the objective's own.
    pub fn warmup(self, warmup: Warmup) -> Self {
        Self { warmup, ..self }
    }

    /// Puts all its terms into one group, whatever the objective says.
    pub fn group(self, group: usize) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Lets it see the logits of both networks [`standardized`](crate::standardized) row by row.
    pub fn standardized(self) -> Self {
        Self { standardized: true, ..self }
    }
}

/// The sum of several objectives; itself an objective.
///
/// A term is called as its part if the two names agree, else `part.term`; parameters and buffers are called
/// `part.name`. Values are checked once per batch, not once per part.
#[derive(Default)]
pub struct Distiller {
    parts: Vec<Part>,
    checks: Checks,
}

impl Distiller {
    /// No parts yet, [`Checks::Strict`].
    pub fn new() -> Self {
        Self::default()
    }

    /// How far logits are checked before the terms are computed.
    pub fn checks(self, checks: Checks) -> Self {
        Self { checks, ..self }
    }

    /// Adds a part.
    ///
    /// # Errors
    /// [`Error::DuplicatePart`]: names address terms and checkpoint entries.
    pub fn with(mut self, part: Part) -> Result<Self> {
        if self.parts.iter().any(|p| p.name == part.name) {
            return Err(Error::DuplicatePart { name: part.name });
        }
        self.parts.push(part);
        Ok(self)
    }

    /// The parts that are not [`Objective::on_device`].
    pub fn on_host(&self) -> Vec<&str> {
        let parts = self.parts.iter().filter(|p| !p.objective.on_device());
        parts.map(|p| p.name.as_str()).collect()
    }

    fn prefixed<T>(&self, items: impl Fn(&dyn Objective) -> Vec<(String, T)>) -> Vec<(String, T)> {
        let of_part = |part: &Part| {
            let named = items(part.objective.as_ref()).into_iter();
            named.map(|(name, item)| (format!("{}.{name}", part.name), item)).collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(of_part).collect()
    }
}

impl Objective for Distiller {
    fn taps(&self) -> RequiredTaps {
        let mut taps = RequiredTaps::default();
        for part in &self.parts {
            taps.merge(part.objective.taps());
        }
        taps
    }

    fn student_parameters(&self) -> Vec<String> {
        let mut all: Vec<String> = self.parts.iter().flat_map(|p| p.objective.student_parameters()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn on_device(&self) -> bool {
        self.checks == Checks::None && self.on_host().is_empty()
    }

    fn device_bytes(&self, batch: usize) -> u64 {
        self.parts.iter().map(|p| p.objective.device_bytes(batch)).sum()
    }

    fn needs_teacher(&self) -> bool {
        self.parts.iter().any(|p| p.objective.needs_teacher())
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.parts.iter_mut().try_for_each(|p| p.objective.prepare(setup))
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        batch.check(self.checks)?;
        let standardized = if self.parts.iter().any(|p| p.standardized) {
            batch.views.iter().map(View::standardized).collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let mut all = Vec::new();
        for part in &mut self.parts {
            let weight = part.weight * part.warmup.factor(batch.epoch);
            let views = if part.standardized { standardized.as_slice() } else { batch.views };
            for mut term in part.objective.terms(&Batch { views, ..*batch })? {
                if term.name != part.name {
                    term.name = format!("{}.{}", part.name, term.name);
                }
                term.weight *= weight;
                term.group = part.group.unwrap_or(term.group);
                all.push(term);
            }
        }
        Ok(all)
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        self.prefixed(|objective| objective.parameters())
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        self.prefixed(|objective| objective.buffers())
    }

    fn set_buffer(&mut self, name: &str, value: &Tensor) -> Result<()> {
        for part in &mut self.parts {
            // A part's name may contain a dot, so every part whose name is a prefix gets a chance.
            if let Some(rest) = name.strip_prefix(part.name.as_str()).and_then(|r| r.strip_prefix('.'))
                && part.objective.buffers().iter().any(|(own, _)| own == rest)
            {
                return part.objective.set_buffer(rest, value);
            }
        }
        Err(Error::UnknownBuffer { name: name.into() })
    }
}
