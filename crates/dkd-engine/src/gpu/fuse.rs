//! Convolutions of an evaluation with the normalisations that follow them, each two in one launch where a machine's library can.

use super::GpuSession;
use super::executor::{Executor, on_the_way};
use super::forward::Pieces;
use crate::plan::{Addend, ConvUnit, NormUnit, Plan, Purpose, TensorId, Unit};
use crate::{Mode, Result};
use dkd_kernels::gpu::convolution::{Convolution, Epilogue, Fused};
use dkd_kernels::gpu::{Machine, View};
use std::collections::HashSet;

/// A library compiles for every shape, which takes about as long.
const SECONDS_A_SHAPE: f64 = 0.5;
/// What a launch less saves, with the map that it need not write and read.
const SECONDS_A_PAIR: f64 = 4e-6;

/// A convolution, and the normalisation that alone reads its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Numbers of their units.
    pub conv: usize,
    pub norm: usize,
    /// Whether the output is what another one is added to that the same unit normalises: then the sum is not made here.
    pub is_addend: bool,
}

/// All pairs of an evaluation's plan. A unit that normalises two convolutions' outputs and adds them has two of them, or none.
pub(super) fn pairs(plan: &Plan) -> Vec<Pair> {
    if plan.purpose == Purpose::Train {
        return Vec::new();
    }
    let conv = |norm: usize, z: TensorId| {
        let mut readers = plan.units.iter().enumerate().filter(|(_, unit)| unit.inputs().contains(&z));
        let alone = readers.all(|(reader, _)| reader == norm) && !plan.boundaries.contains(&z);
        let makes =
            |unit: &Unit| matches!(unit, Unit::Conv(c) if c.y == z && c.groups == 1 && !c.relu && alone);
        plan.units.iter().position(makes)
    };
    let of_norm = |(norm, unit): (usize, &Unit)| -> Option<Vec<Pair>> {
        let Unit::Norm(n) = unit else { return None };
        // What gathers normalise on the way is no launch.
        if on_the_way(plan, n.y).is_some() {
            return None;
        }
        let mut all = vec![Pair { conv: conv(norm, n.z)?, norm, is_addend: false }];
        match n.addend {
            Addend::Value(t) | Addend::Normalized(t, _) if t == n.z => return None,
            Addend::Normalized(t, _) => all.push(Pair { conv: conv(norm, t)?, norm, is_addend: true }),
            Addend::Value(_) | Addend::None => {}
        }
        Some(all)
    };
    plan.units.iter().enumerate().filter_map(of_norm).flatten().collect()
}

/// What a unit makes of the sums of a convolution.
fn epilogue(n: &NormUnit, is_addend: bool) -> Epilogue {
    if is_addend {
        Epilogue { addend: false, relu: false }
    } else {
        Epilogue { addend: n.addend != Addend::None, relu: n.relu }
    }
}

impl GpuSession {
    /// Computes convolutions and what follows them in one from now on, in evaluations of `n` images, where the machine's library can. It compiles
    /// for that, so nothing changes unless `runs` of them save more time than that takes. How many pairs are computed so now.
    ///
    /// The numbers differ in rounding: a sum is not rounded before it is normalised.
    ///
    /// # Errors
    /// The device's.
    pub fn fuse(&mut self, n: usize, runs: u64) -> Result<usize> {
        self.prepare(Mode::Eval, n)?;
        match &mut self.infer {
            Some(executor) => executor.fuse(&*self.machine, n, runs),
            None => Ok(0),
        }
    }

    /// What [`GpuSession::fuse`] asks the machine's library for, for `n` images, in the order of the network.
    ///
    /// # Errors
    /// There was no evaluation before.
    pub fn fusible(&self, n: usize) -> Result<Vec<(Convolution, Epilogue)>> {
        let executor = Self::of(Mode::Eval, &self.train, &self.infer)?;
        Ok(executor.pairs.iter().map(|pair| executor.wanted(pair, n)).collect())
    }
}

impl Executor {
    fn norm_unit(&self, unit: usize) -> &NormUnit {
        match &self.plan.units[unit] {
            Unit::Norm(n) => n,
            _ => unreachable!("pairs have a normalisation"),
        }
    }

    fn conv_unit(&self, unit: usize) -> &ConvUnit {
        match &self.plan.units[unit] {
            Unit::Conv(c) => c,
            _ => unreachable!("pairs have a convolution"),
        }
    }

    fn wanted(&self, pair: &Pair, n: usize) -> (Convolution, Epilogue) {
        let convolution = self.convolution(&self.plan.units[pair.conv], n).expect("it is one");
        (convolution, epilogue(self.norm_unit(pair.norm), pair.is_addend))
    }

    fn fuse(&mut self, machine: &dyn Machine, n: usize, runs: u64) -> Result<usize> {
        let wanted: Vec<_> = self.pairs.iter().map(|pair| self.wanted(pair, n)).collect();
        let shapes = wanted.iter().collect::<HashSet<_>>().len();
        let saved = runs as f64 * wanted.len() as f64 * SECONDS_A_PAIR;
        if saved >= shapes as f64 * SECONDS_A_SHAPE {
            let mut apart = HashSet::new();
            for (pair, (convolution, epilogue)) in self.pairs.iter().zip(&wanted) {
                if !machine.prepare_fused(convolution, *epilogue)? {
                    apart.insert(pair.norm);
                }
            }
            let fused = self.pairs.iter().filter(|pair| !apart.contains(&pair.norm));
            self.fused.extend(fused.map(|pair| (n, pair.norm)));
        }
        Ok(self.pairs.iter().filter(|pair| self.is_fused(pair.norm, n)).count())
    }

    /// Whether a unit's normalisation of `n` images is computed with its convolution.
    pub(super) fn is_fused(&self, norm: usize, n: usize) -> bool {
        self.fused.contains(&(n, norm))
    }

    /// The pair of a convolution of `n` images that is computed in one.
    pub(super) fn fused_pair(&self, conv: usize, n: usize) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.conv == conv && self.is_fused(pair.norm, n))
    }

    /// Computes a pair where its convolution stands, if that is its place: its output then takes that of the sums. Others come
    /// [later](Executor::complete_pair).
    pub(super) fn begin_pair(&self, p: &Pieces<'_>, pair: &Pair) -> Result<()> {
        let n = self.norm_unit(pair.norm);
        let y = self.value(self.conv_unit(pair.conv).y, p.n)?;
        match n.addend {
            Addend::Normalized(_, bn) if pair.is_addend => self.both(p, pair, bn, None, &y),
            _ if self.plan.tensors[n.y].recomputed_by.is_some() => self.both(p, pair, n.bn, None, &y),
            _ => Ok(()),
        }
    }

    /// Computes the pair of a unit where that stands: all that is added is there.
    pub(super) fn complete_pair(&self, p: &Pieces<'_>, norm: usize) -> Result<()> {
        let n = self.norm_unit(norm);
        let pair = self.pairs.iter().find(|pair| pair.norm == norm && !pair.is_addend);
        let pair = pair.expect("what is fused is a pair");
        let addend = self.addend_value(n, p.n)?;
        self.both(p, pair, n.bn, addend.as_ref(), &self.value(n.y, p.n)?)
    }

    /// A convolution with a normalisation and what follows.
    fn both(&self, p: &Pieces<'_>, pair: &Pair, bn: usize, addend: Option<&View>, y: &View) -> Result<()> {
        let c = self.conv_unit(pair.conv);
        let (x, w) = (self.made(p, c.x)?, p.weights.operand(p.places, c.weight)?);
        let (convolution, epilogue) = self.wanted(pair, p.n);
        let state = &self.norms[bn];
        let fused = Fused { operands: [&x, &w, y], scale: state.scale(), shift: state.shift(), addend };
        Ok(convolution.run_fused(p.machine, &fused, epilogue.relu)?)
    }
}
