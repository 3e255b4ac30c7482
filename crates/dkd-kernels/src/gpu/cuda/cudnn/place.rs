//! What convolutions on one stream need: a handle and a workspace.

use super::plan::{Plan, is_refusal};
use crate::gpu::convolution::Convolution;
use crate::gpu::cuda::errors::Called;
use crate::gpu::cuda::heap::{Block, Heap};
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::sys as driver;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Name of the call that computes.
pub(super) const EXECUTE: &str = "cudnnBackendExecute";

/// So often a plan is run when it is measured, and so many times.
const RUNS: u32 = 20;
const ROUNDS: usize = 3;

/// A handle on a stream.
#[derive(Debug)]
pub(super) struct Place {
    pub handle: sys::cudnnHandle_t,
    /// One for all: they follow each other.
    pub workspace: Option<Arc<Block>>,
    /// Engines that have computed something with this handle.
    warm: HashSet<i64>,
}

// SAFETY: cuDNN takes a handle from any thread, if from one at a time: whoever has the place has a lock.
unsafe impl Send for Place {}

/// Operands of zeros, to try a plan with.
pub(super) struct Zeros {
    addresses: [u64; 3],
    /// Freed after the work that uses them.
    _blocks: [Block; 3],
}

impl Zeros {
    /// For a convolution, if there is memory for them.
    pub fn new(heap: &Arc<Heap>, convolution: &Convolution) -> Result<Option<Self>> {
        let size = convolution.arithmetic.element().bytes();
        let block = |len: usize| match heap.zeros(len * size) {
            Err(GpuError::OutOfMemory { .. }) => Ok(None),
            block => block.map(Some),
        };
        let [x, w, y] = convolution.lengths();
        let (Some(x), Some(w), Some(y)) = (block(x)?, block(w)?, block(y)?) else { return Ok(None) };
        Ok(Some(Self { addresses: [x.address, w.address, y.address], _blocks: [x, w, y] }))
    }
}

impl Place {
    /// On a stream of a heap that is alive for as long as the place.
    pub fn new(stream: driver::CUstream) -> Result<Self> {
        let handle = result::create_handle().called("cudnnCreate")?;
        let place = Self { handle, workspace: None, warm: HashSet::new() };
        place.set_stream(stream)?;
        Ok(place)
    }

    pub fn set_stream(&self, stream: driver::CUstream) -> Result<()> {
        // SAFETY: handle and stream are alive.
        unsafe { result::set_stream(self.handle, stream.cast()) }.called("cudnnSetStream")
    }

    /// Bytes of the workspace.
    pub fn bytes(&self) -> usize {
        self.workspace.as_ref().map_or(0, |w| w.bytes)
    }

    /// The workspace, made larger if it is smaller than that.
    pub fn reserve(&mut self, heap: &Arc<Heap>, bytes: usize) -> Result<u64> {
        if bytes > self.bytes() {
            heap.not_recording("prepare")?;
            // The old one lives on in what was recorded with it.
            self.workspace = None;
            self.workspace = Some(Arc::new(heap.zeros(bytes)?));
        }
        Ok(self.workspace.as_ref().map_or(0, |w| w.address))
    }

    /// Whether an engine has to be tried before it may be recorded.
    pub fn is_cold(&self, plan: &Plan) -> bool {
        !self.warm.contains(&plan.engine)
    }

    /// Computes once: what cuDNN loads on first use is then there. If it may not be used, why.
    pub fn try_out(
        &mut self,
        heap: &Arc<Heap>,
        plan: &Plan,
        operands: Option<&Zeros>,
    ) -> Result<Option<String>> {
        let workspace = self.reserve(heap, plan.workspace)?;
        let Some(operands) = operands else { return Ok(None) };
        // SAFETY: the operands are as large as the convolution says, the workspace as the plan does.
        match unsafe { plan.run(self.handle, operands.addresses, workspace) }? {
            Err(e) if is_refusal(e.status) => Ok(Some(format!("{}: {}", plan.name, e.text()))),
            done => {
                done.map_err(|e| e.error(EXECUTE))?;
                self.warm.insert(plan.engine);
                Ok(None)
            }
        }
    }

    /// Seconds that a plan takes which was tried out: the best of some rounds.
    pub fn measure(&mut self, heap: &Arc<Heap>, plan: &Plan, operands: &Zeros) -> Result<f64> {
        let workspace = self.reserve(heap, plan.workspace)?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            heap.stream.synchronize().called("cuStreamSynchronize")?;
            let begin = Instant::now();
            for _ in 0..RUNS {
                // SAFETY: as above.
                unsafe { plan.run(self.handle, operands.addresses, workspace) }?
                    .map_err(|e| e.error(EXECUTE))?;
            }
            heap.stream.synchronize().called("cuStreamSynchronize")?;
            best = best.min(begin.elapsed().as_secs_f64() / f64::from(RUNS));
        }
        Ok(best)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle, and who drops it has bound the context.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
