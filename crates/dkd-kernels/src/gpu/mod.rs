//! Kernels for a GPU: their launches, with every length checked, on any [`Machine`].
//!
//! The kernels' own text is CUDA C++ in the folder `cuda` of this crate. It is compiled when a machine is made: for the device found
//! (feature `cuda`), or for the CPU (feature `emulated`), where the threads of a block take turns as fibers. The second is how all of
//! this is tested without a GPU: the same text, the same launches, the same plan of memory.
//!
//! # Layout
//! A map of a batch is dense: image, row, column, channels innermost, without border and padding, in f32 or bf16. Arithmetic is f32,
//! sums over a batch are f64 where they end, and no sum depends on the order in which threads happen to run.

#[cfg(any(feature = "cuda", test))]
mod cache;
#[cfg(any(feature = "cuda", test))]
mod choices;
mod counting;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "emulated")]
mod emulated;
mod error;
mod launch;
mod machine;
mod memory;
mod packs;
#[cfg(all(test, feature = "emulated"))]
mod random;
mod rows;
pub mod source;
#[cfg(feature = "candle")]
#[allow(clippy::wrong_self_convention)] // from a tensor, by a machine
mod tensors;
#[cfg(all(test, feature = "emulated"))]
mod testing;

pub mod augment;
pub mod channels;
pub mod columns;
pub mod convolution;
pub mod counters;
pub mod dropout;
pub mod grouped;
pub mod linear;
pub mod losses;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod sgd;

pub use counting::{Calls, Counting};
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaOptions, Elsewhere};
#[cfg(feature = "emulated")]
pub use emulated::Emulated;
pub use error::{GpuError, Result};
pub use launch::Launch;
pub use machine::{Machine, Recorded, aside, beside, branches, record};
pub use memory::{Element, Memory, View};
#[cfg(feature = "candle")]
pub use tensors::TensorMachine;
