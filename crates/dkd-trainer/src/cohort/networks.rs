//! Networks for a data set, and what losses are told about them.

use crate::Result;
use crate::network::{EngineNetwork, Network};
use dkd_datasets::Dataset;
use dkd_engine::{Graph, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::StepDraw;
use dkd_models::ModelOptions;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The network `model` for these images and classes.
pub(super) fn graph(model: &str, data: &Dataset) -> Result<Graph> {
    let image = (3, data.train.height, data.train.width);
    Ok(dkd_models::build(model, &ModelOptions { image, ..ModelOptions::new(data.num_classes()) })?)
}

pub(super) fn tap_shapes(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect()
}

/// Random numbers for what happens before the first step: no step has this number.
pub(super) fn draw_before(seed: u64) -> StepDraw {
    StepDraw { seed, step: u64::MAX }
}

/// A network with initial weights from `seed`.
pub(super) fn build(
    model: &str,
    data: &Dataset,
    options: SessionOptions,
    cpu: &Arc<Cpu>,
    seed: u64,
) -> Result<Box<dyn Network>> {
    Ok(Box::new(EngineNetwork::new(graph(model, data)?, cpu, options, seed)?))
}
