//! The layout of one image inside a buffer.

use crate::simd::LANES;

/// Rounds a channel count up to whole vectors.
pub const fn padded_channels(channels: usize) -> usize {
    channels.div_ceil(LANES) * LANES
}

/// Layout of one image: rows, columns, channels innermost (NHWC), in `f32` elements.
///
/// `stride` elements separate two pixels; channels `channels..stride` are zero in every buffer that kernels read.
/// `border` rows and columns of zero pixels surround the image: a convolution's padding is in its input's buffer, so
/// that its loops have no edges. Kernels write the interior only, so the border, zeroed once, stays zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels in use.
    pub channels: usize,
    /// Elements from one pixel to the next.
    pub stride: usize,
    /// Zero pixels on each side.
    pub border: usize,
}

impl Map {
    /// A layout whose pixels are padded to whole vectors.
    pub const fn new(height: usize, width: usize, channels: usize, border: usize) -> Self {
        Self { height, width, channels, stride: padded_channels(channels), border }
    }

    /// A layout without channel padding, as images come in.
    pub const fn dense(height: usize, width: usize, channels: usize, border: usize) -> Self {
        Self { height, width, channels, stride: channels, border }
    }

    /// The same image with another border.
    pub const fn with_border(self, border: usize) -> Self {
        Self { border, ..self }
    }

    /// Elements from one row to the next.
    pub const fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.stride
    }

    /// Elements of the whole buffer, border included.
    pub const fn elements(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Offset of pixel (`y`, `x`); the border has negative coordinates, so `y` and `x` may be as low as `-border`.
    pub const fn at(&self, y: isize, x: isize) -> usize {
        ((y + self.border as isize) as usize) * self.row()
            + ((x + self.border as isize) as usize) * self.stride
    }

    /// Elements of one interior row.
    pub const fn row_elements(&self) -> usize {
        self.width * self.stride
    }

    /// Whether the pixels consist of whole vectors.
    pub const fn is_vector(&self) -> bool {
        self.stride.is_multiple_of(LANES)
    }

    /// Whether two layouts describe the same interior (borders may differ).
    pub const fn same_interior(&self, other: &Self) -> bool {
        self.height == other.height && self.width == other.width && self.stride == other.stride
    }
}
