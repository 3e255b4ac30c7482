//! A row's state on a device, beside its network.

use super::terms::Terms;
use crate::cohort::row::{Position, Row};
use crate::{Result, SgdRecipe};
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::flat;
use dkd_kernels::gpu::losses::{Distillation, Losses, Totals, Weights};
use dkd_kernels::gpu::sgd::{self, NORM_PARTS, Settings, Update, squared_norm};
use dkd_kernels::gpu::{Element, Machine, View};

/// What a recorded step of one student reads and writes.
pub(super) struct Student {
    pub terms: Terms,
    settings: View,
    momentum: View,
    weights: View,
    /// Of every row of the largest batch.
    rows: View,
    totals: View,
    bad: View,
    /// Where the gradient's norm is computed, if it is limited.
    norm: Option<(View, View)>,
    limit: f64,
}

impl Student {
    /// For a session with this momentum, if there is any yet, and largest norm of gradients, 0 for none.
    pub fn new(
        machine: &dyn Machine,
        session: &GpuSession,
        terms: Terms,
        start: &[f32],
        limit: f64,
    ) -> dkd_kernels::gpu::Result<Self> {
        let momentum = machine.zeros(Element::F32, session.values().len())?;
        if !start.is_empty() {
            let bytes: Vec<u8> = start.iter().flat_map(|v| v.to_le_bytes()).collect();
            machine.write(&momentum, &bytes)?;
        }
        let norm = if limit > 0.0 {
            Some((machine.zeros(Element::F64, NORM_PARTS)?, machine.zeros(Element::F64, 1)?))
        } else {
            None
        };
        Ok(Self {
            terms,
            settings: machine.zeros(Element::U64, Settings::LEN)?,
            momentum,
            weights: machine.zeros(Element::F32, Weights::LEN)?,
            rows: machine.zeros(Element::F32, session.max_batch() * Losses::COLUMNS)?,
            totals: machine.zeros(Element::F64, Totals::LEN)?,
            bad: machine.zeros(Element::U32, 1)?,
            norm,
            limit,
        })
    }

    /// Writes what is new in this step.
    pub fn select(&self, machine: &dyn Machine, row: &Row, at: Position) -> dkd_kernels::gpu::Result<()> {
        let SgdRecipe { momentum, dampening, nesterov, weight_decay, .. } = row.recipe.optimizer;
        let sgd = flat::Sgd {
            lr: row.rate(at) as f32,
            momentum: momentum as f32,
            dampening: dampening as f32,
            weight_decay: weight_decay as f32,
            scale: 1.0,
            nesterov,
            first: row.updates() == 0,
        };
        Settings { sgd, limit: self.limit }.write(machine, &self.settings)?;
        self.terms.weights(at.epoch).write(machine, &self.weights)
    }

    /// Forward, loss, backward, update for the `n` images in the session's input; may be recorded.
    pub fn step(
        &self,
        machine: &dyn Machine,
        session: &mut GpuSession,
        labels: &View,
        teacher: Option<&View>,
        n: usize,
    ) -> Result<()> {
        session.run(Mode::Train, n)?;
        let (student, gradient) = (session.logits_view(Mode::Train, n)?, session.logits_gradient(n)?);
        let terms = &self.terms;
        let distillation = teacher.filter(|_| terms.taught()).map(|teacher| Distillation {
            teacher,
            kd: terms.kd(),
            dkd: terms.dkd(),
            standardize: terms.standardize,
        });
        let rows = self.rows.first(n * Losses::COLUMNS).map_err(dkd_engine::Error::from)?;
        let losses = Losses {
            student: &student,
            labels,
            weights: &self.weights,
            distillation,
            gradient: &gradient,
            rows: &rows,
            totals: &self.totals,
            bad: &self.bad,
        };
        losses.run(machine).map_err(dkd_engine::Error::from)?;
        session.run_backward()?;
        Ok(self.update(machine, session).map_err(dkd_engine::Error::from)?)
    }

    fn update(&self, machine: &dyn Machine, session: &GpuSession) -> dkd_kernels::gpu::Result<()> {
        if let Some((partial, result)) = &self.norm {
            squared_norm(machine, session.gradients(), partial, result)?;
        }
        sgd::sgd(
            machine,
            &Update {
                settings: &self.settings,
                weights: session.values(),
                gradients: session.gradients(),
                momentum: &self.momentum,
                squared_norm: self.norm.as_ref().map(|(_, result)| result),
                rounded: session.halves(),
            },
        )
    }

    /// Sums since the last call, and whether something was not finite.
    pub fn take(&self, machine: &dyn Machine) -> dkd_kernels::gpu::Result<(Totals, bool)> {
        let totals = Totals::read(machine, &self.totals)?;
        let mut bad = [0; 4];
        machine.read(&self.bad, &mut bad)?;
        machine.clear(&self.totals)?;
        machine.clear(&self.bad)?;
        Ok((totals, bad != [0; 4]))
    }

    /// The momentum, in the order of the session's values.
    pub fn momentum(&self, machine: &dyn Machine) -> dkd_kernels::gpu::Result<Vec<f32>> {
        let mut bytes = vec![0; self.momentum.bytes()];
        machine.read(&self.momentum, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
