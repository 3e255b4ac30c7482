//! A network in memory: forward, backward, update.

mod backward;
mod boundary;
mod clock;
mod executor;
mod forward;
mod gathers;
mod group;
mod images;
mod memory;
mod statistics;
mod view;
mod weights;
mod windows;

#[cfg(test)]
pub(crate) mod tests;

use crate::graph::{Graph, ParamKind, Shape};
use crate::layout::layouts;
use crate::params::ParamTable;
use crate::plan::{Gathers, Plan, Purpose};
use crate::{Error, Result};
use boundary::Boundaries;
use candle_core::Tensor;
use candle_core::backprop::GradStore;
pub use clock::{Pass, StepTime};
use dkd_kernels::Cpu;
use dkd_kernels::rng::{Purpose as Draw, Stream};
use executor::Executor;
use images::Images;
use memory::Key;
pub use memory::SharedMemory;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use weights::Weights;

/// How batch normalisation and dropout behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics moved, dropout active; a backward pass may follow.
    Train,
    /// Running statistics, no dropout.
    Eval,
}

/// What the dropout masks of a batch depend on, besides the layer and the position in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropoutKey {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch.
    pub epoch: u32,
    /// Step.
    pub step: u64,
}

fn without_training() -> Error {
    Error::State("this session was made without training (SessionOptions::train)".to_owned())
}

/// Random words of one row of one image in one dropout layer.
fn dropout_stream(key: DropoutKey, layer: u64, image: usize, row: usize) -> Stream {
    let place = (key.step << 28) | ((image as u64) << 12) | row as u64;
    Stream::new(key.seed, Draw::Dropout, key.epoch, layer ^ place)
}

/// In what a session keeps the maps that its layers make, and their gradients.
///
/// Weights, their gradients, statistics, logits, taps and every sum are in f32 either way, and so is every multiplication: maps in
/// bf16 are expanded when they are read. Half of the memory is what is gained; 8 bits of precision instead of 24 is what is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: an `f32` rounded to 8 bits of precision, with its range.
    Bf16,
    /// 32 bits, but by way of the windows that 16 bits need: nothing is rounded, so not a bit may change.
    #[cfg(test)]
    F32InWindows,
}

/// What a session is made for.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Largest batch.
    pub max_batch: usize,
    /// Whether [`Mode::Train`] is used; costs the memory of all intermediate values.
    pub train: bool,
    /// Taps that losses read. A tapped value is stored and copied; an unused one costs nothing.
    pub taps: Vec<String>,
    /// In what maps are kept.
    pub precision: Precision,
}

/// Bytes that a session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, their gradients and copies, and what losses see.
    pub own: usize,
    /// Intermediate values and scratch memory, which sessions can share: [`SharedMemory`].
    pub shared: usize,
}

impl MemoryEstimate {
    /// Both.
    pub fn total(&self) -> usize {
        self.own.saturating_add(self.shared)
    }
}

/// One trainable tensor's place in the flat buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpan {
    /// PyTorch's name.
    pub name: String,
    /// Elements of the flat buffers; their order inside is the kernels' own, padded with zeros.
    pub range: Range<usize>,
}

/// A network with its weights and the memory to run it.
///
/// A training step is [`Session::forward`], a loss built by candle on [`Session::logits`] and [`Session::tap`], candle's
/// `backward`, [`Session::backward`] with the resulting store, and [`Session::update`]. Results are the same bits for any
/// number of threads.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dkd_engine::{Conv2d, DropoutKey, GraphBuilder, Linear, Mode, Precision, Session, SessionOptions};
/// let mut b = GraphBuilder::new(3, 8, 8);
/// let x = b.conv2d(b.input(), Conv2d::new("conv", 16, 3).padding(1));
/// let x = b.batch_norm(x, "bn");
/// let x = b.relu(x);
/// let x = b.global_avg_pool(x);
/// let x = b.linear(x, Linear::new("fc", 10));
/// let options = SessionOptions { max_batch: 4, train: true, taps: vec![], precision: Precision::F32 };
/// let mut net = Session::new(b.build(x)?, dkd_kernels::Cpu::new(1)?, options)?;
/// net.init(0);
/// let images = Tensor::zeros((4, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// net.forward(&images, Mode::Train, DropoutKey::default())?;
/// let loss = net.logits()?.sqr()?.sum_all()?;
/// net.backward(&loss.backward()?)?;
/// net.update(|weights, gradients| weights.iter_mut().zip(gradients).for_each(|(w, g)| *w -= 0.1 * g));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    cpu: Arc<Cpu>,
    params: ParamTable,
    weights: Weights,
    boundaries: Boundaries,
    train: Option<Executor>,
    infer: Result<Executor, Option<Plan>>,
    image: Vec<usize>,
    key: Key,
    memory: SharedMemory,
    /// Size and key of the last training batch, if a backward pass may follow.
    batch: Option<(usize, DropoutKey)>,
}

impl Session {
    /// Plans `graph` and allocates its weights, which are zero until [`Session::init`] or [`Session::load_state_dict`].
    ///
    /// # Errors
    /// An unknown tap; a layer that this engine cannot run; a batch size of 0.
    pub fn new(graph: Graph, cpu: Arc<Cpu>, options: SessionOptions) -> Result<Self> {
        Self::sharing(graph, cpu, options, &SharedMemory::default())
    }

    /// The same, computing in memory that it shares with the other sessions made so: see [`SharedMemory`].
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn sharing(
        graph: Graph,
        cpu: Arc<Cpu>,
        options: SessionOptions,
        memory: &SharedMemory,
    ) -> Result<Self> {
        if options.max_batch == 0 {
            return Err(Error::State("the batch size must be at least 1".to_owned()));
        }
        let SessionOptions { max_batch, taps, precision, .. } = options;
        let key = Key { graph, taps, max_batch, threads: cpu.threads(), precision };
        let graph = &key.graph;
        let layouts = layouts(graph)?;
        let params = ParamTable::new(graph, &layouts);
        let taps = key.taps.iter().map(|name| graph.tap(name)).collect::<Result<Vec<_>>>()?;
        let plan = |purpose| Plan::new(graph, &layouts, &params, &taps, purpose, Gathers::MadeAgain);
        let infer = Err(Some(plan(Purpose::Infer)?));
        let train =
            if options.train { Some(Executor::new(plan(Purpose::Train)?, &key, memory)) } else { None };
        let logits = layouts[graph.output().index()];
        let boundaries = Boundaries::new(graph.num_classes(), logits, &taps, &layouts, options.max_batch);
        let (h, w) = graph.input_shape().size();
        let image = vec![graph.input_shape().channels(), h, w];
        let weights = Weights::new(&params);
        Ok(Self {
            weights,
            boundaries,
            train,
            infer,
            image,
            key,
            memory: memory.clone(),
            batch: None,
            params,
            cpu,
        })
    }

    /// What a session for `graph` will have allocated after its first training step and its first evaluation, to within a few
    /// percent; nothing is allocated by asking.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn estimate_bytes(graph: &Graph, threads: usize, options: &SessionOptions) -> Result<MemoryEstimate> {
        let layouts = layouts(graph)?;
        let params = ParamTable::new(graph, &layouts);
        let taps = options.taps.iter().map(|name| graph.tap(name)).collect::<Result<Vec<_>>>()?;
        let memory = |purpose| -> Result<usize> {
            let plan = Plan::new(graph, &layouts, &params, &taps, purpose, Gathers::MadeAgain)?;
            Ok(Executor::bytes(&plan, options.precision, threads, options.max_batch))
        };
        let train = if options.train { memory(Purpose::Train)? } else { 0 };
        // Values and gradients, and both kinds of copies.
        let weights = 2 * params.values + params.buffers + params.forward + params.backward;
        // What losses see exists twice: in the engine's hands and in candle's.
        let seen = graph.num_classes() + taps.iter().map(|t| t.shape.elements()).sum::<usize>();
        let seen = 2 * seen.saturating_mul(options.max_batch);
        let own = (weights + seen).saturating_mul(size_of::<f32>());
        Ok(MemoryEstimate { own, shared: train.saturating_add(memory(Purpose::Infer)?) })
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.key.graph
    }

    /// The threads it runs on.
    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    /// Fills the parameters with the initial values that their layers ask for, and resets the running statistics.
    pub fn init(&mut self, seed: u64) {
        self.weights.init(&self.key.graph, &self.params, seed);
    }

    /// Runs a batch.
    ///
    /// `images` is `[n, c, h, w]` in f32 with any strides (channels-last needs no conversion), n at most
    /// [`SessionOptions::max_batch`].
    ///
    /// # Errors
    /// Another shape or type; [`Mode::Train`] in a session made without it.
    pub fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()> {
        let (storage, layout) = images.storage_and_layout();
        let batch = Images::new(images, &storage, layout, &self.image, self.key.max_batch)?;
        let (cpu, params) = (&*self.cpu, &self.params);
        self.batch = None;
        self.weights.refresh_forward(cpu, params);
        match mode {
            Mode::Train => {
                let executor = self.train.as_mut().ok_or_else(without_training)?;
                executor.train(cpu, params, &mut self.weights, &batch, &self.boundaries, key);
                self.batch = Some((batch.count(), key));
            }
            Mode::Eval => {
                if let Err(plan) = &mut self.infer
                    && let Some(plan) = plan.take()
                {
                    self.infer = Ok(Executor::new(plan, &self.key, &self.memory));
                }
                if let Ok(executor) = &mut self.infer {
                    executor.infer(cpu, params, &self.weights, &batch, &self.boundaries);
                }
            }
        }
        self.boundaries.publish(batch.count())
    }

    /// The logits `[n, classes]` of the last batch: a leaf variable, overwritten by the next batch of the same size.
    ///
    /// # Errors
    /// No batch has run.
    pub fn logits(&self) -> Result<Tensor> {
        self.boundaries.logits()
    }

    /// A tap of the last batch, `[n, c, h, w]` or `[n, features]`: (a view of) a leaf variable, overwritten by the next
    /// batch of the same size.
    ///
    /// # Errors
    /// No batch has run; the tap was not among [`SessionOptions::taps`].
    pub fn tap(&self, name: &str) -> Result<Tensor> {
        self.boundaries.tap(name)
    }

    /// Computes the gradients of all parameters from those of the logits and taps in `store`, overwriting earlier ones.
    /// May be called several times after a forward pass, for several losses.
    ///
    /// # Errors
    /// The last forward pass was not in [`Mode::Train`]; `store` has no gradient of the last batch's logits or taps; another
    /// session has taken over the memory that both share.
    pub fn backward(&mut self, store: &GradStore) -> Result<()> {
        let (Some((n, key)), Some(executor)) = (self.batch, self.train.as_mut()) else {
            return Err(Error::State(
                "a backward pass needs a forward pass in training mode before it".to_owned(),
            ));
        };
        if !executor.holds_batch() {
            let message = "another session has used the memory that both share since this one's forward pass: \
                           run the backward pass before the other's forward pass";
            return Err(Error::State(message.to_owned()));
        }
        self.boundaries.take_gradients(store)?;
        self.weights.refresh_backward(&self.cpu, &self.params);
        executor.backward(&self.cpu, &self.params, &mut self.weights, &self.boundaries, n, key);
        Ok(())
    }

    /// Gradients in the order of the flat buffer (see [`Session::spans`]).
    pub fn gradients(&self) -> &[f32] {
        &self.weights.gradients
    }

    /// A trainable parameter in PyTorch's layout.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        self.weights.parameter(&self.key.graph, &self.params, name)
    }

    /// Adds `gradient`, in PyTorch's layout, to that of the parameter `name`: for a loss that reads the parameter itself, after
    /// [`Session::backward`].
    ///
    /// # Errors
    /// There is none of this name; another shape.
    pub fn add_gradient(&mut self, name: &str, gradient: &Tensor) -> Result<()> {
        self.weights.add_gradient(&self.key.graph, &self.params, name, gradient)
    }

    /// Changes the parameters: `f(values, gradients)`, both flat and in the same order.
    ///
    /// An update must keep a value of 0 with a gradient of 0 at 0, as every common optimizer does: these are paddings.
    pub fn update(&mut self, f: impl FnOnce(&mut [f32], &[f32])) {
        f(&mut self.weights.values, &self.weights.gradients);
        self.weights.changed();
    }

    /// Running means and variances, flat.
    pub fn running(&self) -> &[f32] {
        &self.weights.running
    }

    /// Puts back what [`Session::running`] gave.
    ///
    /// # Errors
    /// Another number of values.
    pub fn set_running(&mut self, values: &[f32]) -> Result<()> {
        let own = &mut self.weights.running;
        if own.len() != values.len() {
            let (found, expected) = (values.len(), own.len());
            return Err(Error::State(format!("{found} running statistics were given, expected {expected}")));
        }
        own.copy_from_slice(values);
        Ok(())
    }

    /// Starts to measure every step of the plans anew, or stops. Measuring costs some 50 ns a step and image.
    pub fn measure(&mut self, on: bool) {
        if let Some(executor) = &mut self.train {
            executor.measure(on);
        }
        if let Ok(executor) = &mut self.infer {
            executor.measure(on);
        }
    }

    /// What every step has taken since [`Session::measure`]: of training if there was any, else of evaluation.
    pub fn measured(&self) -> Vec<StepTime> {
        let train = self.train.as_ref().map(|e| e.times(&self.key.graph)).unwrap_or_default();
        match &self.infer {
            Ok(executor) if train.is_empty() => executor.times(&self.key.graph),
            _ => train,
        }
    }

    /// Bytes of the values, and in training of their gradients, that the planned steps of one image read and write, each counted once a
    /// step and in f32, weights aside.
    ///
    /// # Errors
    /// [`Mode::Train`] in a session made without it.
    pub fn traffic(&self, mode: Mode) -> Result<f64> {
        let plan = match (mode, &self.infer) {
            (Mode::Train, _) => &self.train.as_ref().ok_or_else(without_training)?.plan,
            (Mode::Eval, Ok(executor)) => &executor.plan,
            (Mode::Eval, Err(plan)) => plan.as_ref().expect("taken only to become an executor"),
        };
        Ok(clock::bytes(plan))
    }

    /// Largest batch.
    pub fn max_batch(&self) -> usize {
        self.key.max_batch
    }

    /// Names and places of the trainable parameters in the flat buffers.
    pub fn spans(&self) -> Vec<ParameterSpan> {
        let all = self.key.graph.params().iter().zip(&self.params.places);
        all.filter(|(spec, _)| spec.kind == ParamKind::Trainable)
            .map(|(spec, place)| ParameterSpan { name: spec.name.clone(), range: place.range.clone() })
            .collect()
    }

    /// All parameters and running statistics in PyTorch's names and layout.
    ///
    /// # Errors
    /// candle cannot make a tensor.
    pub fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        self.weights.dict(&self.key.graph, &self.params)
    }

    /// Gradients in PyTorch's names and layout.
    ///
    /// # Errors
    /// candle cannot make a tensor.
    pub fn gradient_dict(&self) -> Result<Vec<(String, Tensor)>> {
        self.unpack(&self.weights.gradients)
    }

    /// Flat values in the order of [`Session::gradients`], an optimizer's momentum for example, in PyTorch's names and
    /// layout.
    ///
    /// # Errors
    /// There are not as many values as the parameters take.
    pub fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        weights::unpack(&self.key.graph, &self.params, flat)
    }

    /// The inverse of [`Session::unpack`]; tensors of other names are not looked at.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        weights::pack(&self.key.graph, &self.params, dict)
    }

    /// Loads parameters and running statistics by PyTorch's names; `*.num_batches_tracked` may be present.
    ///
    /// # Errors
    /// A tensor is missing, unknown, or of another shape; the weights are unchanged then.
    pub fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        self.weights.load(&self.key.graph, &self.params, dict)
    }

    /// Shape of one sample's input.
    pub fn input_shape(&self) -> Shape {
        self.key.graph.input_shape()
    }
}
