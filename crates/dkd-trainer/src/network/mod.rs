//! What the trainer needs of a network, and the two kinds there are.

mod candle;
mod compute;
mod engine;
mod gpu;
mod registry;

pub use candle::CandleNetwork;
pub use compute::Compute;
pub use engine::EngineNetwork;
pub use gpu::{Gpu, GpuNetwork};
pub(crate) use registry::registered;
pub use registry::{BuildNetwork, NetworkOptions, register_network};

use crate::{Error, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use dkd_engine::{DropoutKey, Mode, ParameterSpan};
use std::collections::{BTreeMap, HashMap};

/// A copy of a network that shows what all its layers make.
pub struct Opened {
    /// The copy, with a tap for every layer.
    pub network: Box<dyn Network>,
    /// The taps, in the order of the layers.
    pub layers: Vec<String>,
}

/// A network that can be trained: forward, backward from candle's gradients of its outputs, update of flat weights.
pub trait Network: Send {
    /// Runs a batch of images `[n, 3, h, w]`.
    ///
    /// # Errors
    /// The images do not fit the network.
    fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()>;

    /// Logits `[n, classes]` of the last batch: a leaf, overwritten by the next.
    ///
    /// # Errors
    /// No batch has run.
    fn logits(&self) -> Result<Tensor>;

    /// A tap of the last batch.
    ///
    /// # Errors
    /// No batch has run; no such tap.
    fn tap(&self, name: &str) -> Result<Tensor>;

    /// The parameters `names` as leaves in PyTorch's layout, for a loss that reads weights: until the next forward pass,
    /// [`Network::backward`] adds what it finds for them in the store to the gradients of the network.
    ///
    /// # Errors
    /// The network has no such parameter, or cannot hand out any.
    fn leaves(&mut self, names: &[String]) -> Result<BTreeMap<String, Tensor>> {
        match names.first() {
            None => Ok(BTreeMap::new()),
            Some(name) => Err(Error::Invalid(format!(
                "the loss reads the parameter `{name}`, which this network does not hand out: take a network of the engine"
            ))),
        }
    }

    /// Gradients of all parameters from those of logits and taps; may be called several times per forward pass, each call
    /// overwriting the gradients of the one before.
    ///
    /// # Errors
    /// No training batch has run; the store has no gradient of its outputs.
    fn backward(&mut self, store: &GradStore) -> Result<()>;

    /// The gradients, in the order of the flat weights.
    fn gradients(&self) -> &[f32];

    /// Changes the flat weights: `f(weights, gradients)`.
    ///
    /// # Errors
    /// The weights are on a device, which fails.
    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) -> Result<()>;

    /// Names and places in the flat weights.
    fn spans(&self) -> Vec<ParameterSpan>;

    /// Parameters and buffers by name, in PyTorch's layout.
    ///
    /// # Errors
    /// candle's.
    fn state_dict(&self) -> Result<Vec<(String, Tensor)>>;

    /// Loads parameters and buffers.
    ///
    /// # Errors
    /// A tensor is missing, unknown or of another shape.
    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()>;

    /// Flat values in the order of the weights, an optimizer's momentum for example, by name in PyTorch's layout.
    ///
    /// # Errors
    /// There are not as many values as weights.
    fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>>;

    /// The inverse of [`Network::unpack`]; tensors of other names are not looked at.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>>;

    /// Buffers that a training batch moves (running statistics), flat.
    ///
    /// # Errors
    /// candle's.
    fn running(&self) -> Result<Vec<f32>>;

    /// Puts back what [`Network::running`] gave.
    ///
    /// # Errors
    /// Another number of values.
    fn set_running(&mut self, values: &[f32]) -> Result<()>;

    /// A copy of this network, with its weights, all of whose layers can be looked at; `None` if there is no such view of it or
    /// not enough memory for one.
    ///
    /// # Errors
    /// The copy cannot be made.
    fn open(&self) -> Result<Option<Opened>> {
        Ok(None)
    }

    /// This network, if it is on a device.
    fn on_gpu(&mut self) -> Option<&mut GpuNetwork> {
        None
    }

    /// Number of trainable scalars.
    fn num_parameters(&self) -> usize;
}
