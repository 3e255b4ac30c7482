//! Networks for a data set, and what losses are told about them.

use super::loaders::Loaders;
use super::row::Row;
use crate::network::{EngineNetwork, Network};
use crate::{Result, RowRecipe};
use candle_core::Device;
use dkd_datasets::Dataset;
use dkd_engine::{Graph, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::{Setup, StepDraw};
use dkd_models::ModelOptions;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The network `model` for these images and classes.
pub(crate) fn graph(model: &str, data: &Dataset) -> Result<Graph> {
    let image = (3, data.train.height, data.train.width);
    Ok(dkd_models::build(model, &ModelOptions { image, ..ModelOptions::new(data.num_classes()) })?)
}

pub(super) fn tap_shapes(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect()
}

/// A row that has not begun, of the run with this seed; `teacher_taps` are the shapes of its teacher's taps.
pub(super) fn new_row(
    recipe: RowRecipe,
    loaders: &Loaders,
    data: &Dataset,
    teacher_taps: &BTreeMap<String, Vec<usize>>,
    cpu: &Arc<Cpu>,
    seed: u64,
) -> Result<Row> {
    let taps = recipe.student_taps()?;
    let options = SessionOptions { max_batch: loaders.largest_batch, train: true, taps };
    let graph = graph(&recipe.model, data)?;
    let setup = Setup {
        device: &Device::Cpu,
        num_classes: data.num_classes(),
        train_labels: &data.train.labels,
        student_taps: &tap_shapes(&graph),
        teacher_taps,
        // For what happens before the first step: no step has this number.
        draw: &StepDraw { seed, step: u64::MAX },
    };
    let network = EngineNetwork::new(graph, cpu, options, seed + recipe.seed_offset)?;
    Row::new(recipe, Box::new(network), &setup, cpu)
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
