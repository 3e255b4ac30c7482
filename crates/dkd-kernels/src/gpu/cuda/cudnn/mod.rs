//! Convolutions by cuDNN.

mod descriptors;
mod plan;

use super::branches::Lane;
use super::errors::Called;
use super::heap::{Block, Heap};
use crate::gpu::convolution::{Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::sys as driver;
use plan::Plan;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The workspaces of all streams for branches take at most this part of the memory that is free.
const SHARE: u64 = 8;

/// cuDNN on the streams of a heap.
#[derive(Debug)]
pub(super) struct Cudnn {
    heap: Arc<Heap>,
    /// Whether results may differ from run to run in their last digits.
    fastest: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None for what cuDNN does not compute.
    plans: HashMap<(Pass, Convolution), Option<Arc<Plan>>>,
    first: Place,
    /// As the heap's lanes.
    lanes: Vec<(Arc<Lane>, Place)>,
}

/// What convolutions on one stream need.
#[derive(Debug)]
struct Place {
    handle: sys::cudnnHandle_t,
    /// One for all: they follow each other.
    workspace: Option<Arc<Block>>,
    /// Kinds of plans that were computed once with this handle.
    warm: HashSet<String>,
}

// SAFETY: cuDNN takes a handle from any thread, if from one at a time: the state has a lock.
unsafe impl Send for Place {}

impl Place {
    /// On a stream of `heap`, which is alive for as long as the place.
    fn new(stream: driver::CUstream) -> Result<Self> {
        let handle = result::create_handle().called("cudnnCreate")?;
        let place = Self { handle, workspace: None, warm: HashSet::new() };
        place.set_stream(stream)?;
        Ok(place)
    }

    fn set_stream(&self, stream: driver::CUstream) -> Result<()> {
        // SAFETY: handle and stream are alive.
        unsafe { result::set_stream(self.handle, stream.cast()) }.called("cudnnSetStream")
    }

    fn bytes(&self) -> usize {
        self.workspace.as_ref().map_or(0, |w| w.bytes)
    }

    /// The workspace, made larger if it is smaller than that.
    fn reserve(&mut self, heap: &Arc<Heap>, bytes: usize) -> Result<u64> {
        if bytes > self.bytes() {
            heap.not_recording("prepare")?;
            // The old one lives on in what was recorded with it.
            self.workspace = None;
            self.workspace = Some(Arc::new(heap.zeros(bytes)?));
        }
        Ok(self.workspace.as_ref().map_or(0, |w| w.address))
    }

    /// Computes once with zeros, if there is memory for them, in all ways in which it will be recorded: what cuDNN loads on first use is then
    /// there. Whether it may be used.
    fn warm_up(&mut self, heap: &Arc<Heap>, key: (Pass, Convolution), plan: &Plan) -> Result<bool> {
        let workspace = self.reserve(heap, plan.workspace)?;
        let (pass, convolution) = &key;
        let size = convolution.arithmetic.element().bytes();
        let mut blocks = Vec::new();
        for len in convolution.lengths() {
            match heap.zeros(len * size) {
                Err(GpuError::OutOfMemory { .. }) => return Ok(true),
                block => blocks.push(block?),
            }
        }
        let addresses: Vec<u64> = blocks.iter().map(|b| b.address).collect();
        let [x, w, y] = *addresses.as_slice() else { return Ok(true) };
        // SAFETY: the blocks are as large as the convolution says, and are freed after the work that uses
        // them.
        let run = |accumulate| unsafe { plan.attempt(self.handle, [x, w, y], workspace, accumulate) };
        // Gradients of what several read are added up.
        let works = run(false)? && (*pass != Pass::InputGradient || run(true)?);
        if works {
            self.warm.insert(plan.kind());
        }
        Ok(works)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle, and who drops it has bound the context.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Cudnn {
    pub fn new(heap: &Arc<Heap>, fastest: bool) -> Result<Self> {
        let first = Place::new(heap.bound()?)?;
        let state = Mutex::new(State { plans: HashMap::new(), first, lanes: Vec::new() });
        Ok(Self { heap: Arc::clone(heap), fastest, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory that convolutions recorded up to now use.
    pub fn workspaces(&self) -> Vec<Arc<Block>> {
        let state = self.state();
        let lanes = state.lanes.iter().map(|(_, place)| place);
        std::iter::once(&state.first).chain(lanes).filter_map(|place| place.workspace.clone()).collect()
    }

    /// Chooses an algorithm, once for all; whether there is one.
    pub fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<bool> {
        self.heap.not_recording("prepare")?;
        Ok(self.plan(&mut self.state(), pass, convolution)?.is_some())
    }

    fn plan(&self, state: &mut State, pass: Pass, convolution: &Convolution) -> Result<Option<Arc<Plan>>> {
        let key = (pass, *convolution);
        if let Some(plan) = state.plans.get(&key) {
            return Ok(plan.clone());
        }
        self.heap.not_recording("prepare")?;
        self.heap.bound()?;
        let mut plan = None;
        for tried in Plan::all(state.first.handle, pass, convolution, self.fastest)? {
            if state.first.warm_up(&self.heap, key, &tried)? {
                plan = Some(Arc::new(tried));
                break;
            }
        }
        if plan.is_none() {
            let kind = if self.fastest { "" } else { "deterministic " };
            let what = format!("cuDNN has no {kind}algorithm for a convolution, {pass}: {convolution}");
            if state.plans.values().all(Option::is_some) {
                tracing::warn!("{what}. It and others like it are left to a kernel that may take longer");
            } else {
                tracing::debug!("{what}");
            }
        }
        state.plans.insert(key, plan.clone());
        Ok(plan)
    }

    /// Makes as many lanes ready for all that was prepared as are wanted, or as there is memory for: branches
    /// have the same results on fewer.
    pub fn prepare_lanes(&self) -> Result<()> {
        let wanted = self.heap.wanted_lanes();
        let mut state = self.state();
        let State { plans, first, lanes } = &mut *state;
        let main = self.heap.bound()?;
        let (free, _) = self.heap.free_memory()?;
        let mut left = free / SHARE;
        let mut ready = Vec::new();
        for i in 0..wanted {
            if i == lanes.len() {
                lanes.push((Arc::new(Lane::new(&self.heap.context)?), Place::new(main)?));
            }
            let (lane, place) = &mut lanes[i];
            if first.bytes() > place.bytes() {
                let Some(rest) = left.checked_sub(first.bytes() as u64) else { break };
                left = rest;
                match place.reserve(&self.heap, first.bytes()) {
                    Err(GpuError::OutOfMemory { .. }) => break,
                    done => done?,
                };
            }
            // In order with everything else, as the memory for it is.
            place.set_stream(main)?;
            for (key, plan) in plans.iter() {
                if let Some(plan) = plan.as_ref().filter(|plan| !place.warm.contains(&plan.kind())) {
                    place.warm_up(&self.heap, *key, plan)?;
                }
            }
            place.set_stream(lane.stream.cu_stream())?;
            ready.push(Arc::clone(lane));
        }
        // Others stay: recorded work may need what their handles have.
        self.heap.set_lanes(ready);
        Ok(())
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
        let plan = plan.ok_or_else(|| GpuError::no_library(pass, convolution))?;
        let State { first, lanes, .. } = &mut *state;
        let lane = self.heap.lane().checked_sub(1).and_then(|i| lanes.get_mut(i));
        let place = lane.map_or(first, |(_, place)| place);
        let workspace = place.reserve(&self.heap, plan.workspace)?;
        // SAFETY: the caller's; the workspace is at least as large as the plan's.
        unsafe { plan.run(place.handle, operands, workspace, accumulate) }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // The state's handles go next.
        let _ = self.heap.context.bind_to_thread();
        self.state().plans.clear();
    }
}
