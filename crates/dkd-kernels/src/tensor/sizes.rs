//! The sizes of a convolution of a batch.

use super::call::Call;
use crate::Map;
use crate::conv2d::ConvGeometry;
use candle_core::Result;

/// Sizes of the convolution y = conv(x, weight), whichever of the three an operation computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Images.
    pub batch: usize,
    /// Channels, rows and columns of x.
    pub input: [usize; 3],
    /// Channels, rows and columns of y.
    pub output: [usize; 3],
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: usize,
}

impl Sizes {
    /// With a stride that fits the image, once all buffers have a size that can be computed with. `self` has sizes at which every
    /// window lies inside the padded input.
    pub fn checked(mut self, call: &Call) -> Result<Self> {
        let [inputs, height, width] = self.input;
        let [outputs, rows, columns] = self.output;
        call.fits("x", &[self.batch, inputs, height, width])?;
        call.fits("the result", &[self.batch, outputs, rows, columns])?;
        // A longer stride leaves the image after the first window in any case, and could not be multiplied with.
        self.stride = self.stride.min(height.max(width).saturating_add(self.padding.saturating_mul(2)));
        for map in [Map::new(height, width, inputs, self.padding), self.gradient()] {
            let padded = |n: usize| n.saturating_add(map.border.saturating_mul(2));
            call.fits("a padded image", &[padded(map.height), padded(map.width), map.stride])?;
        }
        Ok(self)
    }

    /// The kernels' geometry: x has a border for the padding.
    pub fn geometry(&self) -> ConvGeometry {
        let ([inputs, height, width], [outputs, rows, columns]) = (self.input, self.output);
        ConvGeometry {
            input: Map::new(height, width, inputs, self.padding),
            output: Map::new(rows, columns, outputs, 0),
            kernel: self.kernel,
            stride: (self.stride, self.stride),
            padding: (self.padding, self.padding),
        }
    }

    /// Layout of y's gradient, with the border that x's gradient needs.
    pub fn gradient(&self) -> Map {
        let geometry = self.geometry();
        geometry.output.with_border(geometry.gradient_border())
    }

    /// Shape of x.
    pub fn x(&self) -> [usize; 4] {
        let [channels, rows, columns] = self.input;
        [self.batch, channels, rows, columns]
    }

    /// Shape of y.
    pub fn y(&self) -> [usize; 4] {
        let [channels, rows, columns] = self.output;
        [self.batch, channels, rows, columns]
    }

    /// Shape of the weight.
    pub fn weight(&self) -> [usize; 4] {
        [self.output[0], self.input[0], self.kernel.0, self.kernel.1]
    }
}
