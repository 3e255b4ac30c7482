//! A network of this workspace's engine.

use super::{Network, Opened};
use crate::{Result, memory};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use dkd_engine::{DropoutKey, Graph, Mode, ParameterSpan, Precision, Session, SessionOptions, SharedMemory};
use dkd_kernels::Cpu;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Wraps a [`Session`].
#[derive(Debug)]
pub struct EngineNetwork {
    session: Session,
    /// Parameters that the loss of the last batch reads.
    leaves: Vec<(String, Var)>,
}

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
        Ok(Self { session, leaves: Vec::new() })
    }

    /// The engine's session.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Network for EngineNetwork {
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
            self.leaves.push((name.clone(), Var::from_tensor(&self.session.parameter(name)?)?));
        }
        Ok(self.leaves.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect())
    }

    fn backward(&mut self, store: &GradStore) -> Result<()> {
        self.session.backward(store)?;
        for (name, var) in &self.leaves {
            if let Some(gradient) = store.get(var.as_tensor()) {
                self.session.add_gradient(name, gradient)?;
            }
        }
        Ok(())
    }

    fn gradients(&self) -> &[f32] {
        self.session.gradients()
    }

    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) -> Result<()> {
        self.session.update(f);
        Ok(())
    }

    fn spans(&self) -> Vec<ParameterSpan> {
        self.session.spans()
    }

    fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.session.state_dict()?)
    }

    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        Ok(self.session.load_state_dict(dict)?)
    }

    fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        Ok(self.session.unpack(flat)?)
    }

    fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        Ok(self.session.pack(dict)?)
    }

    fn running(&self) -> Result<Vec<f32>> {
        Ok(self.session.running().to_vec())
    }

    fn set_running(&mut self, values: &[f32]) -> Result<()> {
        Ok(self.session.set_running(values)?)
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
        let bytes = Session::estimate_bytes(&graph, self.session.cpu().threads(), &options)?.total();
        if memory::available(self.session.cpu().threads()).is_some_and(|free| bytes as u64 > free) {
            return Ok(None);
        }
        let mut session = Session::new(graph, Arc::clone(self.session.cpu()), options)?;
        session.load_state_dict(&self.session.state_dict()?.into_iter().collect())?;
        Ok(Some(Opened { network: Box::new(Self { session, leaves: Vec::new() }), layers }))
    }

    fn num_parameters(&self) -> usize {
        self.session.graph().num_parameters()
    }
}
