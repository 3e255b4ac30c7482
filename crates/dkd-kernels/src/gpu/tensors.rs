//! Where kernels meet candle's tensors.

use super::error::Result;
use super::machine::Machine;
use super::memory::View;
use candle_core::{Device, Tensor};

/// A machine on whose memory candle has tensors as well.
pub trait TensorMachine: Machine {
    /// Where tensors are made that this machine reads and writes.
    fn device(&self) -> &Device;

    /// Overwrites all of a contiguous tensor in f32 with as many numbers.
    ///
    /// # Errors
    /// It is on another device, not contiguous, of another type or length; a step is being recorded.
    fn to_tensor(&self, from: &View, tensor: &Tensor) -> Result<()>;

    /// Reads all of a tensor in f32, in the order of its elements.
    ///
    /// # Errors
    /// It is on another device, of another type or length; a step is being recorded.
    fn from_tensor(&self, tensor: &Tensor, to: &View) -> Result<()>;
}
