//! Trainable layers between the networks' feature maps, on the workspace's kernels.
use std::sync::Arc;

use candle_core::{Tensor, Var};
use dkd_kernels::{Cpu, tensor};

use crate::{Result, Setup};

/// Added to variances, as in PyTorch.
const EPSILON: f64 = 1e-5;

/// How a layer's weights begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// Uniform in ±1 / sqrt(fan-in): PyTorch's default.
    Default,
    /// Uniform in ±sqrt(3 / fan-in): Kaiming's with a = 1.
    Kaiming,
    /// Normal with variance 2 / outputs.
    Normal,
}

/// A parameter called `name`; its first values depend on that name and the run's seed.
fn parameter(setup: &Setup, name: &str, dims: &[usize], bound: f64) -> Result<Var> {
    let values = setup.draw.uniform(name, dims.iter().product());
    let values = Tensor::from_vec(values, dims, setup.device)?;
    Ok(Var::from_tensor(&values.affine(2.0 * bound, -bound)?)?)
}

/// A convolution, or a transposed one.
#[derive(Debug)]
pub(crate) struct Conv {
    name: String,
    weight: Var,
    bias: Option<Var>,
    stride: usize,
    padding: usize,
    transposed: bool,
    cpu: Arc<Cpu>,
}

/// What a [`Conv`] is made of.
pub(crate) struct ConvSettings {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: usize,
    pub transposed: bool,
    pub bias: bool,
    pub start: Start,
}

impl ConvSettings {
    /// A square kernel that keeps the size, without bias, as PyTorch would begin.
    pub fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel: (kernel, kernel),
            stride: 1,
            padding: kernel / 2,
            transposed: false,
            bias: false,
            start: Start::Default,
        }
    }
}

impl Conv {
    pub fn new(setup: &Setup, name: &str, s: &ConvSettings) -> Result<Self> {
        let (first, second) = if s.transposed { (s.inputs, s.outputs) } else { (s.outputs, s.inputs) };
        let dims = [first, second, s.kernel.0, s.kernel.1];
        // PyTorch counts a weight's second dimension as its inputs, transposed or not.
        let fan_in = (second * s.kernel.0 * s.kernel.1) as f64;
        let weight_name = format!("{name}.weight");
        let weight = match s.start {
            Start::Default => parameter(setup, &weight_name, &dims, 1.0 / fan_in.sqrt())?,
            Start::Kaiming => parameter(setup, &weight_name, &dims, (3.0 / fan_in).sqrt())?,
            Start::Normal => {
                let values = setup.draw.normal(&weight_name, dims.iter().product());
                let deviation = (2.0 / s.outputs as f64).sqrt();
                Var::from_tensor(&(Tensor::from_vec(values, &dims, setup.device)? * deviation)?)?
            }
        };
        let bias_name = format!("{name}.bias");
        let bias =
            s.bias.then(|| parameter(setup, &bias_name, &[s.outputs], 1.0 / fan_in.sqrt())).transpose()?;
        let (stride, padding, transposed) = (s.stride, s.padding, s.transposed);
        let cpu = Arc::clone(setup.cpu);
        Ok(Self { name: name.to_owned(), weight, bias, stride, padding, transposed, cpu })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let apply = if self.transposed { tensor::conv_transpose2d } else { tensor::conv2d };
        let bias = self.bias.as_ref().map(Var::as_tensor);
        Ok(apply(&self.cpu, x, self.weight.as_tensor(), bias, self.stride, self.padding)?)
    }

    pub fn parameters(&self, all: &mut Vec<(String, Var)>) {
        all.push((format!("{}.weight", self.name), self.weight.clone()));
        all.extend(self.bias.iter().map(|b| (format!("{}.bias", self.name), b.clone())));
    }
}

/// Batch normalisation with the batch's own statistics: an adapter is never evaluated, so it keeps no running ones.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    name: String,
    weight: Var,
    bias: Var,
}

impl BatchNorm {
    pub fn new(setup: &Setup, name: &str, channels: usize) -> Result<Self> {
        let full = |value: f32| Var::from_tensor(&Tensor::full(value, channels, setup.device)?);
        Ok(Self { name: name.to_owned(), weight: full(1.0)?, bias: full(0.0)? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(tensor::batch_norm(x, self.weight.as_tensor(), self.bias.as_tensor(), EPSILON)?)
    }

    pub fn parameters(&self, all: &mut Vec<(String, Var)>) {
        all.push((format!("{}.weight", self.name), self.weight.clone()));
        all.push((format!("{}.bias", self.name), self.bias.clone()));
    }
}

/// A fully connected layer with bias.
#[derive(Debug)]
pub(crate) struct Linear {
    name: String,
    weight: Var,
    bias: Var,
}

impl Linear {
    pub fn new(setup: &Setup, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let weight = parameter(setup, &format!("{name}.weight"), &[outputs, inputs], bound)?;
        let bias = parameter(setup, &format!("{name}.bias"), &[outputs], bound)?;
        Ok(Self { name: name.to_owned(), weight, bias })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.as_tensor().t()?)?.broadcast_add(self.bias.as_tensor())?)
    }

    pub fn parameters(&self, all: &mut Vec<(String, Var)>) {
        all.push((format!("{}.weight", self.name), self.weight.clone()));
        all.push((format!("{}.bias", self.name), self.bias.clone()));
    }
}
