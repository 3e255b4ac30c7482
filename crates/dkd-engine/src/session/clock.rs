//! Time of every planned step, for those who ask.

use crate::graph::Graph;
use crate::plan::{Addend, Backward, BackwardStep, ForwardStep, Plan, Run, TensorId, Unit};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Which way a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// From the image to the logits.
    Forward,
    /// From the losses to the weights.
    Backward,
}

/// What a step of the plan took, all batches since the clock was started together.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// Which way.
    pub pass: Pass,
    /// The operations that are one step: `conv2d + relu`.
    pub operation: String,
    /// Name of the layer whose parameters it has; empty without any.
    pub layer: String,
    /// Seconds, those of all threads added.
    pub seconds: f64,
    /// Floating-point operations, counted as direct convolutions and matrix products need them.
    pub flops: f64,
    /// Bytes of the values that it reads and writes, each counted once; weights aside.
    pub bytes: f64,
}

/// Nanoseconds by step.
#[derive(Debug)]
pub(super) struct Clock {
    forward: Vec<AtomicU64>,
    /// Sums for a batch normalisation, by its number.
    moments: Vec<AtomicU64>,
    backward: Vec<AtomicU64>,
    /// The image comes in; the losses' gradients come in and are copied on; gradients of groups are added.
    load: AtomicU64,
    copies: AtomicU64,
    sums: AtomicU64,
    /// What is kept in bf16 is expanded and rounded.
    conversions: AtomicU64,
    images: AtomicU64,
}

/// Adds the time since it was made to a counter when it goes.
pub(super) struct Running<'a> {
    counter: &'a AtomicU64,
    start: Instant,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let nanoseconds = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counter.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock {
    pub fn new(plan: &Plan) -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            forward: zeros(plan.units.len()),
            moments: zeros(plan.bns.len()),
            backward: zeros(plan.units.len()),
            load: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            sums: AtomicU64::new(0),
            conversions: AtomicU64::new(0),
            images: AtomicU64::new(0),
        }
    }

    /// Counts a batch.
    pub fn batch(&self, images: usize) {
        self.images.fetch_add(images as u64, Ordering::Relaxed);
    }

    pub fn forward(&self, step: ForwardStep) -> Running<'_> {
        self.start(match step {
            ForwardStep::Load => &self.load,
            ForwardStep::Unit(unit) => &self.forward[unit],
            ForwardStep::Moments(bn) => &self.moments[bn],
        })
    }

    pub fn backward(&self, step: &BackwardStep) -> Running<'_> {
        self.start(unit_of(step).map_or(&self.copies, |unit| &self.backward[unit]))
    }

    /// The weight gradient of a linear layer.
    pub fn linear(&self, unit: usize) -> Running<'_> {
        self.start(&self.backward[unit])
    }

    /// The sum of the groups' weight gradients.
    pub fn sums(&self) -> Running<'_> {
        self.start(&self.sums)
    }

    /// From and to bf16, in both passes.
    pub fn conversions(&self) -> Running<'_> {
        self.start(&self.conversions)
    }

    fn start<'a>(&self, counter: &'a AtomicU64) -> Running<'a> {
        Running { counter, start: Instant::now() }
    }

    /// Everything that took time.
    pub fn times(&self, plan: &Plan, graph: &Graph) -> Vec<StepTime> {
        let images = self.images.load(Ordering::Relaxed) as f64;
        let mut all = Vec::new();
        let mut push = |pass, (operation, layer): (String, String), counter: &AtomicU64, work: Work| {
            let nanoseconds = counter.load(Ordering::Relaxed);
            if nanoseconds > 0 {
                let (flops, bytes) = (work.flops * images, work.bytes * images);
                let seconds = nanoseconds as f64 / 1e9;
                all.push(StepTime { pass, operation, layer, seconds, flops, bytes });
            }
        };
        let plain = |name: &str| (name.to_owned(), String::new());
        push(Pass::Forward, plain("load"), &self.load, Work::read(plan, plan.input));
        for (index, unit) in plan.units.iter().enumerate() {
            push(Pass::Forward, label(plan, graph, unit), &self.forward[index], Work::forward(plan, unit));
        }
        for (index, bn) in plan.bns.iter().enumerate() {
            let label = ("statistics".to_owned(), layer(graph, bn.weight));
            push(Pass::Forward, label, &self.moments[index], Work::read(plan, bn.z));
        }
        push(Pass::Backward, plain("copies"), &self.copies, Work::default());
        for (index, unit) in plan.units.iter().enumerate().rev() {
            push(Pass::Backward, label(plan, graph, unit), &self.backward[index], Work::backward(plan, unit));
        }
        push(Pass::Backward, plain("sum of weight gradients"), &self.sums, Work::default());
        push(Pass::Backward, plain("bf16 and back"), &self.conversions, Work::default());
        all
    }
}

/// Bytes of the values and gradients that all steps read and write for one image, as [`StepTime::bytes`] counts them.
pub(super) fn bytes(plan: &Plan) -> f64 {
    let forward = plan.stages.iter().flat_map(|stage| &stage.runs).flat_map(Run::steps);
    let forward = forward.map(|step| match *step {
        ForwardStep::Load => Work::read(plan, plan.input),
        ForwardStep::Unit(unit) => Work::forward(plan, &plan.units[unit]),
        ForwardStep::Moments(bn) => Work::read(plan, plan.bns[bn].z),
    });
    let units: BTreeSet<usize> = plan.backward.iter().flat_map(Backward::steps).filter_map(unit_of).collect();
    let backward = units.into_iter().map(|unit| Work::backward(plan, &plan.units[unit]));
    forward.chain(backward).map(|work| work.bytes).sum()
}

/// The unit that a step belongs to.
fn unit_of(step: &BackwardStep) -> Option<usize> {
    match *step {
        BackwardStep::Load { .. } | BackwardStep::Copy { .. } => None,
        BackwardStep::Complete { unit, .. }
        | BackwardStep::NormInput { unit, .. }
        | BackwardStep::Conv { unit, .. }
        | BackwardStep::Linear { unit, .. }
        | BackwardStep::Channels { unit, .. }
        | BackwardStep::Unit { unit, .. } => Some(unit),
    }
}

/// What a step does for one image.
#[derive(Clone, Copy, Default)]
struct Work {
    flops: f64,
    bytes: f64,
}

impl Work {
    /// Of a step that only reads a value.
    fn read(plan: &Plan, t: TensorId) -> Self {
        Self { flops: 0.0, bytes: 4.0 * plan.tensors[t].map.with_border(0).elements() as f64 }
    }

    fn forward(plan: &Plan, unit: &Unit) -> Self {
        let elements = |t: &TensorId| plan.tensors[*t].map.with_border(0).elements();
        let values = unit.inputs().iter().map(elements).sum::<usize>() + elements(&unit.output());
        Self { flops: 2.0 * macs(unit), bytes: 4.0 * values as f64 }
    }

    /// The weight's and the input's gradient; the input, the output, and the gradients of both are read or written.
    fn backward(plan: &Plan, unit: &Unit) -> Self {
        let own = Self::forward(plan, unit);
        let gradients = unit.inputs().into_iter().filter(|t| plan.tensors[*t].needs_gradient);
        let gradients: Vec<Self> = gradients.map(|t| Self::read(plan, t)).collect();
        let products = if gradients.is_empty() { 1.0 } else { 2.0 };
        let bytes = gradients.iter().map(|g| g.bytes).sum::<f64>() + Self::read(plan, unit.output()).bytes;
        Self { flops: products * own.flops, bytes: own.bytes + bytes }
    }
}

/// Multiply-accumulates for one image.
fn macs(unit: &Unit) -> f64 {
    match unit {
        Unit::Conv(c) => c.macs as f64,
        Unit::Linear(l) => l.macs as f64,
        _ => 0.0,
    }
}

/// The operations of a unit and its layer.
fn label(plan: &Plan, graph: &Graph, unit: &Unit) -> (String, String) {
    let relu = |operation: &str, relu: bool| {
        if relu { format!("{operation} + relu") } else { operation.to_owned() }
    };
    match unit {
        Unit::Conv(c) => (relu("conv2d", c.relu), layer(graph, c.weight)),
        Unit::Linear(l) => (relu("linear", l.relu), layer(graph, l.weight)),
        Unit::Norm(n) => {
            let operation = match n.addend {
                Addend::None => "batch_norm",
                Addend::Value(_) => "batch_norm + add",
                Addend::Normalized(..) => "batch_norm + batch_norm + add",
            };
            (relu(operation, n.relu), layer(graph, plan.bns[n.bn].weight))
        }
        Unit::Channels(c) => (relu("channels", c.relu), String::new()),
        Unit::Relu { .. } => ("relu".to_owned(), String::new()),
        Unit::Relu6 { .. } => ("relu6".to_owned(), String::new()),
        Unit::Add { .. } => ("add".to_owned(), String::new()),
        Unit::MaxPool { .. } => ("max_pool2d".to_owned(), String::new()),
        Unit::AvgPool { .. } => ("avg_pool2d".to_owned(), String::new()),
        Unit::GlobalAvg { .. } => ("global_avg_pool".to_owned(), String::new()),
        Unit::Dropout { .. } => ("dropout".to_owned(), String::new()),
        Unit::Copy { .. } => ("copy".to_owned(), String::new()),
    }
}

/// The layer of a parameter.
fn layer(graph: &Graph, parameter: usize) -> String {
    let name = &graph.params()[parameter].name;
    name.rsplit_once('.').map_or_else(|| name.clone(), |(layer, _)| layer.to_owned())
}
