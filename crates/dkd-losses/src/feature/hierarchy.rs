//! ReviewKD's distance of two feature maps: at full size and averaged to ever fewer pixels.
use candle_core::Tensor;
use dkd_kernels::tensor::adaptive_avg_pool2d;

use super::check_equal_maps;
use crate::Result;

/// Sizes to which maps are averaged.
const SIZES: [usize; 3] = [4, 2, 1];

/// Hierarchical context loss of two maps of the same shape [B, C, H, W]: the mean squared difference, plus 1/2, 1/4 and 1/8 of that of
/// the maps averaged to 4x4, 2x2 and 1x1 pixels (only sizes below H; a size that is left out does not use up a
/// weight), divided by the sum of the weights.
///
/// Chen, Liu, Zhao, Jia: *Distilling knowledge via knowledge review* (CVPR 2021). The teacher is a constant. Costs O(B C H W).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are maps of the same shape.
pub fn hcl(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_equal_maps(student, teacher)?;
    let teacher = teacher.detach();
    let distance = |s: &Tensor, t: &Tensor| -> Result<Tensor> { Ok((s - t)?.sqr()?.mean_all()?) };
    let (mut sum, mut weight, mut total) = (distance(student, &teacher)?, 1.0, 1.0);
    for size in SIZES.into_iter().filter(|size| *size < student.dims()[2]) {
        weight /= 2.0;
        total += weight;
        let pooled = |map: &Tensor| adaptive_avg_pool2d(map, (size, size));
        sum = (sum + (distance(&pooled(student)?, &pooled(&teacher)?)? * weight)?)?;
    }
    Ok((sum * (1.0 / total))?)
}
