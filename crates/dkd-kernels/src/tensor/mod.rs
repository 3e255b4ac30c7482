//! Differentiable functions on candle tensors, made of this crate's kernels: what adapters between networks are built from.
//!
//! They compute on the CPU, in f32 or f64: f32 convolutions by the kernels, everything in f64 by plain loops, for checks of
//! gradients. Arguments may have any strides, such as the NCHW views of NHWC maps that a network's features are; results are
//! contiguous. Gradients reach every argument that leads to a variable. All functions give the same bits for any number of
//! threads. Whatever does not fit is an error that names the function, the shapes and what was expected.
//!
//! # Example
//! A kernel of four weights slides over an image of ones: each weight meets four pixels.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use dkd_kernels::{Cpu, tensor};
//! let x = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
//! let weight = Var::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
//! let y = tensor::conv2d(&Cpu::new(1)?, &x, &weight, None, 1, 0)?;
//!
//! let gradients = y.sum_all()?.backward()?;
//! let of_weight = gradients.get(&weight).ok_or("the weight has a gradient")?;
//! assert_eq!(of_weight.flatten_all()?.to_vec1::<f32>()?, [4.0; 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod batch_norm;
mod call;
mod conv2d;
mod conv_transpose2d;
mod convolution;
mod dense;
mod loops;
mod pool;
mod resize;
mod sizes;
mod windows;

pub use batch_norm::batch_norm;
pub use conv_transpose2d::conv_transpose2d;
pub use conv2d::conv2d;
pub use pool::adaptive_avg_pool2d;
pub use resize::resize_nearest2d;

#[cfg(test)]
mod tests;
