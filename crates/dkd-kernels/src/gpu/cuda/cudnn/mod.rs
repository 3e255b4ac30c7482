//! Convolutions by cuDNN.

mod descriptors;
mod plan;

use super::errors::Called;
use super::heap::{Block, Heap};
use crate::gpu::convolution::{Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use plan::Plan;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// cuDNN on one stream.
#[derive(Debug)]
pub(super) struct Cudnn {
    heap: Arc<Heap>,
    /// Whether results may differ from run to run in their last digits.
    fastest: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    handle: sys::cudnnHandle_t,
    plans: HashMap<(Pass, Convolution), Arc<Plan>>,
    /// One for all: they follow each other.
    workspace: Option<Arc<Block>>,
}

// SAFETY: cuDNN takes a handle from any thread, if from one at a time; the state has a lock.
unsafe impl Send for State {}

impl Cudnn {
    pub fn new(heap: &Arc<Heap>, fastest: bool) -> Result<Self> {
        let stream = heap.bound()?;
        let handle = result::create_handle().called("cudnnCreate")?;
        let state = Mutex::new(State { handle, plans: HashMap::new(), workspace: None });
        let cudnn = Self { heap: Arc::clone(heap), fastest, state };
        // SAFETY: handle and stream are alive, the stream for as long as this value.
        unsafe { result::set_stream(handle, stream.cast()) }.called("cudnnSetStream")?;
        Ok(cudnn)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory that convolutions recorded up to now use.
    pub fn workspace(&self) -> Option<Arc<Block>> {
        self.state().workspace.clone()
    }

    /// Chooses an algorithm, once for all.
    pub fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<()> {
        self.heap.not_recording("prepare")?;
        self.plan(&mut self.state(), pass, convolution).map(|_| ())
    }

    fn plan(&self, state: &mut State, pass: Pass, convolution: &Convolution) -> Result<Arc<Plan>> {
        let key = (pass, *convolution);
        if let Some(plan) = state.plans.get(&key) {
            return Ok(Arc::clone(plan));
        }
        self.heap.not_recording("prepare")?;
        self.heap.bound()?;
        let plan = Arc::new(Plan::new(state.handle, pass, convolution, self.fastest)?);
        let workspace = self.reserve(state, plan.workspace)?;
        self.warm_up(state.handle, &plan, convolution, workspace)?;
        state.plans.insert(key, Arc::clone(&plan));
        Ok(plan)
    }

    /// The workspace, made larger if it is smaller than that.
    fn reserve(&self, state: &mut State, bytes: usize) -> Result<u64> {
        if bytes > state.workspace.as_ref().map_or(0, |w| w.bytes) {
            self.heap.not_recording("prepare")?;
            // The old one lives on in what was recorded with it.
            state.workspace = None;
            state.workspace = Some(Arc::new(self.heap.zeros(bytes)?));
        }
        Ok(state.workspace.as_ref().map_or(0, |w| w.address))
    }

    /// Computes once with zeros, if there is memory for them: what cuDNN loads on first use is then there
    /// before anything is recorded.
    fn warm_up(
        &self,
        handle: sys::cudnnHandle_t,
        plan: &Plan,
        convolution: &Convolution,
        workspace: u64,
    ) -> Result<()> {
        let size = convolution.arithmetic.element().bytes();
        let mut blocks = Vec::new();
        for len in convolution.lengths() {
            match self.heap.zeros(len * size) {
                Err(GpuError::OutOfMemory { .. }) => return Ok(()),
                block => blocks.push(block?),
            }
        }
        let addresses: Vec<u64> = blocks.iter().map(|b| b.address).collect();
        let [x, w, y] = *addresses.as_slice() else { return Ok(()) };
        // SAFETY: the blocks are as large as the convolution says, and are freed after the work that uses
        // them.
        unsafe { plan.run(handle, [x, w, y], workspace, false) }
    }

    /// Computes a convolution.
    ///
    /// # Safety
    /// The operands are memory of this device, as large as the convolution says.
    pub unsafe fn run(
        &self,
        pass: Pass,
        convolution: &Convolution,
        operands: [u64; 3],
        accumulate: bool,
    ) -> Result<()> {
        self.heap.bound()?;
        let mut state = self.state();
        let plan = self.plan(&mut state, pass, convolution)?;
        let workspace = self.reserve(&mut state, plan.workspace)?;
        // SAFETY: the caller's; the workspace is at least as large as the plan's.
        unsafe { plan.run(state.handle, operands, workspace, accumulate) }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        if self.heap.context.bind_to_thread().is_ok() {
            let mut state = self.state();
            state.plans.clear();
            // SAFETY: nobody else has the handle.
            let _ = unsafe { result::destroy_handle(state.handle) };
        }
    }
}
