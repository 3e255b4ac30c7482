//! State dictionaries: what fits a network, and how one is made.

use crate::graph::{Graph, ParamKind, ParamSpec};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// The values of a parameter in a dictionary, which must have its shape.
pub(crate) fn fitting(spec: &ParamSpec, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
    let wrong = |got: String| Error::Tensor {
        what: format!("parameter `{}`", spec.name),
        expected: format!("shape {:?}", spec.shape),
        got,
    };
    let tensor = dict.get(&spec.name).ok_or_else(|| wrong("nothing: it is missing".to_owned()))?;
    if tensor.dims() != spec.shape {
        return Err(wrong(format!("shape {:?}", tensor.dims())));
    }
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

/// The values of all tensors of a network, in its order, from a dictionary that has these and no others.
pub(crate) fn all_fitting(graph: &Graph, dict: &HashMap<String, Tensor>) -> Result<Vec<Vec<f32>>> {
    let all = graph.params().iter().map(|spec| fitting(spec, dict)).collect::<Result<Vec<_>>>()?;
    let known =
        |name: &str| name.ends_with(".num_batches_tracked") || graph.params().iter().any(|p| p.name == name);
    let mut unexpected: Vec<&str> = dict.keys().map(String::as_str).filter(|n| !known(n)).collect();
    if !unexpected.is_empty() {
        unexpected.sort_unstable();
        return Err(Error::Tensor {
            what: "state dictionary".to_owned(),
            expected: format!("the {} tensors of this network", graph.params().len()),
            got: format!("also `{}`", unexpected.join("`, `")),
        });
    }
    Ok(all)
}

/// Tensors of those parameters for which there are values, in PyTorch's names and layout.
pub(crate) fn tensors(
    graph: &Graph,
    values: impl Fn(usize, &ParamSpec) -> Option<Vec<f32>>,
) -> Result<Vec<(String, Tensor)>> {
    let mut all = Vec::with_capacity(graph.params().len());
    for (i, spec) in graph.params().iter().enumerate() {
        if let Some(values) = values(i, spec) {
            all.push((spec.name.clone(), Tensor::from_vec(values, &spec.shape[..], &Device::Cpu)?));
        }
    }
    Ok(all)
}

/// Position of the trainable parameter `name`.
pub(crate) fn trainable(graph: &Graph, name: &str) -> Result<usize> {
    let is = |spec: &ParamSpec| spec.kind == ParamKind::Trainable;
    graph.params().iter().position(|spec| is(spec) && spec.name == name).ok_or_else(|| {
        let known = graph.params().iter().filter(|spec| is(spec));
        Error::Tensor {
            what: format!("parameter `{name}`"),
            expected: known.map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", "),
            got: "a name that is none of them".to_owned(),
        }
    })
}
