//! What a run computes on.

use super::{EngineNetwork, Gpu, GpuNetwork, Network};
use crate::Result;
use dkd_engine::{Graph, SessionOptions};
use dkd_kernels::Cpu;
use std::sync::Arc;

/// Threads, and the device that networks run on if it is not the CPU.
///
/// Batches are made, and losses computed, on the CPU: so every method works with every device.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Threads and instruction set.
    pub cpu: Arc<Cpu>,
    /// A GPU.
    pub gpu: Option<Gpu>,
}

impl Compute {
    /// A network of the engine with initial weights from `seed`.
    ///
    /// # Errors
    /// The engine cannot run the graph; the device's memory does not suffice.
    pub fn network(&self, graph: Graph, options: SessionOptions, seed: u64) -> Result<Box<dyn Network>> {
        Ok(match &self.gpu {
            Some(gpu) => Box::new(GpuNetwork::new(graph, gpu, options, seed)?),
            None => Box::new(EngineNetwork::new(graph, &self.cpu, options, seed)?),
        })
    }
}

impl From<Arc<Cpu>> for Compute {
    fn from(cpu: Arc<Cpu>) -> Self {
        Self { cpu, gpu: None }
    }
}
