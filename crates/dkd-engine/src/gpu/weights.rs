//! Parameters, their gradients and running statistics on a device, and as PyTorch's state dictionary.

use super::places::Places;
use crate::graph::{Graph, ParamKind, ParamSpec};
use crate::state::{self, fitting};
use crate::{Error, Result};
use candle_core::Tensor;
use dkd_kernels::gpu::{Element, Machine, View, pointwise};
use std::collections::HashMap;

/// The flat buffers of a network.
#[derive(Debug)]
pub(super) struct Weights {
    /// Trainable parameters.
    pub values: View,
    /// What convolutions read, if that is not the values themselves: all of them in bf16.
    pub halves: Option<View>,
    /// Gradients, in the order of the values.
    pub gradients: View,
    /// Running means and variances.
    pub running: View,
    /// Whether the copy in bf16 is older than the values.
    stale: bool,
    /// Whether evaluations find what they make of values and running statistics: see [`super::GpuSession::freeze`].
    pub frozen: bool,
}

impl Weights {
    pub fn new(machine: &dyn Machine, places: &Places, element: Element) -> Result<Self> {
        let floats = |n: usize| machine.zeros(Element::F32, n);
        let halves = match element {
            Element::Bf16 => Some(machine.zeros(Element::Bf16, places.values)?),
            _ => None,
        };
        let (values, gradients) = (floats(places.values)?, floats(places.values)?);
        Ok(Self { values, halves, gradients, running: floats(places.running)?, stale: true, frozen: false })
    }

    /// Notes that the values have changed, and their copy has not.
    pub fn changed(&mut self) {
        self.stale = true;
        self.frozen = false;
    }

    /// Brings the copy in bf16 up to date.
    pub fn refresh(&mut self, machine: &dyn Machine) -> Result<()> {
        if let (true, Some(halves)) = (self.stale, &self.halves) {
            pointwise::convert(machine, &self.values, halves, false)?;
        }
        self.stale = false;
        Ok(())
    }

    /// The weight of a convolution or linear layer as these read it.
    pub fn operand(&self, places: &Places, index: usize) -> Result<View> {
        Ok(self.halves.as_ref().unwrap_or(&self.values).part(places.all[index].range.clone())?)
    }

    /// A parameter in f32.
    pub fn value(&self, places: &Places, index: usize) -> Result<View> {
        Ok(self.values.part(places.all[index].range.clone())?)
    }

    /// A parameter's gradient.
    pub fn gradient(&self, places: &Places, index: usize) -> Result<View> {
        Ok(self.gradients.part(places.all[index].range.clone())?)
    }

    /// A running statistic.
    pub fn statistic(&self, places: &Places, index: usize) -> Result<View> {
        Ok(self.running.part(places.all[index].range.clone())?)
    }

    /// Overwrites everything with what `torch` gives for each tensor, in PyTorch's order.
    pub fn set(
        &mut self,
        machine: &dyn Machine,
        graph: &Graph,
        places: &Places,
        torch: impl Fn(usize, &ParamSpec) -> Vec<f32>,
    ) -> Result<()> {
        let (mut values, mut running) = (vec![0.0; places.values], vec![0.0; places.running]);
        for (i, (spec, place)) in graph.params().iter().zip(&places.all).enumerate() {
            let flat = match spec.kind {
                ParamKind::Trainable => &mut values,
                ParamKind::Buffer => &mut running,
            };
            place.pack(&torch(i, spec), flat);
        }
        machine.write_floats(&self.values, &values)?;
        machine.write_floats(&self.running, &running)?;
        self.changed();
        Ok(())
    }

    /// Loads a state dictionary; nothing changes unless all of it fits.
    pub fn load(
        &mut self,
        machine: &dyn Machine,
        graph: &Graph,
        places: &Places,
        dict: &HashMap<String, Tensor>,
    ) -> Result<()> {
        let all = state::all_fitting(graph, dict)?;
        self.set(machine, graph, places, |i, _| all[i].clone())
    }

    /// All tensors, in PyTorch's names and layout.
    pub fn dict(
        &self,
        machine: &dyn Machine,
        graph: &Graph,
        places: &Places,
    ) -> Result<Vec<(String, Tensor)>> {
        let (values, running) = (machine.read_floats(&self.values)?, machine.read_floats(&self.running)?);
        state::tensors(graph, |i, spec| {
            let flat = if spec.kind == ParamKind::Trainable { &values } else { &running };
            Some(places.all[i].unpack(flat))
        })
    }
}

/// `flat`, in the order of the trainable values, in PyTorch's names and layout.
pub(super) fn unpack(graph: &Graph, places: &Places, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
    if flat.len() != places.values {
        return Err(Error::Tensor {
            what: "flat values".to_owned(),
            expected: format!("{} elements, as many as the parameters take", places.values),
            got: format!("{}", flat.len()),
        });
    }
    state::tensors(graph, |i, spec| (spec.kind == ParamKind::Trainable).then(|| places.all[i].unpack(flat)))
}

/// The inverse of [`unpack`].
pub(super) fn pack(graph: &Graph, places: &Places, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
    let mut flat = vec![0.0; places.values];
    for (spec, place) in graph.params().iter().zip(&places.all) {
        if spec.kind == ParamKind::Trainable {
            place.pack(&fitting(spec, dict)?, &mut flat);
        }
    }
    Ok(flat)
}
