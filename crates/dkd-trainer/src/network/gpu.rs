//! A network of this workspace's engine on a GPU.

use super::{Network, Opened};
use crate::Result;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use dkd_engine::gpu::{Arithmetic, GpuSession};
use dkd_engine::{DropoutKey, Graph, Mode, ParameterSpan, Precision, SessionOptions};
use dkd_kernels::gpu::TensorMachine;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// A device, and how networks compute on it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The device.
    pub machine: Arc<dyn TensorMachine>,
    /// Numbers of maps and weights, and their products.
    pub arithmetic: Arithmetic,
    /// Whether steps are recorded and replayed, as far as they can.
    pub recorded: bool,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arithmetic = match self.arithmetic {
            Arithmetic::F32 => "f32",
            Arithmetic::Tf32 => "tf32",
            Arithmetic::Bf16 => "bf16",
        };
        write!(f, "{}, {arithmetic}", self.machine.name())
    }
}

/// Wraps a [`GpuSession`]; weights and gradients have a copy on the host, where optimizers work.
#[derive(Debug)]
pub struct GpuNetwork {
    session: GpuSession,
    gpu: Gpu,
    values: Vec<f32>,
    gradients: Vec<f32>,
    /// Parameters that the loss of the last batch reads.
    leaves: Vec<(String, Var)>,
}

impl GpuNetwork {
    /// A session for `graph` with initial weights from `seed`, the same as on the CPU.
    ///
    /// # Errors
    /// The engine cannot run the graph; the device's memory does not suffice.
    pub fn new(graph: Graph, gpu: &Gpu, options: SessionOptions, seed: u64) -> Result<Self> {
        let machine = Arc::clone(&gpu.machine);
        let mut session = GpuSession::new(graph, machine, options, gpu.arithmetic, &Device::Cpu)?;
        session.init(seed)?;
        let values = session.read_values()?;
        Ok(Self { gradients: vec![0.0; values.len()], values, session, gpu: gpu.clone(), leaves: Vec::new() })
    }

    /// The engine's session. Its weights may be changed as long as [`Network::update`] is not called afterwards.
    pub fn session(&mut self) -> &mut GpuSession {
        &mut self.session
    }

    /// Adds the gradients of what [`Network::leaves`] has handed out last to `flat`, which is in the order of the weights.
    ///
    /// # Errors
    /// `flat` is of another length.
    pub(crate) fn add_leaves(&self, store: &GradStore, flat: &mut [f32]) -> Result<()> {
        for (name, var) in &self.leaves {
            if let Some(gradient) = store.get(var.as_tensor()) {
                self.session.add(name, gradient, flat)?;
            }
        }
        Ok(())
    }
}

impl Network for GpuNetwork {
    fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()> {
        self.leaves.clear();
        Ok(self.session.forward(images, mode, key)?)
    }

    fn logits(&self) -> Result<Tensor> {
        Ok(self.session.logits()?)
    }

    fn tap(&self, name: &str) -> Result<Tensor> {
        Ok(self.session.tap(name)?)
    }

    fn leaves(&mut self, names: &[String]) -> Result<BTreeMap<String, Tensor>> {
        self.leaves.clear();
        for name in names {
            // The copy on the host may be older: a step that stays on the device does not change it.
            self.leaves.push((name.clone(), Var::from_tensor(&self.session.parameter(name)?)?));
        }
        Ok(self.leaves.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect())
    }

    fn backward(&mut self, store: &GradStore) -> Result<()> {
        self.session.backward(store)?;
        let mut gradients = self.session.read_gradients()?;
        self.add_leaves(store, &mut gradients)?;
        self.gradients = gradients;
        Ok(())
    }

    fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) -> Result<()> {
        f(&mut self.values, &self.gradients);
        Ok(self.session.write_values(&self.values)?)
    }

    fn spans(&self) -> Vec<ParameterSpan> {
        self.session.spans()
    }

    fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.session.state_dict()?)
    }

    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        self.session.load_state_dict(dict)?;
        self.values = self.session.read_values()?;
        Ok(())
    }

    fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        Ok(self.session.unpack(flat)?)
    }

    fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        Ok(self.session.pack(dict)?)
    }

    fn running(&self) -> Result<Vec<f32>> {
        Ok(self.session.read_running()?)
    }

    fn set_running(&mut self, values: &[f32]) -> Result<()> {
        Ok(self.session.write_running(values)?)
    }

    fn open(&self) -> Result<Option<Opened>> {
        let graph = self.session.graph().with_all_taps();
        let layers: Vec<String> =
            graph.taps().iter().take(graph.nodes().len()).map(|t| t.name.clone()).collect();
        let taps = graph.taps().iter().map(|t| t.name.clone()).collect();
        let options = SessionOptions {
            max_batch: self.session.max_batch(),
            train: true,
            taps,
            precision: Precision::F32,
        };
        let mut network = Self::new(graph, &self.gpu, options, 0)?;
        network.load_state_dict(&self.state_dict()?.into_iter().collect())?;
        Ok(Some(Opened { network: Box::new(network), layers }))
    }

    fn on_gpu(&mut self) -> Option<&mut Self> {
        Some(self)
    }

    fn num_parameters(&self) -> usize {
        self.session.graph().num_parameters()
    }
}
