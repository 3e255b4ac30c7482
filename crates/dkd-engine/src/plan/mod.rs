//! The static plan: which memory holds what, and which steps run between which barriers.
//!
//! A graph is lowered to *units* (an operation with what is fused into it) over *tensors*; the units become *stages*:
//! runs of steps that a group of images goes through without waiting for the others. A stage ends where statistics of the
//! whole batch are needed.

mod backward;
mod channels;
mod forward;
mod lower;
mod slots;
mod touched;
mod unit;

pub(crate) use backward::{Backward, BackwardStage, BackwardStep, DzSource};
pub(crate) use forward::{ForwardStep, Run, Stage};
pub(crate) use lower::stored;
pub(crate) use slots::{Scratch, Slot};
pub(crate) use touched::{Place, Touched};
pub(crate) use unit::{
    Addend, Bn, ChannelsUnit, ConvKernel, ConvUnit, LinearUnit, NormUnit, TensorId, TensorInfo, Unit,
};

use crate::Result;
use crate::graph::{Graph, Tap};
use crate::layout::Layout;
use crate::params::ParamTable;

/// Images that a convolution of small images takes at a time, at most: enough to fill its register tiles, few enough for what it
/// reads and writes to stay in the cache.
pub(crate) const MANY: usize = 16;

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Batch statistics; values are kept for the backward pass.
    Train,
    /// Running statistics; memory of a value is reused as soon as it was read.
    Infer,
}

/// Whether values that only rearrange channels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gathers {
    /// All of them, and normalised values that they are made of: what the others are compared with.
    Stored,
    /// Not those that a single convolution reads, nor normalised values that only they read: both are made whenever they are
    /// needed.
    MadeAgain,
    /// As `MadeAgain`; and the gradient of a normalised value that only they read is not put together before it is completed, but
    /// read from where theirs are.
    Folded,
}

/// Everything that is known before the first batch.
#[derive(Debug)]
pub(crate) struct Plan {
    pub purpose: Purpose,
    pub tensors: Vec<TensorInfo>,
    pub units: Vec<Unit>,
    pub bns: Vec<Bn>,
    pub input: TensorId,
    /// The logits, then the taps.
    pub boundaries: Vec<TensorId>,
    pub stages: Vec<Stage>,
    /// Memory of values, per image.
    pub slots: Vec<Slot>,
    /// Bytes per image of each max pooling's positions.
    pub argmax: Vec<usize>,
    /// Buffers of one worker.
    pub scratch: Vec<Scratch>,
    /// Elements of a worker's scratch memory for convolutions.
    pub conv_scratch: usize,
    /// Most channels of any tensor, padded.
    pub max_stride: usize,
    pub backward: Option<Backward>,
}

impl Plan {
    /// Plans `graph` with these taps.
    pub fn new(
        graph: &Graph,
        layouts: &[Layout],
        params: &ParamTable,
        taps: &[&Tap],
        purpose: Purpose,
        gathers: Gathers,
    ) -> Result<Self> {
        let mut lowered = lower::lower(graph, layouts, params, taps, purpose, gathers)?;
        let stages = forward::stages(&lowered, purpose);
        let slots = slots::values(&mut lowered, purpose);
        let backward = match purpose {
            Purpose::Train => Some(backward::plan(&mut lowered, params, gathers)),
            Purpose::Infer => None,
        };
        let lower::Lowered { tensors, units, bns, input, boundaries, argmax, scratch } = lowered;
        let conv_scratch = units.iter().map(|u| u.conv_scratch(purpose)).max().unwrap_or(0);
        let max_stride = tensors.iter().map(|t| t.map.stride).max().unwrap_or(0);
        Ok(Self {
            purpose,
            tensors,
            units,
            bns,
            input,
            boundaries,
            stages,
            slots,
            argmax,
            scratch,
            conv_scratch,
            max_stride,
            backward,
        })
    }
}
