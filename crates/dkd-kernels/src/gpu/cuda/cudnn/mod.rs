//! Convolutions by cuDNN.

mod candidates;
mod descriptors;
mod plan;

use super::branches::Lane;
use super::errors::Called;
use super::heap::{Block, Heap};
use super::kernels;
use crate::gpu::choices::Choices;
use crate::gpu::convolution::{Algorithms, Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use candidates::{INEXACT, UNORDERED};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::sys as driver;
use plan::{Plan, Plans};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The workspaces of all streams for branches take at most this part of the memory that is free.
const SHARE: u64 = 8;

/// What is kept where nothing was found.
const NONE: &str = "none";

/// Objections that will be the same the next time.
const LASTING: [&str; 3] = ["NOT_SUPPORTED", UNORDERED, INEXACT];

/// cuDNN on the streams of a heap.
#[derive(Debug)]
pub(super) struct Cudnn {
    heap: Arc<Heap>,
    algorithms: Algorithms,
    /// Of what is measured.
    choices: Option<Choices>,
    /// Whether it was told that they cannot be kept.
    told: AtomicBool,
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
    /// there. If it may not be used, why.
    fn warm_up(&mut self, heap: &Arc<Heap>, key: (Pass, Convolution), plan: &Plan) -> Result<Option<String>> {
        let workspace = self.reserve(heap, plan.workspace)?;
        let (pass, convolution) = &key;
        let size = convolution.arithmetic.element().bytes();
        let mut blocks = Vec::new();
        for len in convolution.lengths() {
            match heap.zeros(len * size) {
                Err(GpuError::OutOfMemory { .. }) => return Ok(None),
                block => blocks.push(block?),
            }
        }
        let addresses: Vec<u64> = blocks.iter().map(|b| b.address).collect();
        let [x, w, y] = *addresses.as_slice() else { return Ok(None) };
        // SAFETY: the blocks are as large as the convolution says, and are freed after the work that uses
        // them.
        let run = |accumulate| unsafe { plan.attempt(self.handle, [x, w, y], workspace, accumulate) };
        // Gradients of what several read are added up.
        let ways: &[bool] = if *pass == Pass::InputGradient { &[false, true] } else { &[false] };
        for accumulate in ways {
            if let Some(why) = run(*accumulate)? {
                return Ok(Some(why));
            }
        }
        self.warm.insert(plan.kind());
        Ok(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle, and who drops it has bound the context.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Cudnn {
    /// On a device of this name.
    pub fn new(heap: &Arc<Heap>, device: &str, algorithms: Algorithms) -> Result<Self> {
        let first = Place::new(heap.bound()?)?;
        let state = Mutex::new(State { plans: HashMap::new(), first, lanes: Vec::new() });
        let library = format!("{device}, cuDNN {}", result::get_version());
        let folder = || kernels::folder().map(|kernels| kernels.with_file_name("convolutions"));
        let choices = (algorithms != Algorithms::Ruled).then(|| Choices::new(folder(), &library, algorithms));
        Ok(Self { heap: Arc::clone(heap), algorithms, choices, told: AtomicBool::new(false), state })
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
        let plan = match self.choose(&mut state.first, key)? {
            Ok(plan) => Some(Arc::new(plan)),
            Err(objections) => {
                let any = if self.algorithms == Algorithms::Fastest { "" } else { "deterministic " };
                let what = format!(
                    "cuDNN has no {any}algorithm for a convolution, {pass}: {convolution} ({objections})"
                );
                if state.plans.values().all(Option::is_some) {
                    tracing::warn!("{what}. It and others like it are left to a kernel that may take longer");
                } else {
                    tracing::debug!("{what}");
                }
                None
            }
        };
        state.plans.insert(key, plan.clone());
        Ok(plan)
    }

    /// The algorithm for a pass of a convolution: the one that was kept, or the first that works; else what was the matter with each.
    fn choose(
        &self,
        first: &mut Place,
        key: (Pass, Convolution),
    ) -> Result<std::result::Result<Plan, String>> {
        let (pass, convolution) = key;
        let of_kind = |first: &mut Place, kind: &str| -> Result<Option<Plan>> {
            let Some(plan) = Plan::named(first.handle, pass, &convolution, kind)? else { return Ok(None) };
            Ok(first.warm_up(&self.heap, key, &plan)?.is_none().then_some(plan))
        };
        let kept = self.choices.as_ref().and_then(|choices| choices.read(pass, &convolution));
        if kept.as_deref() == Some(NONE) {
            return Ok(Err("none was found when it was measured".to_owned()));
        }
        if let Some(plan) = kept.map_or(Ok(None), |kind| of_kind(first, &kind))? {
            return Ok(Ok(plan));
        }
        let Plans { all, mut objections } = Plan::all(first.handle, pass, &convolution, self.algorithms)?;
        for plan in all {
            if let Some(why) = first.warm_up(&self.heap, key, &plan)? {
                objections.push(format!("{}: {why}", plan.kind()));
                continue;
            }
            // Another program's, if it was there first.
            let kept = self.keep(key, &plan.kind());
            let other = if kept == plan.kind() { None } else { of_kind(first, &kept)? };
            return Ok(Ok(other.unwrap_or(plan)));
        }
        // Not if there was no memory to try it with, or the like.
        let lasting = |why: &String| LASTING.iter().any(|known| why.contains(known));
        if !objections.is_empty() && objections.iter().all(lasting) {
            self.keep(key, NONE);
        }
        Ok(Err(if objections.is_empty() { "it proposes none".to_owned() } else { objections.join("; ") }))
    }

    /// Keeps what was measured for later runs: what they will take.
    fn keep(&self, (pass, convolution): (Pass, Convolution), kind: &str) -> String {
        let kept = self.choices.as_ref().map(|choices| choices.keep(pass, &convolution, kind));
        match kept.transpose() {
            Ok(kept) => kept.unwrap_or_else(|| kind.to_owned()),
            Err(e) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "what cuDNN measures cannot be kept, so other runs may choose other algorithms: {e}"
                    );
                }
                kind.to_owned()
            }
        }
    }

    /// What computes a pass of a convolution, if that was prepared, and what it takes.
    pub fn algorithm(&self, pass: Pass, convolution: &Convolution) -> Option<String> {
        let state = self.state();
        let plan = state.plans.get(&(pass, *convolution))?.as_ref()?;
        let space = plan.workspace.div_ceil(1024);
        Some(if space == 0 { plan.kind() } else { format!("{}, {space} KiB", plan.kind()) })
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
