//! Convolutions by cuDNN: by its graphs of operations, of which each here is one convolution, with or without what follows it.

mod choose;
mod descriptor;
mod elsewhere;
mod engines;
mod epilogue;
mod operation;
mod place;
mod plan;
mod target;
mod wanted;

pub use elsewhere::Elsewhere;

use super::branches::Lane;
use super::heap::{Block, Heap};
use crate::gpu::convolution::{Algorithms, Convolution, Epilogue, Pass};
use crate::gpu::error::{GpuError, Result};
use choose::Chooser;
use operation::ALIGNMENT;
use place::{EXECUTE, Place, Zeros};
use plan::Plan;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wanted::Wanted;

/// The workspaces of all streams for branches take at most this part of the memory that is free.
const SHARE: u64 = 8;

/// cuDNN on the streams of a heap.
#[derive(Debug)]
pub(super) struct Cudnn {
    heap: Arc<Heap>,
    chooser: Chooser,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None for what cuDNN does not compute.
    plans: HashMap<Wanted, Option<Arc<Plan>>>,
    first: Place,
    /// As the heap's lanes.
    lanes: Vec<(Arc<Lane>, Place)>,
}

impl Cudnn {
    /// On a device of this name.
    pub fn new(heap: &Arc<Heap>, (device, driver): (&str, i32), algorithms: Algorithms) -> Result<Self> {
        let first = Place::new(heap.bound()?)?;
        let state = Mutex::new(State { plans: HashMap::new(), first, lanes: Vec::new() });
        Ok(Self { heap: Arc::clone(heap), chooser: Chooser::new(device, driver, algorithms), state })
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

    /// Chooses engines, once for all; whether there are some.
    pub fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<bool> {
        self.heap.not_recording("prepare")?;
        let mut state = self.state();
        let mut has = |accumulate| -> Result<bool> {
            let wanted = Wanted::added(pass, convolution, accumulate);
            Ok(self.plan(&mut state, wanted)?.is_some())
        };
        // The gradient of what several read is added up.
        Ok(has(false)? && (pass != Pass::InputGradient || has(true)?))
    }

    /// Chooses an engine for a forward pass with what follows it; whether there is one.
    pub fn prepare_fused(&self, convolution: &Convolution, epilogue: Epilogue) -> Result<bool> {
        self.heap.not_recording("prepare_fused")?;
        if !wanted::is_fused_in(convolution.arithmetic) {
            return Ok(false);
        }
        Ok(self.plan(&mut self.state(), Wanted::fused(convolution, epilogue))?.is_some())
    }

    fn plan(&self, state: &mut State, wanted: Wanted) -> Result<Option<Arc<Plan>>> {
        if let Some(plan) = state.plans.get(&wanted) {
            return Ok(plan.clone());
        }
        self.heap.not_recording("prepare")?;
        self.heap.bound()?;
        let plan = match self.chooser.choose(&self.heap, &mut state.first, wanted)? {
            Ok(plan) => Some(Arc::new(plan)),
            Err(objections) => {
                let any = if self.chooser.algorithms == Algorithms::Fastest { "" } else { "deterministic " };
                let what = format!("cuDNN has no {any}engine for a convolution, {wanted} ({objections})");
                let is_first = !state.plans.iter().any(|(of, plan)| plan.is_none() && !of.is_fused());
                if is_first && !wanted.is_fused() {
                    tracing::warn!(
                        "{what}. It and others like it are left to a kernel that may take longer; another precision may have one"
                    );
                } else {
                    tracing::debug!("{what}");
                }
                None
            }
        };
        state.plans.insert(wanted, plan.clone());
        Ok(plan)
    }

    /// What computes a pass of a convolution, if that was prepared, and what it takes.
    pub fn algorithm(&self, pass: Pass, convolution: &Convolution) -> Option<String> {
        if pass == Pass::InputGradient {
            // Which is needed as well.
            self.engine(&Wanted::added(pass, convolution, true))?;
        }
        self.engine(&Wanted::stored(pass, convolution))
    }

    /// The same for a forward pass with what follows it.
    pub fn fused_algorithm(&self, convolution: &Convolution, epilogue: Epilogue) -> Option<String> {
        self.engine(&Wanted::fused(convolution, epilogue))
    }

    fn engine(&self, wanted: &Wanted) -> Option<String> {
        let state = self.state();
        let plan = state.plans.get(wanted)?.as_ref()?;
        Some(match plan.workspace.div_ceil(1024) {
            0 => plan.name.clone(),
            space => format!("{}, {space} KiB", plan.name),
        })
    }

    /// Makes as many lanes ready for all that was prepared as are wanted, or as there is memory for: branches
    /// have the same results on fewer.
    pub fn prepare_lanes(&self) -> Result<()> {
        let wanted = self.heap.wanted_lanes();
        let mut state = self.state();
        let State { plans, first, lanes } = &mut *state;
        let main = self.heap.bound()?;
        let all = || plans.iter().filter_map(|(wanted, plan)| Some((wanted, plan.as_ref()?)));
        let needed = all().map(|(_, plan)| plan.workspace).max().unwrap_or(0);
        // What was tried may have needed more than what was taken.
        first.shrink(needed);
        first.reserve(&self.heap, needed)?;
        let operands = if wanted > 0 { Zeros::new(&self.heap, all().map(|(of, _)| of))? } else { None };
        let (free, _) = self.heap.free_memory()?;
        let mut left = free / SHARE;
        let mut ready = Vec::new();
        for i in 0..wanted {
            let Some(operands) = &operands else { break };
            if i == lanes.len() {
                lanes.push((Arc::new(Lane::new(&self.heap.context)?), Place::new(main)?));
            }
            let (lane, place) = &mut lanes[i];
            place.shrink(needed);
            if needed > place.bytes() {
                let Some(rest) = left.checked_sub(needed as u64) else { break };
                left = rest;
            }
            // In order with everything else, as the memory for it is.
            place.set_stream(main)?;
            let mut warm = true;
            for (_, plan) in all() {
                if place.is_cold(plan)
                    && let Err(why) = place.try_out(&self.heap, plan, operands)?
                {
                    tracing::warn!("branches have {i} streams beside the first: {}", why.text);
                    warm = false;
                    break;
                }
            }
            if !warm {
                break;
            }
            place.reserve(&self.heap, needed)?;
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
        // SAFETY: the caller's.
        unsafe { self.compute(Wanted::added(pass, convolution, accumulate), &operands) }
    }

    /// Computes a forward pass with what follows it.
    ///
    /// # Safety
    /// The operands, in the order of [`wanted::OPERANDS`], are memory of this device, as large as convolution and epilogue say.
    pub unsafe fn run_fused(
        &self,
        convolution: &Convolution,
        epilogue: Epilogue,
        operands: &[u64],
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.compute(Wanted::fused(convolution, epilogue), operands) }
    }

    /// # Safety
    /// As above.
    unsafe fn compute(&self, wanted: Wanted, operands: &[u64]) -> Result<()> {
        self.heap.bound()?;
        if operands.iter().any(|address| !address.is_multiple_of(ALIGNMENT)) {
            let message = format!("operands {operands:x?} do not begin on multiples of {ALIGNMENT} bytes");
            return Err(GpuError::Shape { operation: "convolution", message });
        }
        let mut state = self.state();
        let plan = self.plan(&mut state, wanted)?;
        let plan = plan.ok_or_else(|| GpuError::no_library(wanted))?;
        let State { first, lanes, .. } = &mut *state;
        let lane = self.heap.lane().checked_sub(1).and_then(|i| lanes.get_mut(i));
        let place = lane.map_or(first, |(_, place)| place);
        let workspace = place.reserve(&self.heap, plan.workspace)?;
        // SAFETY: the caller's; the workspace is at least as large as the plan's.
        unsafe { plan.run(place.handle, operands, workspace) }?.map_err(|e| e.error(EXECUTE))?;
        self.heap.library_called();
        Ok(())
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // The state's handles go next.
        let _ = self.heap.context.bind_to_thread();
        self.state().plans.clear();
    }
}
