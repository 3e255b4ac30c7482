//! What a run computes on.

use super::{EngineNetwork, Gpu, GpuNetwork, Network};
use crate::Result;
use dkd_engine::{Graph, Precision, SessionOptions};
use dkd_kernels::Cpu;
use std::sync::Arc;

/// Threads, and the device that networks run on if it is not the CPU.
///
/// Batches are made, and losses computed, on the CPU where that cannot be done on the device: so every method works with every device.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Threads and instruction set.
    pub cpu: Arc<Cpu>,
    /// A GPU.
    pub gpu: Option<Gpu>,
    /// In what networks on the CPU keep their maps.
    pub precision: Precision,
}

impl Compute {
    /// Options of a network for batches of at most `max_batch` images, whose `taps` losses read.
    pub fn options(&self, max_batch: usize, train: bool, taps: Vec<String>) -> SessionOptions {
        SessionOptions { max_batch, train, taps, precision: self.precision }
    }

    /// What networks run on, in words, if it is not the CPU in f32.
    pub fn device(&self) -> Option<String> {
        match (&self.gpu, self.precision) {
            (Some(gpu), _) => Some(gpu.to_string()),
            (None, Precision::F32) => None,
            (None, Precision::Bf16) => Some("CPU, maps in bf16".to_owned()),
        }
    }

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
        Self { cpu, gpu: None, precision: Precision::F32 }
    }
}
