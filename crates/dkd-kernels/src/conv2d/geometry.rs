//! The sizes of a dense convolution.

use super::winograd::Filter;
use crate::{LANES, Map};

/// Tiles of an image that fill a register tile of a Winograd convolution.
const MANY_TILES: usize = 16;

/// Most pixels of an image for which a direct convolution takes several.
const FEW_PIXELS: usize = 64;

/// Fewest weights that are worth reading once for several images.
const MANY_WEIGHTS: usize = 4 * 1024;

/// Sizes of a dense (one group) convolution and the layouts of its input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    /// Input layout; its border must be at least the padding.
    pub input: Map,
    /// Output layout; pixels of whole vectors.
    pub output: Map,
    /// Kernel height and width.
    pub kernel: (usize, usize),
    /// Vertical and horizontal stride.
    pub stride: (usize, usize),
    /// Padding of rows and columns.
    pub padding: (usize, usize),
}

impl ConvGeometry {
    /// Kernel positions.
    pub fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Blocks of 16 output channels.
    pub fn output_blocks(&self) -> usize {
        self.output.channels.div_ceil(LANES)
    }

    /// Blocks of 16 input channels.
    pub fn input_blocks(&self) -> usize {
        self.input.channels.div_ceil(LANES)
    }

    /// Elements of the packed weight.
    pub fn weight_elements(&self) -> usize {
        self.output_blocks() * self.taps() * self.input.channels * LANES
    }

    /// Border that the output gradient's buffer needs for the input gradient.
    pub fn gradient_border(&self) -> usize {
        let one = |k: usize, s: usize, p: usize, n: usize, m: usize| {
            // Input positions 0..n read gradient rows (i + p - k) / s, from below 0 up to beyond m - 1.
            let before = (k - 1).saturating_sub(p).div_ceil(s);
            let after = ((n - 1 + p) / s + 1).saturating_sub(m);
            before.max(after)
        };
        let (i, o) = (&self.input, &self.output);
        one(self.kernel.0, self.stride.0, self.padding.0, i.height, o.height).max(one(
            self.kernel.1,
            self.stride.1,
            self.padding.1,
            i.width,
            o.width,
        ))
    }

    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> usize {
        self.output.height * self.output.width * self.output.channels * self.taps() * self.input.channels
    }

    /// Whether several images should be given to a call at once ([`super::Images`]): an image alone has too few pixels for the
    /// register tiles, and too many weights for so few.
    pub fn takes_many(&self) -> bool {
        let o = &self.output;
        let few = match Filter::of_convolution(self) {
            Some(filter) => filter.tiles(o) < MANY_TILES,
            None => o.height * o.width <= FEW_PIXELS && self.is_wide(),
        };
        few && self.weight_elements() >= MANY_WEIGHTS
    }

    /// Whether inputs and outputs fill vectors.
    pub(super) fn is_wide(&self) -> bool {
        self.input.channels >= LANES && self.output.channels >= LANES
    }

    pub(super) fn check(&self) {
        assert!(
            self.input.border >= self.padding.0.max(self.padding.1),
            "the input's border holds the padding"
        );
        assert!(self.output.is_vector(), "output pixels are whole vectors");
        let fits = |n: usize, k: usize, s: usize, p: usize, m: usize| (m - 1) * s + k <= n + 2 * p;
        assert!(
            fits(self.input.height, self.kernel.0, self.stride.0, self.padding.0, self.output.height)
                && fits(self.input.width, self.kernel.1, self.stride.1, self.padding.1, self.output.width),
            "every window lies inside the padded input: {self:?}"
        );
    }
}

/// One run of input elements that is multiplied with consecutive packed weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Offset of the first input element from the tile's base.
    pub x: usize,
    /// Offset of the first weight inside a block of outputs.
    pub w: usize,
    /// Number of input elements.
    pub len: usize,
}

/// Cuts `n` into the fewest pieces of at most `max`, sizes differing by at most one.
pub(crate) fn pieces(n: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(max);
    let (size, longer) = (n / count.max(1), n % count.max(1));
    (0..count).map(move |i| (i * size + i.min(longer), size + usize::from(i < longer)))
}
