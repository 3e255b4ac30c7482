//! Who computes a convolution: the machine's library, or kernels.

use super::GpuSession;
use super::executor::Executor;
use crate::plan::{Purpose, Unit};
use crate::{Mode, Result};
use dkd_kernels::gpu::convolution::{Convolution, Pass};
use dkd_kernels::gpu::linear::Linear;
use dkd_kernels::gpu::{Element, Machine, View, grouped};

impl GpuSession {
    /// The convolutions that training with `n` images asks a library for, linear layers among them, in the order of the network: those of forward
    /// and backward pass.
    ///
    /// # Errors
    /// The session was made without training.
    pub fn convolutions(&self, n: usize) -> Result<Vec<(Pass, Convolution)>> {
        Ok(Self::of(Mode::Train, &self.train, &self.infer)?.convolutions(n))
    }
}

impl Executor {
    /// Gets ready for all convolutions of a batch of `n` images.
    pub fn prepare(&mut self, machine: &dyn Machine, n: usize) -> Result<()> {
        // Called before every step.
        if self.prepared.contains(&n) {
            return Ok(());
        }
        let mut scratch = 0;
        for (pass, convolution) in self.convolutions(n) {
            if machine.prepare(pass, &convolution)? {
                continue;
            }
            if pass == Pass::WeightGradient {
                scratch = grouped::scratch_len(&convolution)?.max(scratch);
            }
            self.own.insert((pass, convolution));
        }
        if scratch > self.weight_scratch.len() {
            self.weight_scratch = machine.zeros(Element::F32, scratch)?;
        }
        if self.plan.purpose == Purpose::Train {
            // For gradients of weights.
            machine.prepare_branches(2)?;
        }
        self.prepared.push(n);
        Ok(())
    }

    /// All in one group.
    fn convolutions(&self, n: usize) -> Vec<(Pass, Convolution)> {
        let train = self.plan.purpose == Purpose::Train;
        let of_unit = self.plan.units.iter().filter_map(|unit| {
            let convolution = self.convolution(unit, n).filter(|c| c.groups == 1)?;
            let long = self.long_linear(unit, n).is_some();
            let passes = [
                (!long).then_some(Pass::Forward),
                train.then_some(Pass::WeightGradient),
                (train && self.plan.tensors[unit.inputs()[0]].needs_gradient).then_some(Pass::InputGradient),
            ];
            Some(passes.into_iter().flatten().map(move |pass| (pass, convolution)))
        });
        of_unit.flatten().collect()
    }

    /// A linear layer of `n` images that a kernel computes, as it has few results of many inputs.
    pub(super) fn long_linear(&self, unit: &Unit, n: usize) -> Option<Linear> {
        let c = self.convolution(unit, n).filter(|_| matches!(unit, Unit::Linear(_)))?;
        let linear = Linear { rows: n, inputs: c.input.2, outputs: c.output.2 };
        linear.is_long().then_some(linear)
    }

    /// Whether kernels compute it: those in several groups, for which libraries are slow, and what the library cannot.
    pub(super) fn is_own(&self, pass: Pass, convolution: &Convolution) -> bool {
        convolution.groups > 1 || self.own.contains(&(pass, *convolution))
    }

    /// One pass over `[x, w, y]`. The gradient of weights is f32 if it [is our own](Executor::is_own), else of the arithmetic's type.
    pub(super) fn convolve(
        &self,
        machine: &dyn Machine,
        pass: Pass,
        convolution: &Convolution,
        operands: [&View; 3],
        accumulate: bool,
    ) -> Result<()> {
        if self.is_own(pass, convolution) {
            let scratch = (pass == Pass::WeightGradient).then_some(&self.weight_scratch);
            return Ok(grouped::run(machine, pass, convolution, operands, accumulate, scratch)?);
        }
        Ok(convolution.run(machine, pass, operands, accumulate)?)
    }
}
