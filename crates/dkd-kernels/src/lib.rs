//! What everything numeric stands on: random numbers, the thread pool, the choice of instruction set and the kernels.
//!
//! Kernels work on slices; graphs, files and the names of models, methods or data sets have no place here. This is the
//! only crate of the workspace that contains `unsafe` code.
//!
//! # Conventions
//! One image lies in memory as a [`Map`] says: rows, columns, channels innermost, pixels padded to whole vectors of 16,
//! and a border of zero pixels where a convolution needs padding. Kernels take one image (convolution, pooling,
//! normalisation) or rows of features (linear layers) as slices, check the slices' lengths, and write the interior
//! only. Every kernel exists for AVX-512, AVX2 with FMA and in a portable form, chosen by an [`Isa`] value.
#![allow(unsafe_code)]
// One index runs over several arrays of registers at once.
#![allow(clippy::needless_range_loop)]

mod buffer;
pub mod conv2d;
pub mod dropout;
pub mod flat;
mod isa;
pub mod linear;
mod map;
pub mod norm;
mod peak;
pub mod pointwise;
pub mod pool;
pub mod rng;
mod simd;
mod threads;

pub use buffer::AlignedBuf;
pub use isa::{ISA_VARIABLE, Isa, IsaError};
pub use map::{Map, padded_channels};
pub use peak::fma_peak;
pub use simd::LANES;
pub use threads::{Cpu, limit_library_pools};
