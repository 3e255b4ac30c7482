//! Parameters and buffers: names, shapes, initial values.

use dkd_kernels::rng::{Purpose, Stream, hash_name};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ±1/√fan_in: PyTorch's default for convolution and linear weights and biases
    /// (fan_in = input channels per group x kernel area, or input features; a bias uses its weight's).
    FanInUniform,
    /// Normal with mean 0 and standard deviation √(2 / (kernel area x output channels)) (Kaiming, fan-out).
    KaimingFanOut,
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Every element this value.
    Constant(f32),
}

/// What a tensor of the state dictionary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Has a gradient and is updated by the optimizer.
    Trainable,
    /// Saved and loaded, but never trained: running statistics.
    Buffer,
}

/// One tensor of the state dictionary, in PyTorch's name and layout.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Full name, for example `layer1.0.conv1.weight`.
    pub name: String,
    /// Shape in PyTorch's layout: convolution `[out, in/groups, kh, kw]`, linear `[out, in]`.
    pub shape: Vec<usize>,
    /// Trainable or buffer.
    pub kind: ParamKind,
    /// Initial value.
    pub init: Init,
    /// Fan-in of the layer the tensor belongs to.
    pub fan_in: usize,
}

impl ParamSpec {
    /// Number of scalars.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Initial values in PyTorch's order; element i depends only on (`seed`, the name, i).
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let stream = Stream::new(seed, Purpose::Init, 0, hash_name(&self.name));
        let n = self.elements() as u64;
        match self.init {
            Init::FanInUniform => {
                let bound = 1.0 / (self.fan_in.max(1) as f32).sqrt();
                (0..n).map(|i| (2.0 * stream.uniform(i) - 1.0) * bound).collect()
            }
            Init::KaimingFanOut => {
                let area: usize = self.shape[2..].iter().product();
                let std = (2.0 / (area * self.shape[0]) as f32).sqrt();
                (0..n).map(|i| stream.normal(i) * std).collect()
            }
            Init::Normal(std) => (0..n).map(|i| stream.normal(i) * std).collect(),
            Init::Constant(v) => vec![v; n as usize],
        }
    }
}
