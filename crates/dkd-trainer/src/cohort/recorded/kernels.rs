//! A loss with a kernel, which is part of a recorded step.

use super::student::Seen;
use super::terms::Terms;
use dkd_engine::gpu::GpuSession;
use dkd_engine::{Mode, Result};
use dkd_kernels::gpu::losses::{Distillation, Losses, Totals, Weights};
use dkd_kernels::gpu::{Element, Machine, View};

/// What the kernel of one student's loss reads and writes.
pub(super) struct Kernel {
    terms: Terms,
    weights: View,
    /// What is there.
    written: Option<Weights>,
    /// Of every row of the largest batch.
    rows: View,
    totals: View,
    bad: View,
}

impl Kernel {
    pub fn new(machine: &dyn Machine, terms: Terms, max_batch: usize) -> dkd_kernels::gpu::Result<Self> {
        Ok(Self {
            terms,
            weights: machine.zeros(Element::F32, Weights::LEN)?,
            written: None,
            rows: machine.zeros(Element::F32, max_batch * Losses::COLUMNS)?,
            totals: machine.zeros(Element::F64, Totals::LEN)?,
            bad: machine.zeros(Element::U32, 1)?,
        })
    }

    /// Writes what is new in an epoch.
    pub fn select(&mut self, machine: &dyn Machine, epoch: usize) -> dkd_kernels::gpu::Result<()> {
        let weights = self.terms.weights(epoch);
        if self.written != Some(weights) {
            weights.write(machine, &self.weights)?;
            self.written = Some(weights);
        }
        Ok(())
    }

    /// The loss of the `n` images that the session has run, with its gradient; may be recorded.
    pub fn run(
        &self,
        machine: &dyn Machine,
        session: &GpuSession,
        labels: &View,
        teacher: Option<&View>,
        n: usize,
    ) -> Result<()> {
        let (student, gradient) = (session.logits_view(Mode::Train, n)?, session.logits_gradient(n)?);
        let terms = &self.terms;
        let distillation = teacher.filter(|_| terms.taught()).map(|teacher| Distillation {
            teacher,
            kd: terms.kd(),
            dkd: terms.dkd(),
            standardize: terms.standardize,
        });
        let rows = self.rows.first(n * Losses::COLUMNS)?;
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
        Ok(losses.run(machine)?)
    }

    /// What the steps of an epoch have given since the last call.
    pub fn take(&self, machine: &dyn Machine, epoch: usize) -> dkd_kernels::gpu::Result<Seen> {
        let totals = Totals::read(machine, &self.totals)?;
        let mut bad = [0; 4];
        machine.read(&self.bad, &mut bad)?;
        machine.clear(&self.totals)?;
        machine.clear(&self.bad)?;
        let (loss, terms) = self.terms.means(&totals, epoch);
        Ok(Seen { totals, loss, terms, bad: bad != [0; 4] })
    }
}
