//! A network of this workspace's engine.

use super::{Network, Opened};
use crate::{Result, memory};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use dkd_engine::{DropoutKey, Graph, Mode, ParameterSpan, Session, SessionOptions, SharedMemory};
use dkd_kernels::Cpu;
use std::collections::HashMap;
use std::sync::Arc;

/// Wraps a [`Session`].
#[derive(Debug)]
pub struct EngineNetwork(Session);

impl EngineNetwork {
    /// A session for `graph` with initial weights from `seed`.
    ///
    /// # Errors
    /// The engine cannot run the graph.
    pub fn new(graph: Graph, cpu: &Arc<Cpu>, options: SessionOptions, seed: u64) -> Result<Self> {
        Self::sharing(graph, cpu, options, seed, &SharedMemory::default())
    }

    /// The same, computing in memory that it shares with the other networks made so: see [`SharedMemory`].
    ///
    /// # Errors
    /// As [`EngineNetwork::new`].
    pub fn sharing(
        graph: Graph,
        cpu: &Arc<Cpu>,
        options: SessionOptions,
        seed: u64,
        memory: &SharedMemory,
    ) -> Result<Self> {
        let mut session = Session::sharing(graph, Arc::clone(cpu), options, memory)?;
        session.init(seed);
        Ok(Self(session))
    }

    /// The engine's session.
    pub fn session(&mut self) -> &mut Session {
        &mut self.0
    }
}

impl Network for EngineNetwork {
    fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()> {
        Ok(self.0.forward(images, mode, key)?)
    }

    fn logits(&self) -> Result<Tensor> {
        Ok(self.0.logits()?)
    }

    fn tap(&self, name: &str) -> Result<Tensor> {
        Ok(self.0.tap(name)?)
    }

    fn backward(&mut self, store: &GradStore) -> Result<()> {
        Ok(self.0.backward(store)?)
    }

    fn gradients(&self) -> &[f32] {
        self.0.gradients()
    }

    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) {
        self.0.update(f);
    }

    fn spans(&self) -> Vec<ParameterSpan> {
        self.0.spans()
    }

    fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.0.state_dict()?)
    }

    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        Ok(self.0.load_state_dict(dict)?)
    }

    fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        Ok(self.0.unpack(flat)?)
    }

    fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        Ok(self.0.pack(dict)?)
    }

    fn running(&self) -> Result<Vec<f32>> {
        Ok(self.0.running().to_vec())
    }

    fn set_running(&mut self, values: &[f32]) -> Result<()> {
        Ok(self.0.set_running(values)?)
    }

    fn open(&self) -> Result<Option<Opened>> {
        let graph = self.0.graph().with_all_taps();
        let layers: Vec<String> =
            graph.taps().iter().take(graph.nodes().len()).map(|t| t.name.clone()).collect();
        let taps = graph.taps().iter().map(|t| t.name.clone()).collect();
        let options = SessionOptions { max_batch: self.0.max_batch(), train: true, taps };
        let bytes = Session::estimate_bytes(&graph, self.0.cpu().threads(), &options)?.total();
        if memory::available(self.0.cpu().threads()).is_some_and(|free| bytes as u64 > free) {
            return Ok(None);
        }
        let mut session = Session::new(graph, Arc::clone(self.0.cpu()), options)?;
        session.load_state_dict(&self.0.state_dict()?.into_iter().collect())?;
        Ok(Some(Opened { network: Box::new(Self(session)), layers }))
    }

    fn num_parameters(&self) -> usize {
        self.0.graph().num_parameters()
    }
}
