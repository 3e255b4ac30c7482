//! Convolution by way of a matrix of the pixels' inputs, for images with few pixels: where a row of pixels does not fill a
//! register tile, pixels of several rows and images do. What every pixel multiplies is copied to one row of a matrix first, which
//! costs little where there are many outputs, and the weights are read once for all images of a call.

mod convolve;
mod weight_grad;

pub(super) use convolve::Gathered;
pub(super) use weight_grad::GatheredWeightGrad;

use super::pass::Pass;
use std::ops::Range;

/// Neighbouring pixels of one row of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Number of the first among those asked for.
    first: usize,
    count: usize,
    image: usize,
    row: usize,
    column: usize,
}

/// The pixels `range` of a pass's grid, numbered through all images.
fn segments(pass: &Pass, range: Range<usize>) -> impl Iterator<Item = Segment> {
    let (columns, pixels) = (pass.columns, pass.pixels());
    let mut next = range.start;
    std::iter::from_fn(move || {
        let (within, first) = (next % pixels, next - range.start);
        let (image, row, column) = (next / pixels, within / columns, within % columns);
        let count = (columns - column).min(range.end - next);
        next += count;
        (count > 0).then_some(Segment { first, count, image, row, column })
    })
}
