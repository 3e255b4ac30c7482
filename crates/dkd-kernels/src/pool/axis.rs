//! Which input positions a window covers, and which windows cover an input position.

use crate::Map;

/// Window of a pooling operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Window height and width.
    pub kernel: (usize, usize),
    /// Vertical and horizontal stride.
    pub stride: (usize, usize),
    /// Padding of rows and columns, on both sides; at most half the kernel, so that no window is all padding.
    pub padding: (usize, usize),
}

impl Window {
    /// Rows and columns of the output for an input of `height` x `width`: `(n + 2 padding - kernel) / stride + 1`,
    /// rounded down. `None` if the window does not fit into the padded input.
    pub fn output(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let one = |n: usize, k: usize, s: usize, p: usize| Some((n + 2 * p).checked_sub(k)? / s + 1);
        Some((
            one(height, self.kernel.0, self.stride.0, self.padding.0)?,
            one(width, self.kernel.1, self.stride.1, self.padding.1)?,
        ))
    }

    /// Positions of the window.
    pub fn area(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Both axes, after checking that the layouts belong to this window.
    pub(super) fn axes(&self, x: &Map, y: &Map) -> (Axis, Axis) {
        assert!(x.is_vector() && x.stride == y.stride, "pixels of the same number of whole vectors");
        let (rows, columns) = (
            Axis::new(self.kernel.0, self.stride.0, self.padding.0, x.height, y.height),
            Axis::new(self.kernel.1, self.stride.1, self.padding.1, x.width, y.width),
        );
        (rows, columns)
    }
}

/// One direction of a [`Window`] over an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) input: usize,
    pub(super) output: usize,
}

impl Axis {
    fn new(kernel: usize, stride: usize, padding: usize, input: usize, output: usize) -> Self {
        assert!(stride > 0 && 2 * padding <= kernel, "a stride of at least 1, padding up to half the kernel");
        assert!(
            output > 0 && (output - 1) * stride + kernel <= input + 2 * padding,
            "every window lies inside the padded input"
        );
        Self { kernel, stride, padding, input, output }
    }

    /// First input position of window `o` and the one after its last, without padding.
    #[inline(always)]
    pub(super) fn inputs(&self, o: usize) -> (usize, usize) {
        let start = o * self.stride;
        (start.saturating_sub(self.padding), (start + self.kernel - self.padding).min(self.input))
    }

    /// First window that covers input position `i` and the one after the last.
    #[inline(always)]
    pub(super) fn outputs(&self, i: usize) -> (usize, usize) {
        let padded = i + self.padding;
        let end = (padded / self.stride + 1).min(self.output);
        ((padded + 1).saturating_sub(self.kernel).div_ceil(self.stride).min(end), end)
    }

    /// Position of input `i` inside window `o`, which covers it.
    #[inline(always)]
    pub(super) fn position(&self, i: usize, o: usize) -> usize {
        i + self.padding - o * self.stride
    }

    /// Whether every window has all its positions inside the input.
    pub(super) fn is_inside(&self) -> bool {
        self.padding == 0
    }
}
