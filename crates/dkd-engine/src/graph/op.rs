//! The operations a graph can hold, each with the settings PyTorch's layer of the same name has.

use super::Init;

/// A two-dimensional convolution (cross-correlation, as in PyTorch).
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Prefix of the parameters: `<name>.weight`, `<name>.bias`.
    pub name: String,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: (usize, usize),
    /// Vertical and horizontal stride.
    pub stride: (usize, usize),
    /// Zero padding of rows and of columns, on both sides.
    pub padding: (usize, usize),
    /// Groups; must divide the input and output channels.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Initial weight.
    pub weight_init: Init,
    /// Initial bias.
    pub bias_init: Init,
}

impl Conv2d {
    /// A square `kernel` with stride 1, no padding, one group, no bias and PyTorch's default initialisation.
    pub fn new(name: impl Into<String>, out_channels: usize, kernel: usize) -> Self {
        Self {
            name: name.into(),
            out_channels,
            kernel: (kernel, kernel),
            stride: (1, 1),
            padding: (0, 0),
            groups: 1,
            bias: false,
            weight_init: Init::FanInUniform,
            bias_init: Init::FanInUniform,
        }
    }

    /// Sets both strides.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = (stride, stride);
        self
    }

    /// Sets both paddings.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = (padding, padding);
        self
    }

    /// Sets the number of groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Adds a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Sets how the weight is initialised.
    pub fn init(mut self, init: Init) -> Self {
        self.weight_init = init;
        self
    }

    /// Sets how the bias is initialised.
    pub fn init_bias(mut self, init: Init) -> Self {
        self.bias_init = init;
        self
    }
}

/// Batch normalisation over (batch, height, width) with an affine map.
///
/// Training uses the batch's mean and biased variance and moves the running statistics by `momentum` towards the mean
/// and the unbiased variance; evaluation uses the running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm {
    /// Prefix of `weight`, `bias`, `running_mean`, `running_var`, `num_batches_tracked`.
    pub name: String,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the new batch in the running statistics.
    pub momentum: f32,
}

/// Window of a pooling operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Window height and width.
    pub kernel: (usize, usize),
    /// Vertical and horizontal stride.
    pub stride: (usize, usize),
    /// Padding of rows and columns, on both sides; at most half the kernel.
    pub padding: (usize, usize),
    /// For average pooling: whether padded zeros count in the divisor (PyTorch's default).
    pub count_include_pad: bool,
}

impl Pool {
    /// A square window whose stride is its size, without padding.
    pub fn new(kernel: usize) -> Self {
        Self { kernel: (kernel, kernel), stride: (kernel, kernel), padding: (0, 0), count_include_pad: true }
    }

    /// Sets both strides.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = (stride, stride);
        self
    }

    /// Sets both paddings.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = (padding, padding);
        self
    }
}

/// A fully connected layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Prefix of `weight`, `bias`.
    pub name: String,
    /// Length of the output.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Initial weight.
    pub weight_init: Init,
    /// Initial bias.
    pub bias_init: Init,
}

impl Linear {
    /// A layer with a bias and PyTorch's default initialisation.
    pub fn new(name: impl Into<String>, out_features: usize) -> Self {
        Self {
            name: name.into(),
            out_features,
            bias: true,
            weight_init: Init::FanInUniform,
            bias_init: Init::FanInUniform,
        }
    }

    /// Sets how the weight is initialised.
    pub fn init(mut self, init: Init) -> Self {
        self.weight_init = init;
        self
    }

    /// Sets how the bias is initialised.
    pub fn init_bias(mut self, init: Init) -> Self {
        self.bias_init = init;
        self
    }
}

/// Dropout: in training each element is zero with probability `p`, else scaled by `1 / (1 - p)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// Name of the layer: part of the key of its random masks.
    pub name: String,
    /// Probability of zeroing an element, in [0, 1).
    pub p: f32,
}

/// Channels `start..start + count` of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceChannels {
    /// The first.
    pub start: usize,
    /// How many.
    pub count: usize,
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// The image batch.
    Input,
    /// Convolution.
    Conv2d(Conv2d),
    /// Batch normalisation.
    BatchNorm(BatchNorm),
    /// max(x, 0); the gradient at 0 is 0, as in PyTorch.
    Relu,
    /// min(max(x, 0), 6); the gradient at 0 and at 6 is 0, as in PyTorch.
    Relu6,
    /// Sum of two values of equal shape.
    Add,
    /// Channels of several maps of one size, in order.
    Concat,
    /// Some neighbouring channels.
    SliceChannels(SliceChannels),
    /// Channel `j * groups + i` is the input's channel `i * (channels / groups) + j`: channels as a matrix with `groups` rows,
    /// transposed.
    ChannelShuffle {
        /// Groups; must divide the channels.
        groups: usize,
    },
    /// Channels of zeros before and after the input's.
    PadChannels {
        /// Before.
        before: usize,
        /// After.
        after: usize,
    },
    /// Maximum over windows; padding never wins.
    MaxPool2d(Pool),
    /// Mean over windows.
    AvgPool2d(Pool),
    /// Mean over all positions: a map becomes a vector.
    GlobalAvgPool,
    /// A map becomes a vector in PyTorch's order (channel, row, column).
    Flatten,
    /// Fully connected layer.
    Linear(Linear),
    /// Dropout.
    Dropout(Dropout),
}

impl Op {
    /// Lower-case name of the operation.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Conv2d(_) => "conv2d",
            Self::BatchNorm(_) => "batch_norm",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::Add => "add",
            Self::Concat => "concat",
            Self::SliceChannels(_) => "slice_channels",
            Self::ChannelShuffle { .. } => "channel_shuffle",
            Self::PadChannels { .. } => "pad_channels",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Flatten => "flatten",
            Self::Linear(_) => "linear",
            Self::Dropout(_) => "dropout",
        }
    }

    /// Prefix of the operation's parameters, or of its random masks.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Conv2d(c) => Some(&c.name),
            Self::BatchNorm(b) => Some(&b.name),
            Self::Linear(l) => Some(&l.name),
            Self::Dropout(d) => Some(&d.name),
            _ => None,
        }
    }
}
