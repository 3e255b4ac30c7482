//! Parameters, their gradients and running statistics, in packed order, and as PyTorch's state dictionary.

use crate::graph::{Graph, ParamKind};
use crate::params::{Copy, ParamTable, Place};
use crate::state::{self, fitting};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use dkd_kernels::{AlignedBuf, Cpu};
use std::collections::HashMap;
use std::ops::Range;

/// The flat buffers of a network.
#[derive(Debug)]
pub(super) struct Weights {
    /// Trainable parameters.
    pub values: AlignedBuf,
    /// Their gradients, in the same order.
    pub gradients: AlignedBuf,
    /// Running means and variances.
    pub running: AlignedBuf,
    /// Copies of weights in the order that the forward pass reads.
    pub forward: Copies,
    /// Copies of weights in the order that the backward pass reads.
    pub backward: Copies,
}

/// Copies of some of the weights, made again after every change of the values.
#[derive(Debug)]
pub(super) struct Copies {
    buffer: AlignedBuf,
    /// Whether they are older than the values.
    stale: bool,
    /// Pieces that are made independently, and for each the tensor and its number within it.
    ranges: Vec<Range<usize>>,
    owners: Vec<(usize, usize)>,
}

impl Copies {
    fn new<'a>(total: usize, places: impl Iterator<Item = Option<&'a Copy>>) -> Self {
        let (mut ranges, mut owners) = (Vec::new(), Vec::new());
        for (owner, copy) in places.enumerate().filter_map(|(i, copy)| Some((i, copy?))) {
            for (piece, start) in copy.range.clone().step_by(copy.piece).enumerate() {
                ranges.push(start..start + copy.piece);
                owners.push((owner, piece));
            }
        }
        Self { buffer: AlignedBuf::zeros(total), stale: true, ranges, owners }
    }

    fn refresh(&mut self, cpu: &Cpu, make: impl Fn(usize, usize, &mut [f32]) + Sync) {
        if std::mem::take(&mut self.stale) {
            let owners = &self.owners;
            cpu.for_ranges(&mut self.buffer, &self.ranges, |i, to| make(owners[i].0, owners[i].1, to));
        }
    }
}

impl std::ops::Deref for Copies {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer
    }
}

impl Weights {
    pub fn new(params: &ParamTable) -> Self {
        Self {
            values: AlignedBuf::zeros(params.values),
            gradients: AlignedBuf::zeros(params.values),
            running: AlignedBuf::zeros(params.buffers),
            forward: Copies::new(params.forward, params.places.iter().map(|p| p.forward.as_ref())),
            backward: Copies::new(params.backward, params.places.iter().map(|p| p.backward.as_ref())),
        }
    }

    /// Notes that `values` changed.
    pub fn changed(&mut self) {
        self.forward.stale = true;
        self.backward.stale = true;
    }

    /// Brings the copies for the forward pass up to date.
    pub fn refresh_forward(&mut self, cpu: &Cpu, params: &ParamTable) {
        let values = &self.values;
        self.forward.refresh(cpu, |owner, piece, to| {
            let place = &params.places[owner];
            place.packing.forward_copy(cpu.isa(), &values[place.range.clone()], piece, to);
        });
    }

    /// Brings the copies for the backward pass up to date.
    pub fn refresh_backward(&mut self, cpu: &Cpu, params: &ParamTable) {
        self.refresh_forward(cpu, params);
        let (values, forward) = (&self.values, &self.forward);
        self.backward.refresh(cpu, |owner, piece, to| {
            let place = &params.places[owner];
            let from = match &place.forward {
                Some(copy) => &forward[copy.range.clone()],
                None => &values[place.range.clone()],
            };
            place.packing.backward_copy(from, piece, to);
        });
    }

    /// Fills everything with initial values.
    pub fn init(&mut self, graph: &Graph, params: &ParamTable, seed: u64) {
        for (spec, place) in graph.params().iter().zip(&params.places) {
            let initial = spec.initial_values(seed);
            self.set(spec.kind, place, &initial);
        }
    }

    fn set(&mut self, kind: ParamKind, place: &Place, torch: &[f32]) {
        self.changed();
        let buffer = match kind {
            ParamKind::Trainable => &mut self.values,
            ParamKind::Buffer => &mut self.running,
        };
        let to = &mut buffer[place.range.clone()];
        to.fill(0.0);
        place.packing.for_each(|from, at| to[at] = torch[from]);
    }

    /// Loads a state dictionary; nothing changes unless all of it fits.
    pub fn load(&mut self, graph: &Graph, params: &ParamTable, dict: &HashMap<String, Tensor>) -> Result<()> {
        let all = state::all_fitting(graph, dict)?;
        for ((spec, place), values) in graph.params().iter().zip(&params.places).zip(&all) {
            self.set(spec.kind, place, values);
        }
        Ok(())
    }

    /// See [`super::Session::parameter`].
    pub fn parameter(&self, graph: &Graph, params: &ParamTable, name: &str) -> Result<Tensor> {
        let index = state::trainable(graph, name)?;
        let (spec, place) = (&graph.params()[index], &params.places[index]);
        let (mut values, from) = (vec![0.0; spec.elements()], &self.values[place.range.clone()]);
        place.packing.for_each(|torch, packed| values[torch] = from[packed]);
        Ok(Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?)
    }

    /// See [`super::Session::add_gradient`].
    pub fn add_gradient(
        &mut self,
        graph: &Graph,
        params: &ParamTable,
        name: &str,
        gradient: &Tensor,
    ) -> Result<()> {
        let index = state::trainable(graph, name)?;
        let (spec, place) = (&graph.params()[index], &params.places[index]);
        if gradient.dims() != spec.shape.as_slice() {
            return Err(Error::Tensor {
                what: format!("gradient of `{name}`"),
                expected: format!("shape {:?}", spec.shape),
                got: format!("{:?}", gradient.dims()),
            });
        }
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        let to = &mut self.gradients[place.range.clone()];
        place.packing.for_each(|torch, packed| to[packed] += values[torch]);
        Ok(())
    }

    /// All tensors, in PyTorch's names and layout.
    pub fn dict(&self, graph: &Graph, params: &ParamTable) -> Result<Vec<(String, Tensor)>> {
        tensors(graph, params, |kind| match kind {
            ParamKind::Trainable => Some(&self.values[..]),
            ParamKind::Buffer => Some(&self.running[..]),
        })
    }
}

/// `flat`, in the order of the trainable values, in PyTorch's names and layout.
pub(super) fn unpack(graph: &Graph, params: &ParamTable, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
    check_length(params, flat.len())?;
    tensors(graph, params, |kind| (kind == ParamKind::Trainable).then_some(flat))
}

/// The inverse of [`unpack`].
pub(super) fn pack(graph: &Graph, params: &ParamTable, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
    let mut flat = vec![0.0; params.values];
    for (spec, place) in graph.params().iter().zip(&params.places) {
        if spec.kind == ParamKind::Trainable {
            let values = fitting(spec, dict)?;
            let to = &mut flat[place.range.clone()];
            place.packing.for_each(|from, at| to[at] = values[from]);
        }
    }
    Ok(flat)
}

fn check_length(params: &ParamTable, got: usize) -> Result<()> {
    if got == params.values {
        return Ok(());
    }
    Err(Error::Tensor {
        what: "flat values".to_owned(),
        expected: format!("{} elements, as many as the parameters take", params.values),
        got: format!("{got}"),
    })
}

fn tensors<'a>(
    graph: &Graph,
    params: &ParamTable,
    buffer: impl Fn(ParamKind) -> Option<&'a [f32]>,
) -> Result<Vec<(String, Tensor)>> {
    state::tensors(graph, |i, spec| {
        let place = &params.places[i];
        let from = &buffer(spec.kind)?[place.range.clone()];
        let mut values = vec![0.0; spec.elements()];
        place.packing.for_each(|to, at| values[to] = from[at]);
        Some(values)
    })
}
