//! Pooling on one image: maximum and mean over windows, mean over the whole image; forward and backward.
//!
//! Backward kernels gather: every input pixel adds up what the windows that cover it send, in the windows' order
//! (rows, then columns), and is written once. So `dx` needs no zeroing, and overlapping windows always give the same
//! bits. Layouts have pixels of whole vectors and their borders are neither read nor written: padding is described by
//! the [`Window`] alone.

mod avg;
mod axis;
mod global;
mod lanes;
mod max;

#[cfg(test)]
mod tests;

pub use avg::{avg_pool_backward, avg_pool_forward};
pub use axis::Window;
pub use global::{global_avg_backward, global_avg_forward};
pub use max::{max_pool_backward, max_pool_forward};
