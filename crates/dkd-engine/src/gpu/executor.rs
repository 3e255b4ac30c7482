//! A plan with its memory on a device.

use super::fuse::{self, Pair};
use super::gradients::Slots;
use super::values;
use crate::plan::{Addend, Backward, BackwardStep, DzSource, NormUnit, Plan, Purpose, TensorId, Unit};
use crate::{Error, Result};
use dkd_kernels::gpu::channels::Table;
use dkd_kernels::gpu::convolution::{Arithmetic, Convolution, Pass};
use dkd_kernels::gpu::linear::Linear;
use dkd_kernels::gpu::{Element, Machine, View, columns, grouped, norm};
use dkd_kernels::pool::Window;
use std::collections::HashSet;

/// Gradients of convolutions' own outputs that there are at once: those of weights are made of them aside. With a third, only what was begun two
/// layers ago is waited for.
pub(super) const DZ_PLACES: usize = 3;

/// Everything that a plan's steps read and write, for the largest batch.
#[derive(Debug)]
pub(super) struct Executor {
    pub plan: Plan,
    pub arithmetic: Arithmetic,
    /// By tensor: see [`values::allocate`].
    values: Vec<Option<View>>,
    /// By tensor, in the places of [`Slots`].
    gradients: Vec<Option<View>>,
    /// By batch normalisation.
    pub norms: Vec<norm::Channels>,
    /// By number of the max pooling: where the maximum was.
    argmax: Vec<View>,
    /// By unit that rearranges channels.
    pub tables: Vec<Option<Tables>>,
    /// By tensor: the bias that is not in its memory, as all who read it add it themselves.
    pub lacking: Vec<Option<usize>>,
    /// By normalisation: where the gradients are that it reads, unless they are where it completes them.
    pub gathered: Vec<Option<Table>>,
    /// Sums on their way.
    pub scratch: View,
    /// Of gradients of weights, which are computed aside.
    pub(super) weight_scratch: View,
    /// For those of biases.
    pub(super) tickets: columns::Tickets,
    /// Gradients of some convolutions' own outputs, where a normalisation gives them.
    pub(super) dz: Option<[View; DZ_PLACES]>,
    /// A weight's gradient before it is f32.
    weights: Option<View>,
    /// What a library may compute in one.
    pub(super) pairs: Vec<Pair>,
    /// Of so many images, units whose normalisation is.
    pub(super) fused: HashSet<(usize, usize)>,
    /// What is left to kernels.
    pub(super) own: HashSet<(Pass, Convolution)>,
    /// Numbers of images that everything is ready for.
    pub(super) prepared: Vec<usize>,
}

/// What a unit that rearranges channels reads.
#[derive(Debug)]
pub(super) struct Tables {
    pub forward: Table,
    /// By input, from the output's gradient to its own, if that is put together.
    pub back: Vec<Option<Table>>,
}

fn size(plan: &Plan, t: TensorId) -> (usize, usize, usize) {
    let map = &plan.tensors[t].map;
    (map.height, map.width, map.channels)
}

/// Numbers in a tensor of one image: on a device nothing is padded.
pub(super) fn elements(plan: &Plan, t: TensorId) -> usize {
    let map = &plan.tensors[t].map;
    map.height * map.width * map.channels
}

impl Executor {
    /// Allocates for batches of up to `max_batch` images.
    pub fn new(machine: &dyn Machine, plan: Plan, max_batch: usize, arithmetic: Arithmetic) -> Result<Self> {
        let element = arithmetic.element();
        let alloc = |element: Element, n: usize| -> Result<View> { Ok(machine.zeros(element, n)?) };
        let map = |n: usize| alloc(element, n * max_batch);
        let values = values::allocate(&plan, map)?;
        let slots = Slots::new(&plan);
        let memory = slots.elements.iter().map(|n| map(*n)).collect::<Result<Vec<_>>>()?;
        let gradients = slots.of.iter().map(|slot| Some(memory[(*slot)?].clone())).collect();
        let channels = |bn: &crate::plan::Bn| plan.tensors[bn.z].map.channels;
        let lacking = (0..plan.tensors.len()).map(|t| lacking(&plan, t)).collect();
        let norms = plan.bns.iter().map(|bn| Ok(norm::Channels::new(machine, channels(bn))?));
        let norms = norms.collect::<Result<Vec<_>>>()?;
        let mut argmax = Vec::new();
        let mut tables = Vec::with_capacity(plan.units.len());
        for unit in &plan.units {
            if let Unit::MaxPool { y, .. } = unit {
                argmax.push(alloc(Element::U8, elements(&plan, *y) * max_batch)?);
            }
            tables.push(match unit {
                Unit::Channels(c) => {
                    let forward = Table::new(machine, &c.forward)?;
                    Some(Tables { forward, back: vec![None; c.inputs.len()] })
                }
                _ => None,
            });
        }
        for step in plan.backward.iter().flat_map(Backward::steps) {
            if let BackwardStep::Channels { unit, input, .. } = *step
                && let (Unit::Channels(c), Some(tables)) = (&plan.units[unit], &mut tables[unit])
            {
                tables.back[input] = Some(Table::new(machine, &c.backward[input])?);
            }
        }
        let gathered = plan.backward.iter().flat_map(|backward| &backward.gathered);
        let gathered = gathered.map(|g| g.as_ref().map(|g| Ok(Table::new(machine, &g.map)?)).transpose());
        let gathered = gathered.collect::<Result<Vec<_>>>()?;
        let dz = dz_elements(&plan);
        let dz = if dz > 0 { Some([map(dz)?, map(dz)?, map(dz)?]) } else { None };
        let largest = plan.units.iter().filter_map(|u| convolution(&plan, u, 1, arithmetic));
        let largest = largest.filter(|c| c.groups == 1).map(|c| c.lengths()[1]).max().unwrap_or(0);
        let halves = plan.purpose == Purpose::Train && element == Element::Bf16;
        let weights = if halves { Some(alloc(element, largest)?) } else { None };
        let scratch = alloc(Element::F32, scratch_elements(&plan, max_batch))?;
        let weight_scratch = alloc(Element::F32, weight_scratch_elements(&plan, max_batch, arithmetic)?)?;
        let most_channels = plan.tensors.iter().map(|t| t.map.channels).max().unwrap_or(1);
        let tickets = columns::Tickets::new(machine, most_channels)?;
        let pairs = fuse::pairs(&plan);
        Ok(Self {
            plan,
            arithmetic,
            values,
            gradients,
            norms,
            argmax,
            tables,
            lacking,
            gathered,
            scratch,
            weight_scratch,
            tickets,
            dz,
            weights,
            pairs,
            fused: HashSet::new(),
            own: HashSet::new(),
            prepared: Vec::new(),
        })
    }

    /// Sizes of a convolution over `n` images, or of the one that a linear layer is.
    pub fn convolution(&self, unit: &Unit, n: usize) -> Option<Convolution> {
        convolution(&self.plan, unit, n, self.arithmetic)
    }

    /// Height, width and channels of tensor `t`.
    pub fn size(&self, t: TensorId) -> (usize, usize, usize) {
        size(&self.plan, t)
    }

    /// Tensor `t` of `n` images.
    pub fn value(&self, t: TensorId, n: usize) -> Result<View> {
        let view = self.values[t].as_ref();
        let view = view.ok_or_else(|| Error::State(format!("tensor {t} of the plan is never stored")))?;
        Ok(view.first(n * elements(&self.plan, t))?)
    }

    /// The normalisation of tensor `t`, if that has no memory: whoever reads it normalises on the way.
    pub fn on_the_way(&self, t: TensorId) -> Option<&NormUnit> {
        on_the_way(&self.plan, t)
    }

    /// The gradient of tensor `t`.
    pub fn gradient(&self, t: TensorId, n: usize) -> Result<View> {
        let view = self.gradients[t].as_ref();
        let view = view.ok_or_else(|| Error::State(format!("tensor {t} of the plan has no gradient")))?;
        Ok(view.first(n * elements(&self.plan, t))?)
    }

    /// Where the maxima of a pooling were.
    pub fn argmax(&self, index: usize, y: TensorId, n: usize) -> Result<View> {
        Ok(self.argmax[index].first(n * elements(&self.plan, y))?)
    }

    /// Memory for the gradients of some outputs like `t`.
    pub fn dz(&self, t: TensorId, n: usize) -> Result<[View; DZ_PLACES]> {
        let dz = self.dz.as_ref().ok_or_else(|| Error::State("the plan has no such gradient".to_owned()))?;
        let len = n * elements(&self.plan, t);
        Ok([dz[0].first(len)?, dz[1].first(len)?, dz[2].first(len)?])
    }

    /// Memory for `len` numbers of a weight's gradient that is not f32.
    pub fn half_weights(&self, len: usize) -> Result<Option<View>> {
        self.weights.as_ref().map(|view| Ok(view.first(len)?)).transpose()
    }

    /// The images.
    pub fn input(&self, n: usize) -> Result<View> {
        self.value(self.plan.input, n)
    }

    /// Boundary `k` as the network computes it.
    pub fn boundary(&self, k: usize, n: usize) -> Result<View> {
        self.value(self.plan.boundaries[k], n)
    }
}

/// See [`Executor::on_the_way`].
pub(super) fn on_the_way(plan: &Plan, t: TensorId) -> Option<&NormUnit> {
    match &plan.units[plan.tensors[t].recomputed_by?] {
        // Others that are made again are read by one convolution.
        Unit::Norm(n) => {
            let gathers = |unit: &Unit| matches!(unit, Unit::Channels(c) if c.inputs.contains(&t));
            plan.units.iter().any(gathers).then_some(n)
        }
        _ => None,
    }
}

/// See [`Executor::lacking`]: the bias of a convolution whose output nobody reads but normalisations, which subtract it again, and max
/// pooling.
fn lacking(plan: &Plan, t: TensorId) -> Option<usize> {
    let bias = plan.units.iter().find_map(|unit| match unit {
        Unit::Conv(c) if c.y == t && !c.relu => c.bias,
        _ => None,
    })?;
    let adds = |unit: &Unit| match unit {
        Unit::MaxPool { .. } => true,
        Unit::Norm(n) => n.addend != Addend::Value(t),
        _ => false,
    };
    let mut readers = plan.units.iter().filter(|unit| unit.inputs().contains(&t));
    (!plan.boundaries.contains(&t) && readers.all(adds)).then_some(bias)
}

/// The most numbers of one image in an output's gradient that a normalisation gives.
fn dz_elements(plan: &Plan) -> usize {
    let steps = plan.backward.iter().flat_map(Backward::steps);
    let of_norm = steps.filter_map(|step| match step {
        BackwardStep::Conv { unit, source: DzSource::Norm { .. }, .. } => Some(plan.units[*unit].output()),
        _ => None,
    });
    of_norm.map(|t| elements(plan, t)).max().unwrap_or(0)
}

/// See [`Executor::convolution`].
fn convolution(plan: &Plan, unit: &Unit, n: usize, arithmetic: Arithmetic) -> Option<Convolution> {
    let size = |t: TensorId| size(plan, t);
    match unit {
        Unit::Conv(c) => {
            let Window { kernel, stride, padding } = c.window;
            let (input, output, groups) = (size(c.x), size(c.y), c.groups);
            Some(Convolution { images: n, input, output, kernel, stride, padding, groups, arithmetic })
        }
        Unit::Linear(l) => Some(Convolution {
            images: n,
            input: (1, 1, elements(plan, l.x)),
            output: (1, 1, l.outputs),
            kernel: (1, 1),
            stride: (1, 1),
            padding: (0, 0),
            groups: 1,
            arithmetic,
        }),
        _ => None,
    }
}

/// The most numbers that any sum of the plan needs on its way, but for gradients of weights and biases.
fn scratch_elements(plan: &Plan, max_batch: usize) -> usize {
    let of_norms = plan.bns.iter().map(|bn| {
        let map = &plan.tensors[bn.z].map;
        norm::scratch_len(max_batch * map.height * map.width, map.channels)
    });
    let of_linears = plan.units.iter().filter_map(|unit| match unit {
        Unit::Linear(l) => {
            let linear = Linear { rows: max_batch, inputs: elements(plan, l.x), outputs: l.outputs };
            Some(linear.scratch_len())
        }
        _ => None,
    });
    of_norms.chain(of_linears).max().unwrap_or(0).max(1)
}

/// The most that gradients of weights and biases need, but for those of weights that only turn out to be ours.
fn weight_scratch_elements(plan: &Plan, max_batch: usize, arithmetic: Arithmetic) -> Result<usize> {
    if plan.purpose == Purpose::Infer {
        return Ok(1);
    }
    let mut all = plan.units.iter().filter_map(|unit| convolution(plan, unit, max_batch, arithmetic));
    all.try_fold(1, |most, c| {
        let (height, width, channels) = c.output;
        let of_bias = columns::scratch_len(max_batch * height * width, channels);
        let of_weights = if c.groups > 1 { grouped::scratch_len(&c)? } else { 0 };
        Ok(most.max(of_bias).max(of_weights))
    })
}
