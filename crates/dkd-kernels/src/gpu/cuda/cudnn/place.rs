//! What convolutions on one stream need: a handle and a workspace.

use super::plan::{By, Objection, Plan, is_refusal};
use super::wanted::Wanted;
use crate::gpu::cuda::errors::Called;
use crate::gpu::cuda::heap::{Block, Heap};
use crate::gpu::cuda::record::Capture;
use crate::gpu::error::{GpuError, Result};
use crate::gpu::machine::Recorded;
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::sys as driver;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Name of the call that computes.
pub(super) const EXECUTE: &str = "cudnnBackendExecute";

/// So often a plan is run in the row that is measured, and so often the row is.
const RUNS: u32 = 20;
const ROUNDS: usize = 3;

/// A handle on a stream.
#[derive(Debug)]
pub(super) struct Place {
    pub handle: sys::cudnnHandle_t,
    /// One for all: they follow each other.
    pub workspace: Option<Arc<Block>>,
    /// Plans that have computed something with this handle.
    warm: HashSet<usize>,
}

// SAFETY: cuDNN takes a handle from any thread, if from one at a time: whoever has the place has a lock.
unsafe impl Send for Place {}

/// Operands of zeros, to try a plan with.
pub(super) struct Zeros {
    addresses: [u64; 6],
    /// Freed after the work that uses them.
    _blocks: Vec<Block>,
}

impl Zeros {
    /// For all that is wanted, if there is memory for it.
    pub fn new<'a>(heap: &Arc<Heap>, wanted: impl Iterator<Item = &'a Wanted>) -> Result<Option<Self>> {
        let mut most = [0; 6];
        for bytes in wanted.map(Wanted::bytes) {
            most.iter_mut().zip(bytes).for_each(|(most, bytes)| *most = bytes.max(*most));
        }
        let (mut addresses, mut blocks) = ([0; 6], Vec::new());
        for (address, bytes) in addresses.iter_mut().zip(most).filter(|(_, bytes)| *bytes > 0) {
            match heap.zeros(bytes) {
                Err(GpuError::OutOfMemory { .. }) => return Ok(None),
                block => blocks.push(block?),
            }
            *address = blocks.last().map_or(0, |block| block.address);
        }
        Ok(Some(Self { addresses, _blocks: blocks }))
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

    /// Lets go of a workspace that is larger than that.
    pub fn shrink(&mut self, bytes: usize) {
        if self.bytes() > bytes {
            // It lives on in what was recorded with it.
            self.workspace = None;
        }
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

    /// Whether a plan has to be tried before it may be recorded.
    pub fn is_cold(&self, plan: &Plan) -> bool {
        !self.warm.contains(&plan.id)
    }

    /// Computes once, in the heap's stream, and waits: what cuDNN loads on first use is then there. If it may not be used, why.
    pub fn try_out(
        &mut self,
        heap: &Arc<Heap>,
        plan: &Plan,
        operands: &Zeros,
    ) -> Result<std::result::Result<(), Objection>> {
        let workspace = match self.reserve(heap, plan.workspace) {
            Err(GpuError::OutOfMemory { .. }) => {
                let text = format!("{}: no memory for its workspace", plan.name);
                return Ok(Err(Objection { text, by: By::Circumstances }));
            }
            workspace => workspace?,
        };
        // SAFETY: the operands are as large as is wanted, the workspace as the plan does.
        let done = unsafe { plan.run(self.handle, &operands.addresses, workspace) }?;
        // Whatever it says: if the device has failed meanwhile, nothing works any more, and this plan is why.
        heap.stream
            .synchronize()
            .called("cuStreamSynchronize")
            .map_err(|e| GpuError::Driver { call: EXECUTE, message: format!("{}: {e}", plan.name) })?;
        match done {
            Err(e) if is_refusal(e.status) => Ok(Err(Objection::of(&plan.name, &e))),
            done => {
                done.map_err(|e| e.error(EXECUTE))?;
                self.warm.insert(plan.id);
                Ok(Ok(()))
            }
        }
    }

    /// Seconds that a plan takes which was tried out, in a recorded row: the best of some rounds.
    pub fn measure(&mut self, heap: &Arc<Heap>, plan: &Plan, operands: &Zeros) -> Result<f64> {
        let workspace = self.reserve(heap, plan.workspace)?;
        let capture = Capture::begin(heap)?;
        for _ in 0..RUNS {
            // SAFETY: as above.
            unsafe { plan.run(self.handle, &operands.addresses, workspace) }?
                .map_err(|e| e.error(EXECUTE))?;
        }
        let row = capture.finish(())?;
        let mut best = f64::INFINITY;
        // The first does not count.
        for round in 0..=ROUNDS {
            heap.stream.synchronize().called("cuStreamSynchronize")?;
            let begin = Instant::now();
            row.replay()?;
            heap.stream.synchronize().called("cuStreamSynchronize")?;
            if round > 0 {
                best = best.min(begin.elapsed().as_secs_f64() / f64::from(RUNS));
            }
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
