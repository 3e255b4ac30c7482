//! Weights by name, checked before they are written.

use crate::{Error, Result};
use candle_core::{DType, Tensor};
use dkd_engine::{Graph, ParamSpec};
use std::collections::HashMap;

/// A tensor of the state dictionary in PyTorch's layout.
pub(super) struct Array {
    pub name: String,
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// The state dictionary of a network.
pub(super) struct Weights<'a> {
    specs: HashMap<&'a str, &'a ParamSpec>,
    tensors: &'a HashMap<String, Tensor>,
}

impl<'a> Weights<'a> {
    pub fn new(graph: &'a Graph, tensors: &'a HashMap<String, Tensor>) -> Self {
        Self { specs: graph.params().iter().map(|p| (p.name.as_str(), p)).collect(), tensors }
    }

    /// The tensor `<layer>.<field>`.
    ///
    /// # Errors
    /// It is missing, has another shape or element type, or holds a number that cannot be.
    pub fn get(&self, layer: &str, field: &str) -> Result<Array> {
        let name = format!("{layer}.{field}");
        let spec =
            self.specs.get(name.as_str()).expect("a graph has a parameter for every field of its layers");
        let fail = |problem: String| Err(Error::Tensor { name: name.clone(), problem });
        let Some(tensor) = self.tensors.get(&name) else {
            return fail(format!("not among the weights; the network needs it with shape {:?}", spec.shape));
        };
        if tensor.dims() != spec.shape {
            return fail(format!("shape {:?}, but the network needs {:?}", tensor.dims(), spec.shape));
        }
        if tensor.dtype() != DType::F32 {
            return fail(format!("elements of type {:?}; convert them to f32", tensor.dtype()));
        }
        let values = match tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()) {
            Ok(values) => values,
            Err(e) => return fail(e.to_string()),
        };
        let array = Array { name: name.clone(), dims: spec.shape.clone(), values };
        array.check_finite()?;
        if field == "running_var"
            && let Some(i) = array.values.iter().position(|v| *v < 0.0)
        {
            return fail(format!("element {i} is {}; a variance is not negative", array.values[i]));
        }
        Ok(array)
    }
}

impl Array {
    /// Refuses what would make every logit a NaN.
    pub fn check_finite(&self) -> Result<()> {
        match self.values.iter().position(|v| !v.is_finite()) {
            Some(i) => {
                let problem = format!(
                    "element {i} is {}; a network with it computes no logits. Export weights from before it diverged",
                    self.values[i]
                );
                Err(Error::Tensor { name: self.name.clone(), problem })
            }
            None => Ok(()),
        }
    }
}
