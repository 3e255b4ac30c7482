//! Parameters, their gradients and running statistics, in packed order, and as PyTorch's state dictionary.

use crate::graph::{Graph, ParamKind};
use crate::params::{ParamTable, Place};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
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
    /// Transposed copies of weights, for input gradients.
    pub transposed: AlignedBuf,
    /// Whether `transposed` is older than `values`.
    stale: bool,
    /// Ranges of `transposed`, and the tensors they belong to.
    ranges: Vec<Range<usize>>,
    owners: Vec<usize>,
}

impl Weights {
    pub fn new(params: &ParamTable) -> Self {
        let with_copy =
            params.places.iter().enumerate().filter_map(|(i, p)| Some((p.transposed.clone()?, i)));
        let (ranges, owners) = with_copy.unzip();
        Self {
            values: AlignedBuf::zeros(params.values),
            gradients: AlignedBuf::zeros(params.values),
            running: AlignedBuf::zeros(params.buffers),
            transposed: AlignedBuf::zeros(params.transposed),
            stale: true,
            ranges,
            owners,
        }
    }

    /// Notes that `values` changed.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// Brings the transposed copies up to date.
    pub fn refresh(&mut self, cpu: &Cpu, params: &ParamTable) {
        if std::mem::take(&mut self.stale) {
            let values = &self.values;
            cpu.for_ranges(&mut self.transposed, &self.ranges, |i, to| {
                let place = &params.places[self.owners[i]];
                place.packing.transpose(&values[place.range.clone()], to);
            });
        }
    }

    /// Fills everything with initial values.
    pub fn init(&mut self, graph: &Graph, params: &ParamTable, seed: u64) {
        for (spec, place) in graph.params().iter().zip(&params.places) {
            let initial = spec.initial_values(seed);
            self.set(spec.kind, place, &initial);
        }
    }

    fn set(&mut self, kind: ParamKind, place: &Place, torch: &[f32]) {
        let buffer = match kind {
            ParamKind::Trainable => &mut self.values,
            ParamKind::Buffer => &mut self.running,
        };
        let to = &mut buffer[place.range.clone()];
        to.fill(0.0);
        place.packing.for_each(|from, at| to[at] = torch[from]);
        self.stale = true;
    }

    /// Loads a state dictionary; nothing changes unless all of it fits.
    pub fn load(&mut self, graph: &Graph, params: &ParamTable, dict: &HashMap<String, Tensor>) -> Result<()> {
        let mut all = Vec::with_capacity(params.places.len());
        for spec in graph.params() {
            let wrong = |got: String| Error::Tensor {
                what: format!("parameter `{}`", spec.name),
                expected: format!("shape {:?}", spec.shape),
                got,
            };
            let tensor = dict.get(&spec.name).ok_or_else(|| wrong("nothing: it is missing".to_owned()))?;
            if tensor.dims() != spec.shape {
                return Err(wrong(format!("shape {:?}", tensor.dims())));
            }
            all.push(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let known = |name: &str| {
            name.ends_with(".num_batches_tracked") || graph.params().iter().any(|p| p.name == name)
        };
        let mut unexpected: Vec<&str> = dict.keys().map(String::as_str).filter(|n| !known(n)).collect();
        if !unexpected.is_empty() {
            unexpected.sort_unstable();
            return Err(Error::Tensor {
                what: "state dictionary".to_owned(),
                expected: format!("the {} tensors of this network", graph.params().len()),
                got: format!("also `{}`", unexpected.join("`, `")),
            });
        }
        for ((spec, place), values) in graph.params().iter().zip(&params.places).zip(&all) {
            self.set(spec.kind, place, values);
        }
        Ok(())
    }

    /// All tensors, in PyTorch's names and layout.
    pub fn dict(&self, graph: &Graph, params: &ParamTable) -> Result<Vec<(String, Tensor)>> {
        self.tensors(graph, params, |kind| match kind {
            ParamKind::Trainable => Some(&self.values),
            ParamKind::Buffer => Some(&self.running),
        })
    }

    /// Gradients of the trainable parameters, in PyTorch's names and layout.
    pub fn gradient_dict(&self, graph: &Graph, params: &ParamTable) -> Result<Vec<(String, Tensor)>> {
        self.tensors(graph, params, |kind| (kind == ParamKind::Trainable).then_some(&self.gradients))
    }

    fn tensors<'a>(
        &self,
        graph: &Graph,
        params: &ParamTable,
        buffer: impl Fn(ParamKind) -> Option<&'a AlignedBuf>,
    ) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::with_capacity(params.places.len());
        for (spec, place) in graph.params().iter().zip(&params.places) {
            let Some(from) = buffer(spec.kind) else { continue };
            let from = &from[place.range.clone()];
            let mut values = vec![0.0; spec.elements()];
            place.packing.for_each(|to, at| values[to] = from[at]);
            all.push((spec.name.clone(), Tensor::from_vec(values, &spec.shape[..], &Device::Cpu)?));
        }
        Ok(all)
    }
}
