//! Small pieces that several feature losses share.
use candle_core::{D, Tensor};

use crate::{Error, Result};

/// Lower limit of a norm that something is divided by, squared: norms of at least 1e-12 stay as they are in f32.
const SMALLEST_SQUARE: f64 = 1e-24;

/// Rows along the last dimension divided by their Euclidean norm, or by 1e-12 if that is smaller; a row of zeros stays one, and
/// its gradient is finite.
pub(super) fn rows_of_length_one(x: &Tensor) -> Result<Tensor> {
    let square = x.sqr()?.sum_keepdim(D::Minus1)?.maximum(SMALLEST_SQUARE)?;
    Ok(x.broadcast_div(&square.sqrt()?)?)
}

/// The sum of `f` over `items`; `method` has not been prepared if there are none.
pub(super) fn sum_of<T>(
    method: &'static str,
    items: impl IntoIterator<Item = T>,
    mut f: impl FnMut(T) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for item in items {
        let value = f(item)?;
        sum = Some(match sum {
            Some(sum) => (sum + value)?,
            None => value,
        });
    }
    sum.ok_or(Error::NotPrepared { method })
}

/// The mean of the smooth L1 distance: half the square of a difference below 1, else the difference less a half.
pub(super) fn smooth_l1(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let difference = (a - b)?.abs()?;
    let near = difference.minimum(1.0)?;
    // d² / 2 up to 1, d - 1/2 beyond: with n = min(d, 1), n (d - n / 2) is both.
    Ok((&near * (&difference - (&near * 0.5)?)?)?.mean_all()?)
}
