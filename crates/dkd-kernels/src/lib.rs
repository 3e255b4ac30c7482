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
//!
//! # Example
//! A 3x3 kernel of ones over an image of ones counts the pixels that it covers:
//!
//! ```
//! use dkd_kernels::conv2d::{ConvForward, ConvGeometry, Images, PackedConv};
//! use dkd_kernels::{Isa, LANES, Map};
//! let (input, output) = (Map::new(4, 4, 1, 1), Map::new(4, 4, 1, 0));
//! let geometry = ConvGeometry { input, output, kernel: (3, 3), stride: (1, 1), padding: (1, 1) };
//!
//! let packing = PackedConv::new(&geometry);
//! let mut weights = vec![0.0; packing.elements()];
//! packing.for_each(|_, packed| weights[packed] = 1.0);
//! let mut image = vec![0.0; input.elements()];
//! for y in 0..4 {
//!     (0..4).for_each(|x| image[input.at(y, x)] = 1.0);
//! }
//!
//! let forward = ConvForward::new(geometry);
//! let mut scratch = vec![0.0; forward.scratch_elements()];
//! let mut sums = vec![0.0; output.elements()];
//! forward.run(Isa::detect()?, Images::ONE, &image, &weights, &[0.0; LANES], &mut sums, &mut scratch);
//! assert_eq!([(0, 0), (0, 1), (1, 1)].map(|(y, x)| sums[output.at(y, x)]), [4.0, 6.0, 9.0]);
//! # Ok::<(), dkd_kernels::IsaError>(())
//! ```
#![allow(unsafe_code)]
// One index runs over several arrays of registers at once.
#![allow(clippy::needless_range_loop)]

pub mod ahead;
mod buffer;
pub mod channels;
pub mod conv2d;
pub mod dropout;
pub mod flat;
pub mod gpu;
pub mod half;
mod isa;
pub mod linear;
mod map;
pub mod norm;
mod peak;
pub mod pointwise;
pub mod pool;
pub mod rng;
mod simd;
#[cfg(feature = "candle")]
pub mod tensor;
mod threads;

pub use buffer::{AlignedBuf, Number};
pub use isa::{ISA_VARIABLE, Isa, IsaError};
pub use map::{Map, padded_channels};
pub use peak::fma_peak;
pub use simd::LANES;
pub use threads::{Cpu, CpuError, limit_library_pools};
