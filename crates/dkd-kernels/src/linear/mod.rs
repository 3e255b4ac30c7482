//! Fully connected layers over rows of features: y = x W^T + b, and both gradients.
//!
//! Rows lie `stride` elements apart. Weights are packed as `[out / 16][in][16]`; the number of inputs is a multiple of 16
//! (padding features have zero weights). The loops are the convolution's tiles with rows in the place of pixels.

mod forward;
mod gradients;

#[cfg(test)]
mod tests;

pub use forward::linear;
pub use gradients::{linear_input_grad, linear_weight_grad};

/// Rows of features in a slice: the first at 0, the next `stride` further on.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Number of rows.
    pub count: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Rows<'_> {
    fn check(&self, features: usize) {
        assert!(
            self.count == 0 || (self.count - 1) * self.stride + features <= self.data.len(),
            "rows lie in the slice"
        );
    }
}
