//! Batch norms as part of the layer before them.

use super::weights::{Array, Weights};
use crate::Result;
use dkd_engine::BatchNorm;

/// `weight` and `bias` of layer `name` followed by `bn`, computed in f64: with `s = gamma / sqrt(var + eps)`, `weight * s` for
/// each output, and `(bias - mean) * s + beta`.
///
/// # Errors
/// A tensor of the batch norm that cannot be; a result beyond f32.
pub(super) fn fold(
    bn: &BatchNorm,
    weights: &Weights<'_>,
    layer: &str,
    mut weight: Array,
    bias: Option<Array>,
) -> Result<(Array, Array)> {
    let field = |field| weights.get(&bn.name, field);
    let (gamma, beta) = (field("weight")?, field("bias")?);
    let (mean, var) = (field("running_mean")?, field("running_var")?);
    let outputs = gamma.values.len();
    let mut folded = Array { name: format!("{layer}.bias"), dims: vec![outputs], values: Vec::new() };
    for (c, kernel) in weight.values.chunks_exact_mut(weight.dims[1..].iter().product()).enumerate() {
        let value = |array: &Array| f64::from(array.values[c]);
        let scale = value(&gamma) / (value(&var) + f64::from(bn.eps)).sqrt();
        kernel.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
        let own = bias.as_ref().map_or(0.0, value);
        folded.values.push(((own - value(&mean)) * scale + value(&beta)) as f32);
    }
    weight.check_finite()?;
    folded.check_finite()?;
    Ok((weight, folded))
}
