//! How the images of one call lie in their buffers.

/// Images that are computed together, which pays where an image has few pixels: weights are then read once for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// How many.
    pub count: usize,
    /// Elements from one image of the first operand (the input, or the output's gradient) to the next.
    pub from: usize,
    /// Elements from one image of the second operand (the result, or for the weights' gradient that of the output) to the next.
    pub to: usize,
}

impl Images {
    /// A single image.
    pub const ONE: Self = Self { count: 1, from: 0, to: 0 };

    /// Elements up to the end of the last image, each of `elements`, `step` elements apart.
    pub(super) fn end(&self, step: usize, elements: usize) -> usize {
        self.count.checked_sub(1).map_or(0, |last| last * step + elements)
    }
}
