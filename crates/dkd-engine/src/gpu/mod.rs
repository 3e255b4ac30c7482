//! A network on a device: see [`GpuSession`].

mod backward;
mod boundary;
mod convolve;
mod executor;
mod forward;
mod freeze;
mod fuse;
mod gradients;
mod places;
mod slots;
#[cfg(test)]
mod tests;
mod values;
mod weights;

use crate::graph::{Graph, Op, ParamKind};
use crate::layout::layouts;
use crate::params::ParamTable;
use crate::plan::{Gathers, Plan, Purpose};
use crate::{DropoutKey, Error, Mode, ParameterSpan, Result, SessionOptions, state};
use boundary::Boundaries;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
pub use dkd_kernels::gpu::convolution::Arithmetic;
use dkd_kernels::gpu::{Element, TensorMachine, View, pointwise};
use executor::Executor;
use places::Places;
use std::collections::HashMap;
use std::sync::Arc;
use weights::Weights;

/// The device's twin of [`crate::Session`]: the same graph, plan and results up to rounding, on any [`TensorMachine`].
///
/// There are three ways to train. With any loss that candle differentiates: [`GpuSession::forward`], the loss on
/// [`GpuSession::logits`] and [`GpuSession::tap`], [`GpuSession::backward`]. With kernels alone, which can be recorded and
/// replayed: images into [`GpuSession::input`], [`GpuSession::run`], something that writes [`GpuSession::logits_gradient`],
/// [`GpuSession::run_backward`], and something that changes [`GpuSession::values`]. With a loss of candle's between two recorded parts:
/// [`GpuSession::run`] in the first; [`GpuSession::publish`], the loss, [`GpuSession::take_gradients`];
/// [`GpuSession::run_backward_with_taps`] in the second.
#[derive(Debug)]
pub struct GpuSession {
    machine: Arc<dyn TensorMachine>,
    graph: Graph,
    options: SessionOptions,
    arithmetic: Arithmetic,
    gathers: Gathers,
    /// Where [`GpuSession::forward`] publishes.
    losses: Device,
    places: Places,
    weights: Weights,
    boundaries: Boundaries,
    train: Option<Executor>,
    /// Made when the first batch is evaluated.
    infer: Option<Executor>,
    /// Seed, epoch, step: what dropout masks depend on.
    key: View,
    /// Images of the largest batch before they are bf16, once there were any.
    floats: Option<View>,
    /// Images of the last training batch, if a backward pass may follow.
    batch: Option<usize>,
}

impl GpuSession {
    /// Plans `graph` and allocates its weights, which are zero until [`GpuSession::init`] or [`GpuSession::load_state_dict`].
    /// [`GpuSession::forward`] hands out logits and taps on the device `losses`: the machine's own, or the CPU.
    ///
    /// # Errors
    /// An unknown tap; a layer that this engine cannot run; a batch size of 0; the device's memory does not suffice.
    pub fn new(
        graph: Graph,
        machine: Arc<dyn TensorMachine>,
        options: SessionOptions,
        arithmetic: Arithmetic,
        losses: &Device,
    ) -> Result<Self> {
        Self::with_gathers(graph, machine, options, arithmetic, losses, Gathers::Folded)
    }

    fn with_gathers(
        graph: Graph,
        machine: Arc<dyn TensorMachine>,
        options: SessionOptions,
        arithmetic: Arithmetic,
        losses: &Device,
        gathers: Gathers,
    ) -> Result<Self> {
        if options.max_batch == 0 {
            return Err(Error::State("the batch size must be at least 1".to_owned()));
        }
        let layouts = layouts(&graph)?;
        let places = Places::new(&graph, &layouts);
        let weights = Weights::new(&*machine, &places, arithmetic.element())?;
        let taps = options.taps.iter().map(|name| graph.tap(name)).collect::<Result<Vec<_>>>()?;
        let seen: Vec<_> = taps.iter().map(|tap| (*tap, layouts[tap.value.index()])).collect();
        let logits = (graph.num_classes(), layouts[graph.output().index()]);
        let (max, element) = (options.max_batch, arithmetic.element());
        let boundaries = Boundaries::new(&*machine, (logits, &seen), max, element, options.train)?;
        let key = machine.zeros(Element::U64, 3)?;
        let mut session = Self {
            losses: losses.clone(),
            places,
            weights,
            boundaries,
            train: None,
            infer: None,
            key,
            floats: None,
            batch: None,
            machine,
            graph,
            options,
            arithmetic,
            gathers,
        };
        if session.options.train {
            session.train = Some(session.executor(Purpose::Train)?);
        }
        Ok(session)
    }

    fn executor(&self, purpose: Purpose) -> Result<Executor> {
        let layouts = layouts(&self.graph)?;
        let params = ParamTable::new(&self.graph, &layouts);
        let taps = self.options.taps.iter().map(|name| self.graph.tap(name)).collect::<Result<Vec<_>>>()?;
        let plan = Plan::new(&self.graph, &layouts, &params, &taps, purpose, self.gathers)?;
        Executor::new(&*self.machine, plan, self.options.max_batch, self.arithmetic)
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What it runs on.
    pub fn machine(&self) -> &Arc<dyn TensorMachine> {
        &self.machine
    }

    /// Fills the parameters with the initial values that their layers ask for, the same as on the CPU, and resets the running
    /// statistics.
    ///
    /// # Errors
    /// The device's.
    pub fn init(&mut self, seed: u64) -> Result<()> {
        self.weights.set(&*self.machine, &self.graph, &self.places, |_, spec| spec.initial_values(seed))
    }

    /// Runs a batch.
    ///
    /// `images` is `[n, c, h, w]` in f32 with any strides, on the CPU or the machine's device, n at most [`SessionOptions::max_batch`].
    ///
    /// # Errors
    /// Another shape or type; [`Mode::Train`] in a session made without it.
    pub fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()> {
        let dims = images.dims();
        let image = self.graph.input_shape().dims();
        if dims.len() != 4 || dims[1..] != image[..] || dims[0] == 0 || dims[0] > self.options.max_batch {
            return Err(Error::Tensor {
                what: "images".to_owned(),
                expected: format!(
                    "[1 to {}, {}, {}, {}]",
                    self.options.max_batch, image[0], image[1], image[2]
                ),
                got: format!("{dims:?}"),
            });
        }
        let n = dims[0];
        self.prepare(mode, n)?;
        let nhwc = images.permute((0, 2, 3, 1))?.contiguous()?;
        let input = self.input(mode, n)?;
        if input.element() == Element::F32 {
            self.machine.read_tensor(&nhwc, &input)?;
        } else {
            // Kept: memory is too slow to come by for every batch.
            let floats = match &self.floats {
                Some(floats) => floats.clone(),
                None => {
                    let most = input.len() / n * self.options.max_batch;
                    self.floats.insert(self.machine.zeros(Element::F32, most)?).clone()
                }
            };
            let floats = floats.first(input.len())?;
            self.machine.read_tensor(&nhwc, &floats)?;
            pointwise::convert(&*self.machine, &floats, &input, false)?;
        }
        self.set_key(key)?;
        self.run(mode, n)?;
        self.publish(mode, n, &self.losses.clone())
    }

    /// Copies what [`GpuSession::run`] has left for `n` images to [`GpuSession::logits`] and [`GpuSession::tap`], on `device`: the
    /// machine's own, where nobody waits for it, or the CPU. Cannot be recorded.
    ///
    /// # Errors
    /// The session cannot run this way; another device; the device's.
    pub fn publish(&mut self, mode: Mode, n: usize, device: &Device) -> Result<()> {
        let executor = Self::of(mode, &self.train, &self.infer)?;
        self.boundaries.publish(&*self.machine, (n, device), |all, k| all.value(k, &executor.boundary(k, n)?))
    }

    /// Makes everything that running a batch of `n` images needs; only after that can the run be recorded.
    ///
    /// # Errors
    /// [`Mode::Train`] in a session made without it; the device's memory does not suffice.
    pub fn prepare(&mut self, mode: Mode, n: usize) -> Result<()> {
        if mode == Mode::Eval && self.infer.is_none() {
            self.infer = Some(self.executor(Purpose::Infer)?);
        }
        let executor = match mode {
            Mode::Train => &mut self.train,
            Mode::Eval => &mut self.infer,
        };
        executor.as_mut().ok_or_else(|| missing(mode))?.prepare(&*self.machine, n)?;
        self.weights.refresh(&*self.machine)
    }

    /// Sets what dropout masks depend on, if there are any.
    ///
    /// # Errors
    /// The device's.
    pub fn set_key(&mut self, key: DropoutKey) -> Result<()> {
        if !self.graph.nodes().iter().any(|node| matches!(node.op, Op::Dropout(_))) {
            return Ok(());
        }
        let words = [key.seed, u64::from(key.epoch), key.step];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Ok(self.machine.write(&self.key, &bytes)?)
    }

    /// Where [`GpuSession::run`] finds a batch of `n` images: `[n, h, w, c]`, f32 or bf16.
    ///
    /// # Errors
    /// The session cannot run this way.
    pub fn input(&self, mode: Mode, n: usize) -> Result<View> {
        Self::of(mode, &self.train, &self.infer)?.input(n)
    }

    /// Runs the `n` images of [`GpuSession::input`]; may be recorded after [`GpuSession::prepare`].
    ///
    /// # Errors
    /// The device's.
    pub fn run(&mut self, mode: Mode, n: usize) -> Result<()> {
        self.batch = None;
        self.weights.frozen &= mode == Mode::Eval;
        self.weights.refresh(&*self.machine)?;
        let executor = Self::of(mode, &self.train, &self.infer)?;
        executor.forward(&*self.machine, &self.places, &self.weights, &self.key, n)?;
        for k in 0..self.boundaries.len() {
            self.boundaries.convert(&*self.machine, k, &executor.boundary(k, n)?)?;
        }
        self.batch = (mode == Mode::Train).then_some(n);
        Ok(())
    }

    /// The logits of the last `n` images, `[n, classes]` in f32, as [`GpuSession::run`] leaves them.
    ///
    /// # Errors
    /// The session cannot run this way.
    pub fn logits_view(&self, mode: Mode, n: usize) -> Result<View> {
        self.boundaries.value(0, &Self::of(mode, &self.train, &self.infer)?.boundary(0, n)?)
    }

    /// Where [`GpuSession::run_backward`] finds the gradient of the logits, `[n, classes]` in f32; those of taps are taken as 0.
    ///
    /// # Errors
    /// The session was made without training.
    pub fn logits_gradient(&self, n: usize) -> Result<View> {
        self.boundaries.gradient(0, n)
    }

    /// Computes the gradients of all parameters from [`GpuSession::logits_gradient`]; may be recorded.
    ///
    /// # Errors
    /// The last run was none in [`Mode::Train`].
    pub fn run_backward(&mut self) -> Result<()> {
        let n = self.batch.ok_or_else(no_batch)?;
        for k in 1..self.boundaries.len() {
            self.machine.clear(&self.boundaries.gradient(k, n)?)?;
        }
        self.run_backward_with_taps()
    }

    /// Computes the gradients of all parameters from those of logits and taps that [`GpuSession::take_gradients`] leaves; may be
    /// recorded.
    ///
    /// # Errors
    /// The last run was none in [`Mode::Train`].
    pub fn run_backward_with_taps(&mut self) -> Result<()> {
        let (Some(n), Some(executor)) = (self.batch, &self.train) else { return Err(no_batch()) };
        executor.backward(&*self.machine, &self.places, &self.weights, &self.boundaries, &self.key, n)
    }

    /// The logits `[n, classes]` of the last batch: a leaf variable, overwritten by the next batch of the same size.
    ///
    /// # Errors
    /// No batch has gone through [`GpuSession::forward`] or [`GpuSession::publish`].
    pub fn logits(&self) -> Result<Tensor> {
        self.boundaries.logits()
    }

    /// A tap of the last batch, `[n, c, h, w]` or `[n, features]`: made from a leaf variable, overwritten by the next batch of the
    /// same size.
    ///
    /// # Errors
    /// No batch has gone through [`GpuSession::forward`] or [`GpuSession::publish`]; the tap was not among [`SessionOptions::taps`].
    pub fn tap(&self, name: &str) -> Result<Tensor> {
        self.boundaries.tap(name)
    }

    /// Computes the gradients of all parameters from those of the logits and taps in `store`, overwriting earlier ones.
    ///
    /// # Errors
    /// The last forward pass was not in [`Mode::Train`]; `store` has no gradient of the last batch's logits or taps.
    pub fn backward(&mut self, store: &GradStore) -> Result<()> {
        self.batch.ok_or_else(no_batch)?;
        self.take_gradients(store)?;
        self.run_backward_with_taps()
    }

    /// Copies the gradients of the logits and taps that were published last to where [`GpuSession::run_backward_with_taps`] finds them; one
    /// that is not in `store` is 0. Cannot be recorded.
    ///
    /// # Errors
    /// `store` has none of them; the session was made without training.
    pub fn take_gradients(&mut self, store: &GradStore) -> Result<()> {
        self.boundaries.take_gradients(&*self.machine, store)
    }

    /// The parameter `name` in PyTorch's layout, on the CPU.
    ///
    /// # Errors
    /// There is none of this name; the device's.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        let index = state::trainable(&self.graph, name)?;
        let (spec, place) = (&self.graph.params()[index], &self.places.all[index]);
        let own = self.machine.read_floats(&self.weights.value(&self.places, index)?)?;
        Ok(Tensor::from_vec(place.unpack_own(&own), &spec.shape[..], &Device::Cpu)?)
    }

    /// A copy of [`GpuSession::values`].
    ///
    /// # Errors
    /// The device's.
    pub fn read_values(&self) -> Result<Vec<f32>> {
        Ok(self.machine.read_floats(&self.weights.values)?)
    }

    /// Overwrites [`GpuSession::values`].
    ///
    /// # Errors
    /// Another number of values; the device's.
    pub fn write_values(&mut self, values: &[f32]) -> Result<()> {
        self.weights.changed();
        Ok(self.machine.write_floats(&self.weights.values, values)?)
    }

    /// A copy of [`GpuSession::gradients`].
    ///
    /// # Errors
    /// The device's.
    pub fn read_gradients(&self) -> Result<Vec<f32>> {
        Ok(self.machine.read_floats(&self.weights.gradients)?)
    }

    /// A copy of [`GpuSession::running`].
    ///
    /// # Errors
    /// The device's.
    pub fn read_running(&self) -> Result<Vec<f32>> {
        Ok(self.machine.read_floats(&self.weights.running)?)
    }

    /// Puts back what [`GpuSession::read_running`] gave.
    ///
    /// # Errors
    /// Another number of values; the device's.
    pub fn write_running(&mut self, values: &[f32]) -> Result<()> {
        self.weights.frozen = false;
        Ok(self.machine.write_floats(&self.weights.running, values)?)
    }

    /// Adds `tensor`, in PyTorch's layout, to the place of the parameter `name` in `flat`, which is in the order of the values.
    ///
    /// # Errors
    /// There is none of this name; another shape; `flat` is of another length.
    pub fn add(&self, name: &str, tensor: &Tensor, flat: &mut [f32]) -> Result<()> {
        let index = state::trainable(&self.graph, name)?;
        let spec = &self.graph.params()[index];
        if tensor.dims() != spec.shape.as_slice() || flat.len() != self.places.values {
            return Err(Error::Tensor {
                what: format!("gradient of `{name}`"),
                expected: format!("shape {:?} among {} values", spec.shape, self.places.values),
                got: format!("{:?} among {}", tensor.dims(), flat.len()),
            });
        }
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        self.places.all[index].add(&values, flat);
        Ok(())
    }

    /// Largest batch.
    pub fn max_batch(&self) -> usize {
        self.options.max_batch
    }

    /// All trainable parameters in f32, flat.
    pub fn values(&self) -> &View {
        &self.weights.values
    }

    /// Their gradients, in the same order.
    pub fn gradients(&self) -> &View {
        &self.weights.gradients
    }

    /// Their copy in bf16, in the same order, if convolutions read one. Whoever changes the values recordably writes this as well.
    pub fn halves(&self) -> Option<&View> {
        self.weights.halves.as_ref()
    }

    /// Says that the values have changed and [`GpuSession::halves`] has not.
    pub fn changed(&mut self) {
        self.weights.changed();
    }

    /// Running means and variances, flat.
    pub fn running(&self) -> &View {
        &self.weights.running
    }

    /// Names and places of the trainable parameters in the flat buffers.
    pub fn spans(&self) -> Vec<ParameterSpan> {
        let all = self.graph.params().iter().zip(&self.places.all);
        all.filter(|(spec, _)| spec.kind == ParamKind::Trainable)
            .map(|(spec, place)| ParameterSpan { name: spec.name.clone(), range: place.range.clone() })
            .collect()
    }

    /// All parameters and running statistics in PyTorch's names and layout, on the CPU.
    ///
    /// # Errors
    /// The device's.
    pub fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        self.weights.dict(&*self.machine, &self.graph, &self.places)
    }

    /// Gradients in PyTorch's names and layout, on the CPU.
    ///
    /// # Errors
    /// The device's.
    pub fn gradient_dict(&self) -> Result<Vec<(String, Tensor)>> {
        self.unpack(&self.machine.read_floats(&self.weights.gradients)?)
    }

    /// Flat values in the order of [`GpuSession::gradients`] in PyTorch's names and layout.
    ///
    /// # Errors
    /// There are not as many values as the parameters take.
    pub fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        weights::unpack(&self.graph, &self.places, flat)
    }

    /// The inverse of [`GpuSession::unpack`]; tensors of other names are not looked at.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        weights::pack(&self.graph, &self.places, dict)
    }

    /// Loads parameters and running statistics by PyTorch's names; `*.num_batches_tracked` may be present.
    ///
    /// # Errors
    /// A tensor is missing, unknown, or of another shape; the weights are unchanged then.
    pub fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        self.weights.load(&*self.machine, &self.graph, &self.places, dict)
    }

    fn of<'a>(mode: Mode, train: &'a Option<Executor>, infer: &'a Option<Executor>) -> Result<&'a Executor> {
        let executor = if mode == Mode::Train { train } else { infer };
        executor.as_ref().ok_or_else(|| missing(mode))
    }
}

/// There is no plan for this.
fn missing(mode: Mode) -> Error {
    let message = match mode {
        Mode::Train => "this session was made without training (SessionOptions::train)",
        Mode::Eval => "an evaluation needs GpuSession::prepare before it",
    };
    Error::State(message.to_owned())
}

fn no_batch() -> Error {
    Error::State("a backward pass needs a forward pass in training mode before it".to_owned())
}
