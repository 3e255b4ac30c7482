//! A row's state on a device, beside its network.

use super::between::Between;
use super::kernels::Kernel;
use crate::Result;
use crate::cohort::row::{Position, Row};
use crate::event::TermValue;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::losses::Totals;
use dkd_kernels::gpu::sgd::{self, NORM_PARTS, Settings, Update, squared_norm};
use dkd_kernels::gpu::{Element, Machine, View};

/// How a row's loss is computed.
pub(super) enum Way {
    /// In the middle of one recorded part.
    Kernel(Kernel),
    /// Between two.
    Between(Between),
}

/// What steps gave.
pub(super) struct Seen {
    /// Rows, right answers and cross-entropies; of other losses what [`Seen::terms`] is made of, if anything.
    pub totals: Totals,
    /// The weighted sum of terms, mean over images.
    pub loss: f64,
    /// Each term.
    pub terms: Vec<TermValue>,
    /// Whether something was not finite.
    pub bad: bool,
}

/// What a recorded step of one student reads and writes.
pub(super) struct Student {
    way: Way,
    settings: View,
    /// What is there.
    written: Option<Settings>,
    momentum: View,
    /// Where the gradient's norm is computed, if it is limited or looked at.
    norm: Option<(View, View)>,
    limit: f64,
}

impl Student {
    /// For a session with this momentum, if there is any yet, and largest norm of gradients, 0 for none.
    pub fn new(
        machine: &dyn Machine,
        session: &GpuSession,
        way: Way,
        start: &[f32],
        limit: f64,
    ) -> dkd_kernels::gpu::Result<Self> {
        let momentum = machine.zeros(Element::F32, session.values().len())?;
        if !start.is_empty() {
            machine.write_floats(&momentum, start)?;
        }
        let norm = if limit > 0.0 || matches!(way, Way::Between(_)) {
            Some((machine.zeros(Element::F64, NORM_PARTS)?, machine.zeros(Element::F64, 1)?))
        } else {
            None
        };
        let settings = machine.zeros(Element::U64, Settings::LEN)?;
        Ok(Self { way, settings, written: None, momentum, norm, limit })
    }

    /// Writes what is new in this step: each write is a copy between two steps, for which the device has nothing else to do.
    pub fn select(&mut self, machine: &dyn Machine, row: &Row, at: Position) -> dkd_kernels::gpu::Result<()> {
        let sgd = row.recipe.optimizer.update(row.rate(at), 1.0, row.updates() == 0);
        let settings = Settings { sgd, limit: self.limit };
        if self.written != Some(settings) {
            settings.write(machine, &self.settings)?;
            self.written = Some(settings);
        }
        match &mut self.way {
            Way::Kernel(kernel) => kernel.select(machine, at.epoch),
            Way::Between(_) => Ok(()),
        }
    }

    /// What comes after the forward pass of the `n` images in the session's input: loss, backward and update, if the loss has a kernel; may
    /// be recorded.
    pub fn learn(
        &self,
        machine: &dyn Machine,
        session: &mut GpuSession,
        labels: &View,
        teacher: Option<&View>,
        n: usize,
    ) -> Result<()> {
        match &self.way {
            Way::Kernel(kernel) => {
                kernel.run(machine, session, labels, teacher, n)?;
                session.run_backward()?;
                Ok(self.update(machine, session)?)
            }
            Way::Between(between) => Ok(between.count(machine, session, labels, n)?),
        }
    }

    /// What is left of a step whose loss was computed since: backward and update; may be recorded.
    pub fn rest(&self, machine: &dyn Machine, session: &mut GpuSession) -> Result<()> {
        if let Way::Between(between) = &self.way {
            between.backward(machine, session)?;
            self.update(machine, session)?;
        }
        Ok(())
    }

    /// Whether its loss has no kernel.
    pub fn is_parted(&self) -> bool {
        matches!(self.way, Way::Between(_))
    }

    /// Its loss, if that has no kernel.
    pub fn between(&mut self) -> Option<&mut Between> {
        match &mut self.way {
            Way::Between(between) => Some(between),
            Way::Kernel(_) => None,
        }
    }

    /// Whether a look is due at once.
    pub fn alarm(&self) -> bool {
        matches!(&self.way, Way::Between(between) if between.alarm())
    }

    fn update(&self, machine: &dyn Machine, session: &GpuSession) -> dkd_kernels::gpu::Result<()> {
        if let Some((partial, result)) = &self.norm {
            squared_norm(machine, session.gradients(), partial, result)?;
        }
        let limited = self.norm.as_ref().filter(|_| self.limit > 0.0);
        sgd::sgd(
            machine,
            &Update {
                settings: &self.settings,
                weights: session.values(),
                gradients: session.gradients(),
                momentum: &self.momentum,
                squared_norm: limited.map(|(_, result)| result),
                rounded: session.halves(),
            },
        )
    }

    /// What the steps of an epoch have given since the last call.
    pub fn take(&mut self, machine: &dyn Machine, epoch: usize) -> Result<Seen> {
        match &mut self.way {
            Way::Kernel(kernel) => Ok(kernel.take(machine, epoch)?),
            Way::Between(between) => {
                let mut square = [0; 8];
                if let Some((_, result)) = &self.norm {
                    machine.read(result, &mut square)?;
                }
                between.take(machine, f64::from_le_bytes(square))
            }
        }
    }

    /// The momentum, in the order of the session's values.
    pub fn momentum(&self, machine: &dyn Machine) -> dkd_kernels::gpu::Result<Vec<f32>> {
        machine.read_floats(&self.momentum)
    }
}
