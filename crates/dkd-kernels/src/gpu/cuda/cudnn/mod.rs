//! Convolutions by cuDNN: by its graphs of operations, of which each here is one convolution.

mod choose;
mod descriptor;
mod elsewhere;
mod engines;
mod operation;
mod place;
mod plan;
mod target;

pub use elsewhere::Elsewhere;

use super::branches::Lane;
use super::heap::{Block, Heap};
use crate::gpu::convolution::{Algorithms, Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use choose::{Chooser, Wanted};
use operation::ALIGNMENT;
use place::{EXECUTE, Place, Zeros};
use plan::Plan;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    plans: HashMap<(Pass, Convolution), Option<Arc<Ways>>>,
    first: Place,
    /// As the heap's lanes.
    lanes: Vec<(Arc<Lane>, Place)>,
}

/// A pass whose result takes the place of what is there, or is added to it: gradients of what several read are.
#[derive(Debug)]
struct Ways {
    plain: Plan,
    adding: Option<Plan>,
}

impl Ways {
    fn all(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.plain).chain(&self.adding)
    }
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

    /// Chooses an engine, once for all; whether there is one.
    pub fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<bool> {
        self.heap.not_recording("prepare")?;
        Ok(self.ways(&mut self.state(), pass, convolution)?.is_some())
    }

    fn ways(&self, state: &mut State, pass: Pass, convolution: &Convolution) -> Result<Option<Arc<Ways>>> {
        let key = (pass, *convolution);
        if let Some(ways) = state.plans.get(&key) {
            return Ok(ways.clone());
        }
        self.heap.not_recording("prepare")?;
        self.heap.bound()?;
        let ways = match self.choose(&mut state.first, key)? {
            Ok(ways) => Some(Arc::new(ways)),
            Err(objections) => {
                let any = if self.chooser.algorithms == Algorithms::Fastest { "" } else { "deterministic " };
                let what = format!(
                    "cuDNN has no {any}engine for a convolution, {pass}: {convolution} ({objections})"
                );
                if state.plans.values().all(Option::is_some) {
                    tracing::warn!("{what}. It and others like it are left to a kernel that may take longer");
                } else {
                    tracing::debug!("{what}");
                }
                None
            }
        };
        state.plans.insert(key, ways.clone());
        Ok(ways)
    }

    /// Plans for a pass of a convolution, or what was the matter with each that was proposed.
    fn choose(
        &self,
        first: &mut Place,
        (pass, convolution): (Pass, Convolution),
    ) -> Result<std::result::Result<Ways, String>> {
        let mut plan =
            |accumulate| self.chooser.choose(&self.heap, first, Wanted { pass, convolution, accumulate });
        let plain = match plan(false)? {
            Ok(plan) => plan,
            Err(objections) => return Ok(Err(objections)),
        };
        let adding = match (pass == Pass::InputGradient).then(|| plan(true)).transpose()?.transpose() {
            Ok(plan) => plan,
            Err(objections) => return Ok(Err(objections)),
        };
        Ok(Ok(Ways { plain, adding }))
    }

    /// What computes a pass of a convolution, if that was prepared, and what it takes.
    pub fn algorithm(&self, pass: Pass, convolution: &Convolution) -> Option<String> {
        let state = self.state();
        let plan = &state.plans.get(&(pass, *convolution))?.as_ref()?.plain;
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
        let all = || plans.iter().flat_map(|(key, ways)| ways.iter().map(move |ways| (&key.1, ways)));
        let needed = all().flat_map(|(_, ways)| ways.all()).map(|plan| plan.workspace).max().unwrap_or(0);
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
            for plan in all().flat_map(|(_, ways)| ways.all()) {
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
        self.heap.bound()?;
        if operands.iter().any(|address| !address.is_multiple_of(ALIGNMENT)) {
            let message = format!("operands {operands:x?} do not begin on multiples of {ALIGNMENT} bytes");
            return Err(GpuError::Shape { operation: "convolution", message });
        }
        let mut state = self.state();
        let ways = self.ways(&mut state, pass, convolution)?;
        let plan =
            ways.as_ref().and_then(|ways| if accumulate { ways.adding.as_ref() } else { Some(&ways.plain) });
        let plan = plan.ok_or_else(|| GpuError::no_library(pass, convolution))?;
        let State { first, lanes, .. } = &mut *state;
        let lane = self.heap.lane().checked_sub(1).and_then(|i| lanes.get_mut(i));
        let place = lane.map_or(first, |(_, place)| place);
        let workspace = place.reserve(&self.heap, plan.workspace)?;
        // SAFETY: the caller's; the workspace is at least as large as the plan's.
        unsafe { plan.run(place.handle, operands, workspace) }?.map_err(|e| e.error(EXECUTE))
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // The state's handles go next.
        let _ = self.heap.context.bind_to_thread();
        self.state().plans.clear();
    }
}
