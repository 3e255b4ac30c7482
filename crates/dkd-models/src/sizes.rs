//! Which image sizes an architecture takes.

use crate::{Error, ModelOptions, Result};

/// For heads that average a map of `side` x `side` and nothing else: strides that divide by `factor` in all, each rounding up,
/// must lead there.
pub(crate) fn last_map(o: &ModelOptions, model: &str, factor: usize, side: usize) -> Result<()> {
    let fits = |n: usize| n.div_ceil(factor) == side;
    let (largest, smallest) = (factor * side, factor * (side - 1) + 1);
    allow(o, model, fits, || {
        format!(
            "its last feature map must be {side}x{side}, so height and width are from {smallest} to {largest} (usually \
             {largest}x{largest})"
        )
    })
}

/// For architectures whose pooling needs whole windows: height and width are multiples of `unit`.
pub(crate) fn multiple_of(o: &ModelOptions, model: &str, unit: usize) -> Result<()> {
    allow(o, model, |n| n.is_multiple_of(unit), || format!("height and width must be multiples of {unit}"))
}

/// For architectures that halve the map and need something left.
pub(crate) fn at_least(o: &ModelOptions, model: &str, side: usize) -> Result<()> {
    allow(o, model, |n| n >= side, || format!("height and width must be at least {side}"))
}

fn allow(
    o: &ModelOptions,
    model: &str,
    fits: impl Fn(usize) -> bool,
    allowed: impl FnOnce() -> String,
) -> Result<()> {
    let (_, height, width) = o.image;
    if fits(height) && fits(width) {
        return Ok(());
    }
    Err(Error::ImageSize { model: model.to_owned(), height, width, allowed: allowed() })
}
