//! Networks for a data set, and what losses are told about them.

use super::row::Row;
use crate::network::{BuildNetwork, Compute, EngineNetwork, GpuNetwork, Network, NetworkOptions, registered};
use crate::{Error, Recipe, Result, RowRecipe};
use candle_core::Device;
use dkd_datasets::Dataset;
use dkd_engine::{Graph, MemoryEstimate, Session, SessionOptions, SharedMemory, Tap};
use dkd_losses::{Distiller, Head, Objective, Setup, StepDraw};
use dkd_models::ModelOptions;
use std::collections::BTreeMap;

/// A network before it is built.
pub(crate) enum Architecture {
    /// For the engine.
    Engine(Graph),
    /// From outside: [`crate::register_network`].
    Registered(BuildNetwork, NetworkOptions),
}

impl Recipe {
    /// The network `model` for these images and classes, if the engine runs it: one of [`Recipe::networks`] or of the list.
    ///
    /// # Errors
    /// There is no such model, or it cannot take images of this size.
    pub fn graph(&self, model: &str, data: &Dataset) -> Result<Graph> {
        let image = (3, data.train.height, data.train.width);
        let options = ModelOptions { image, ..ModelOptions::new(data.num_classes()) };
        Ok(match self.networks.get(model) {
            Some(description) => description.build(&options)?,
            None => dkd_models::build(model, &options)?,
        })
    }

    /// The same, or a registered one.
    pub(crate) fn architecture(&self, model: &str, data: &Dataset) -> Result<Architecture> {
        let image = (3, data.train.height, data.train.width);
        let options = NetworkOptions { num_classes: data.num_classes(), image, seed: 0 };
        match registered(model).filter(|_| !self.networks.contains_key(model)) {
            Some(build) => Ok(Architecture::Registered(build, options)),
            None => Ok(Architecture::Engine(with_last_map(self.graph(model, data)?))),
        }
    }
}

/// What the map before the last pooling is called in a network that has no tap there.
const LAST_MAP: &str = "unpooled_feat";

/// The network with a tap on the map that its classifier gets the average of. A tap that nobody reads costs nothing.
fn with_last_map(graph: Graph) -> Graph {
    let taken = |map| graph.taps().iter().any(|t| t.value == map || t.name == LAST_MAP);
    match graph.head().filter(|head| !taken(head.map)) {
        Some(head) => graph.with_tap(LAST_MAP, head.map),
        None => graph,
    }
}

impl Architecture {
    /// How it classifies, if by averaging a map and one linear layer.
    fn head(&self) -> Option<Head> {
        let Self::Engine(graph) = self else { return None };
        let head = graph.head()?;
        Some(Head {
            map: graph.taps().iter().find(|t| t.value == head.map)?.name.clone(),
            weight: format!("{}.weight", head.layer),
            bias: head.bias.then(|| format!("{}.bias", head.layer)),
        })
    }

    /// Shapes of its taps, without the batch.
    pub fn taps(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Engine(graph) => graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect(),
            Self::Registered(..) => BTreeMap::new(),
        }
    }

    /// Taps that batch norms make, and these.
    fn norms(&self) -> BTreeMap<String, String> {
        let Self::Engine(graph) = self else { return BTreeMap::new() };
        let norm = |tap: &Tap| Some((tap.name.clone(), graph.norm_of_tap(&tap.name)?.to_owned()));
        graph.taps().iter().filter_map(norm).collect()
    }

    /// The network with initial weights from `seed`, which takes turns with others in `memory`.
    pub fn build(
        self,
        options: SessionOptions,
        compute: &Compute,
        seed: u64,
        memory: &SharedMemory,
    ) -> Result<Box<dyn Network>> {
        match self {
            Self::Engine(graph) => match &compute.gpu {
                Some(gpu) => Ok(Box::new(GpuNetwork::new(graph, gpu, options, seed)?)),
                None => Ok(Box::new(EngineNetwork::sharing(graph, &compute.cpu, options, seed, memory)?)),
            },
            Self::Registered(..) if !options.taps.is_empty() => {
                Err(Error::NoTaps { tap: options.taps[0].clone() })
            }
            Self::Registered(build, about) => build(&NetworkOptions { seed, ..about }),
        }
    }

    /// Its parameters; 0 if that is not known before it is built.
    pub fn num_parameters(&self) -> usize {
        match self {
            Self::Engine(graph) => graph.num_parameters(),
            Self::Registered(..) => 0,
        }
    }

    /// Bytes that it takes, as far as that is known before it is built: [`Session::estimate_bytes`].
    pub fn bytes(&self, threads: usize, options: &SessionOptions) -> Result<MemoryEstimate> {
        match self {
            Self::Engine(graph) => Ok(Session::estimate_bytes(graph, threads, options)?),
            Self::Registered(..) => Ok(MemoryEstimate { own: 0, shared: 0 }),
        }
    }
}

/// What losses are told before the first step.
pub(crate) struct Told<'a> {
    pub recipe: &'a Recipe,
    pub data: &'a Dataset,
    pub compute: &'a Compute,
    pub seed: u64,
    pub teacher: &'a Shapes,
}

/// What losses are told about a teacher; nothing, if there is none.
#[derive(Default)]
pub(crate) struct Shapes {
    taps: BTreeMap<String, Vec<usize>>,
    /// The batch norms that taps come from.
    norms: BTreeMap<String, String>,
    head: Option<Head>,
}

impl Shapes {
    /// Of the teacher of `recipe`, if it has one.
    pub fn of_teacher(recipe: &Recipe, data: &Dataset) -> Result<Self> {
        let Some(teacher) = &recipe.teacher else { return Ok(Self::default()) };
        let teacher = recipe.architecture(&teacher.model, data)?;
        Ok(Self { norms: teacher.norms(), head: teacher.head(), taps: teacher.taps() })
    }
}

impl Told<'_> {
    /// The loss of `recipe` for `student`, ready for the first step.
    pub fn objective(&self, recipe: &RowRecipe, student: &Architecture) -> Result<Distiller> {
        let mut objective = recipe.objective()?;
        objective.prepare(&Setup {
            device: &Device::Cpu,
            cpu: &self.compute.cpu,
            num_classes: self.data.num_classes(),
            train_labels: &self.data.train.labels,
            student_taps: &student.taps(),
            teacher_taps: &self.teacher.taps,
            teacher_norms: &self.teacher.norms,
            student_head: student.head().as_ref(),
            teacher_head: self.teacher.head.as_ref(),
            // For what happens before the first step: no step has this number.
            draw: &StepDraw { seed: self.seed, step: u64::MAX },
        })?;
        Ok(objective)
    }
}

/// A row that has not begun; the rows of a cohort share `memory`, since each finishes its step before the next one's.
pub(super) fn new_row(
    recipe: RowRecipe,
    max_batch: usize,
    told: &Told<'_>,
    memory: &SharedMemory,
) -> Result<Row> {
    let student = told.recipe.architecture(&recipe.model, told.data)?;
    let objective = told.objective(&recipe, &student)?;
    let options = told.compute.options(max_batch, true, objective.taps().student);
    let network = student.build(options, told.compute, told.seed + recipe.seed_offset, memory)?;
    Ok(Row::new(recipe, objective, network, &told.compute.cpu))
}
