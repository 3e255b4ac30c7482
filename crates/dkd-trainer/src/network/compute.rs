//! What a run computes on.

use super::Gpu;
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

impl From<Arc<Cpu>> for Compute {
    fn from(cpu: Arc<Cpu>) -> Self {
        Self { cpu, gpu: None }
    }
}
