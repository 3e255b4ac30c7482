//! Networks for a data set, and what losses are told about them.

use super::row::Row;
use crate::network::{EngineNetwork, Network};
use crate::{Recipe, Result, RowRecipe};
use candle_core::Device;
use dkd_datasets::Dataset;
use dkd_engine::{Graph, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::{Distiller, Objective, Setup, StepDraw};
use dkd_models::ModelOptions;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The network `model` for these images and classes.
pub(crate) fn graph(model: &str, data: &Dataset) -> Result<Graph> {
    let image = (3, data.train.height, data.train.width);
    Ok(dkd_models::build(model, &ModelOptions { image, ..ModelOptions::new(data.num_classes()) })?)
}

/// Shapes of a network's taps, without the batch.
fn tap_shapes(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect()
}

/// What losses are told before the first step.
pub(crate) struct Told<'a> {
    pub data: &'a Dataset,
    pub cpu: &'a Arc<Cpu>,
    pub seed: u64,
    pub teacher: &'a Shapes,
}

/// What losses are told about a teacher; nothing, if there is none.
#[derive(Default)]
pub(crate) struct Shapes {
    taps: BTreeMap<String, Vec<usize>>,
    /// The batch norms that taps come from.
    norms: BTreeMap<String, String>,
}

impl Shapes {
    /// Of the teacher of `recipe`, if it has one.
    pub fn of_teacher(recipe: &Recipe, data: &Dataset) -> Result<Self> {
        let Some(teacher) = &recipe.teacher else { return Ok(Self::default()) };
        let graph = graph(&teacher.model, data)?;
        let norms = graph
            .taps()
            .iter()
            .filter_map(|tap| Some((tap.name.clone(), graph.norm_of_tap(&tap.name)?.to_owned())));
        Ok(Self { norms: norms.collect(), taps: tap_shapes(&graph) })
    }
}

impl Told<'_> {
    /// The loss of `recipe` for the student `graph`, ready for the first step.
    pub fn objective(&self, recipe: &RowRecipe, graph: &Graph) -> Result<Distiller> {
        let mut objective = recipe.objective()?;
        objective.prepare(&Setup {
            device: &Device::Cpu,
            cpu: self.cpu,
            num_classes: self.data.num_classes(),
            train_labels: &self.data.train.labels,
            student_taps: &tap_shapes(graph),
            teacher_taps: &self.teacher.taps,
            teacher_norms: &self.teacher.norms,
            // For what happens before the first step: no step has this number.
            draw: &StepDraw { seed: self.seed, step: u64::MAX },
        })?;
        Ok(objective)
    }
}

/// A row that has not begun.
pub(super) fn new_row(recipe: RowRecipe, max_batch: usize, told: &Told<'_>) -> Result<Row> {
    let graph = graph(&recipe.model, told.data)?;
    let objective = told.objective(&recipe, &graph)?;
    let options = SessionOptions { max_batch, train: true, taps: objective.taps().student };
    let network = EngineNetwork::new(graph, told.cpu, options, told.seed + recipe.seed_offset)?;
    Ok(Row::new(recipe, objective, Box::new(network), told.cpu))
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
