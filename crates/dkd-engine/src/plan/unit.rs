//! Tensors and units: the vocabulary of a plan.

use super::Purpose;
use dkd_kernels::Map;
use dkd_kernels::channels::ChannelMap;
use dkd_kernels::conv2d::{ConvForward, ConvInputGrad, ConvWeightGrad, GroupedConv};
use dkd_kernels::pool::Window;

/// Position in [`super::Plan::tensors`].
pub(crate) type TensorId = usize;

/// A value in memory. Several values of the graph may share one tensor (flatten, dropout without effect).
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// Layout of one image; its border is the largest padding of the convolutions that read it.
    pub map: Map,
    /// The unit that makes it again whenever it is read, if it is never stored: a normalised value with a single reader.
    pub recomputed_by: Option<usize>,
    /// Whether a gradient is needed.
    pub needs_gradient: bool,
    /// Position of its memory among the value slots.
    pub slot: usize,
    /// Position of its gradient's memory among the gradient slots.
    pub gradient_slot: usize,
}

impl TensorInfo {
    /// Layout of the gradient: no border.
    pub fn gradient_map(&self) -> Map {
        self.map.with_border(0)
    }
}

/// Loops of a convolution with one group.
#[derive(Clone, Debug)]
pub(crate) struct DenseKernel {
    pub forward: ConvForward,
    /// Absent where the input is the image.
    pub input_grad: Option<ConvInputGrad>,
    pub weight_grad: ConvWeightGrad,
}

/// Loops of a convolution.
#[derive(Clone, Debug)]
pub(crate) enum ConvKernel {
    /// One group.
    Dense(Box<DenseKernel>),
    /// Several groups.
    Grouped(Box<GroupedConv>),
}

/// y = conv(x) (+ bias) (then ReLU).
#[derive(Clone, Debug)]
pub(crate) struct ConvUnit {
    pub x: TensorId,
    pub y: TensorId,
    /// Position among the parameters.
    pub weight: usize,
    pub bias: Option<usize>,
    pub relu: bool,
    pub window: Window,
    pub groups: usize,
    pub kernel: ConvKernel,
    /// Whether several images are computed at once.
    pub many: bool,
    /// How many, at most: 1 if not.
    pub at_a_time: usize,
    /// Worker buffer for an `x` that is made again.
    pub x_scratch: usize,
    /// Worker buffer for the output's gradient with its border, and that layout.
    pub dz_scratch: usize,
    pub dz_map: Map,
    /// Multiply-accumulates for one image.
    pub macs: usize,
}

/// y = W x (+ bias) (then ReLU), all images of a group at once.
#[derive(Clone, Debug)]
pub(crate) struct LinearUnit {
    pub x: TensorId,
    pub y: TensorId,
    pub weight: usize,
    pub bias: Option<usize>,
    pub relu: bool,
    /// Elements of one row of x.
    pub inputs: usize,
    pub outputs: usize,
    /// Multiply-accumulates for one image.
    pub macs: usize,
}

/// A batch normalisation's statistics and parameters.
#[derive(Clone, Debug)]
pub(crate) struct Bn {
    /// What is normalised.
    pub z: TensorId,
    pub weight: usize,
    pub bias: usize,
    pub running_mean: usize,
    pub running_var: usize,
    pub eps: f32,
    pub momentum: f32,
}

/// What a normalised value is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Addend {
    None,
    /// A tensor.
    Value(TensorId),
    /// A tensor normalised by another batch normalisation.
    Normalized(TensorId, usize),
}

/// y = norm(z) (+ addend) (then ReLU).
#[derive(Clone, Debug)]
pub(crate) struct NormUnit {
    pub z: TensorId,
    pub bn: usize,
    pub addend: Addend,
    pub relu: bool,
    pub y: TensorId,
}

/// y = channels of the inputs in another order (then ReLU).
#[derive(Clone, Debug)]
pub(crate) struct ChannelsUnit {
    pub inputs: Vec<TensorId>,
    pub y: TensorId,
    pub relu: bool,
    pub forward: ChannelMap,
    /// From the output's gradient to each input's.
    pub backward: Vec<ChannelMap>,
}

/// One operation with what is fused into it.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    Conv(Box<ConvUnit>),
    Linear(LinearUnit),
    Norm(NormUnit),
    Channels(Box<ChannelsUnit>),
    Relu {
        x: TensorId,
        y: TensorId,
    },
    Relu6 {
        x: TensorId,
        y: TensorId,
    },
    Add {
        a: TensorId,
        b: TensorId,
        y: TensorId,
    },
    MaxPool {
        x: TensorId,
        y: TensorId,
        window: Window,
        argmax: usize,
        scratch: usize,
    },
    AvgPool {
        x: TensorId,
        y: TensorId,
        window: Window,
        count_padding: bool,
        scratch: usize,
    },
    GlobalAvg {
        x: TensorId,
        y: TensorId,
        scratch: usize,
    },
    Dropout {
        x: TensorId,
        y: TensorId,
        p: f32,
        key: u64,
    },
    /// The same value without the border.
    Copy {
        x: TensorId,
        y: TensorId,
    },
}

impl Unit {
    /// The tensor it makes.
    pub fn output(&self) -> TensorId {
        match self {
            Self::Conv(c) => c.y,
            Self::Linear(l) => l.y,
            Self::Norm(n) => n.y,
            Self::Channels(c) => c.y,
            Self::Relu { y, .. }
            | Self::Relu6 { y, .. }
            | Self::Add { y, .. }
            | Self::MaxPool { y, .. }
            | Self::AvgPool { y, .. }
            | Self::GlobalAvg { y, .. }
            | Self::Dropout { y, .. }
            | Self::Copy { y, .. } => *y,
        }
    }

    /// The tensors it reads.
    pub fn inputs(&self) -> Vec<TensorId> {
        match self {
            Self::Conv(c) => vec![c.x],
            Self::Linear(l) => vec![l.x],
            Self::Norm(n) => match n.addend {
                Addend::None => vec![n.z],
                Addend::Value(t) | Addend::Normalized(t, _) => vec![n.z, t],
            },
            Self::Add { a, b, .. } => vec![*a, *b],
            Self::Channels(c) => c.inputs.clone(),
            Self::Relu { x, .. }
            | Self::Relu6 { x, .. }
            | Self::MaxPool { x, .. }
            | Self::AvgPool { x, .. }
            | Self::GlobalAvg { x, .. }
            | Self::Dropout { x, .. }
            | Self::Copy { x, .. } => vec![*x],
        }
    }

    /// The batch normalisations it applies.
    pub fn bns(&self) -> Vec<usize> {
        match self {
            Self::Norm(NormUnit { bn, addend: Addend::Normalized(_, other), .. }) => vec![*bn, *other],
            Self::Norm(n) => vec![n.bn],
            _ => Vec::new(),
        }
    }

    /// Elements of scratch memory that its loops need.
    pub fn conv_scratch(&self, purpose: Purpose) -> usize {
        let Self::Conv(c) = self else { return 0 };
        let ConvKernel::Dense(k) = &c.kernel else { return 0 };
        let backward = match purpose {
            Purpose::Train => {
                let input = k.input_grad.as_ref().map_or(0, ConvInputGrad::scratch_elements);
                input.max(k.weight_grad.scratch_elements())
            }
            Purpose::Infer => 0,
        };
        backward.max(k.forward.scratch_elements())
    }

    /// Whether it has parameters.
    pub fn has_parameters(&self) -> bool {
        matches!(self, Self::Conv(_) | Self::Linear(_) | Self::Norm(_))
    }
}
