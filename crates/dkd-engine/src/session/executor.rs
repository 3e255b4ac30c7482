//! Runs a plan's stages over the threads, with a barrier after each.

use super::backward::BackwardContext;
use super::boundary::Boundaries;
use super::clock::{Clock, StepTime};
use super::forward::ForwardContext;
use super::gathers::Gathers;
use super::group::{Group, Worker, kept_elements};
use super::images::Images;
use super::memory::{Key, Memory, SharedMemory};
use super::statistics::{NormState, finish_backward};
use super::weights::Weights;
use super::windows::{Kept, Slot, Windows};
use super::{DropoutKey, Precision};
use crate::graph::Graph;
use crate::params::ParamTable;
use crate::plan::{BackwardStage, MANY, Plan, Purpose, Unit};
use dkd_kernels::{Cpu, LANES, flat};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Groups that share a training batch: a fixed number, so that sums are formed in the same order by any number of
/// threads. Each has weight gradients of its own, which are added up after every stage: where a stage has many, there are fewer groups.
const GROUPS: usize = 8;
const GROUPS_OF_LARGE: usize = 4;
const LARGE_STAGE: usize = 1 << 20;

/// Into how many groups a batch is split, and how many images each can hold.
fn split(plan: &Plan, threads: usize, max_batch: usize) -> (usize, usize) {
    match plan.purpose {
        Purpose::Train => {
            let weights = plan.backward.as_ref().map_or(0, |backward| backward.partial);
            let groups = if weights > LARGE_STAGE { GROUPS_OF_LARGE } else { GROUPS };
            (groups, max_batch.div_ceil(groups))
        }
        // A worker takes so many images through the whole network at a time, as nothing needs the batch as a whole.
        Purpose::Infer => (threads, MANY.min(max_batch.div_ceil(threads))),
    }
}

/// The windows of a plan whose maps are kept so.
fn windows(plan: &Plan, precision: Precision) -> Option<Windows> {
    match precision {
        Precision::F32 => None,
        Precision::Bf16 => Some(Windows::new(plan, Kept::Half)),
        #[cfg(test)]
        Precision::F32InWindows => Some(Windows::new(plan, Kept::Single)),
    }
}

/// A plan with its memory.
#[derive(Debug)]
pub(super) struct Executor {
    pub plan: Plan,
    /// Where maps are kept in bf16.
    windows: Option<Windows>,
    memory: Arc<Memory>,
    /// Number of the last training batch, by the memory's count.
    batch: u64,
    norms: Vec<NormState>,
    gathers: Gathers,
    /// Sums over all groups of whatever is being finished.
    totals: Vec<f64>,
    zeros: Vec<f32>,
    /// Measures every step, if it is there.
    clock: Option<Clock>,
}

impl Executor {
    /// With memory for the batches of `key`, which is the plan's.
    pub fn new(plan: Plan, key: &Key, shared: &SharedMemory) -> Self {
        let (norms, moments) = NormState::all(&plan);
        let windows = windows(&plan, key.precision);
        let memory = shared.get(key, plan.purpose, || {
            let (groups, capacity) = split(&plan, key.threads, key.max_batch);
            Memory::new(&plan, windows.as_ref(), groups, capacity, moments, key.threads)
        });
        Self {
            windows,
            memory,
            batch: 0,
            norms,
            gathers: Gathers::new(&plan),
            totals: vec![0.0; 3 * plan.max_stride],
            zeros: vec![0.0; plan.max_stride],
            clock: None,
            plan,
        }
    }

    /// Starts to measure every step anew, or stops.
    pub fn measure(&mut self, on: bool) {
        self.clock = on.then(|| Clock::new(&self.plan));
    }

    /// What was measured.
    pub fn times(&self, graph: &Graph) -> Vec<StepTime> {
        self.clock.as_ref().map_or_else(Vec::new, |clock| clock.times(&self.plan, graph))
    }

    /// Whether the memory still holds the last training batch: another session may have used it since.
    pub fn holds_batch(&self) -> bool {
        self.memory.holds(self.batch)
    }

    /// Bytes that [`Executor::new`] and a first backward pass allocate, small things aside.
    pub fn bytes(plan: &Plan, precision: Precision, threads: usize, max_batch: usize) -> usize {
        let windows = windows(plan, precision);
        let (groups, capacity) = split(plan, threads, max_batch);
        let float = size_of::<f32>();
        let kept = |slot: Slot, elements: usize| {
            let (single, half) = kept_elements(windows.as_ref(), slot, elements);
            single * float + half * size_of::<u16>()
        };
        let values = plan.slots.iter().enumerate().map(|(k, s)| kept(Slot::Value(k), s.elements));
        let slots = plan.backward.iter().flat_map(|backward| &backward.slots).enumerate();
        let gradients = slots.map(|(k, s)| kept(Slot::Gradient(k), s.elements));
        let per_image = values.chain(gradients).sum::<usize>() + plan.argmax.iter().sum::<usize>();
        let partial = plan.backward.as_ref().map_or(0, |backward| backward.partial);
        let per_group = per_image.saturating_mul(capacity).saturating_add(partial * float);
        let scratch = plan.scratch.iter().map(|s| s.elements(capacity)).sum::<usize>();
        let buffers = windows.iter().flat_map(|windows| &windows.buffers).sum::<usize>();
        let per_worker = (scratch + plan.conv_scratch + buffers) * float;
        per_group.saturating_mul(groups).saturating_add(per_worker * threads)
    }

    /// A training batch: batch statistics, running statistics moved, values kept.
    pub fn train(
        &mut self,
        cpu: &Cpu,
        params: &ParamTable,
        weights: &mut Weights,
        images: &Images<'_>,
        boundaries: &Boundaries,
        key: DropoutKey,
    ) {
        let n = images.count();
        let memory = &*self.memory;
        let _turn = memory.turn();
        self.batch = memory.begin();
        if let Some(clock) = &self.clock {
            clock.batch(n);
        }
        let last = self.plan.stages.len() - 1;
        for (s, stage) in self.plan.stages.iter().enumerate() {
            let context = ForwardContext {
                isa: cpu.isa(),
                plan: &self.plan,
                windows: self.windows.as_ref(),
                params,
                values: &weights.values,
                copies: &weights.forward,
                zeros: &self.zeros,
                norms: &self.norms,
                gathers: &self.gathers,
                images,
                key,
                clock: self.clock.as_ref(),
            };
            over_groups(cpu, &memory.groups, &memory.workers, n, |group, worker, part| {
                if s == 0 {
                    group.moments.fill(0.0);
                }
                context.stage(s, group, worker, part.clone());
                if s == last {
                    context.export(boundaries, group, part);
                }
            });
            for bn in &stage.finalize {
                let state = &mut self.norms[*bn];
                let range = state.moments..state.moments + 2 * state.stride();
                let totals = sum_groups(&memory.groups, n, &mut self.totals, range, |g| &g.moments);
                let info = &self.plan.bns[*bn];
                state.set_from_batch(info, params, &weights.values, &mut weights.running, totals, n);
            }
            self.gathers.refresh(&self.plan, &self.norms, |bn| stage.finalize.contains(&bn));
        }
    }

    /// A batch with running statistics.
    pub fn infer(
        &mut self,
        cpu: &Cpu,
        params: &ParamTable,
        weights: &Weights,
        images: &Images<'_>,
        boundaries: &Boundaries,
    ) {
        for (state, bn) in self.norms.iter_mut().zip(&self.plan.bns) {
            state.set_from_running(bn, params, &weights.values, &weights.running);
        }
        self.gathers.refresh(&self.plan, &self.norms, |_| true);
        let context = ForwardContext {
            isa: cpu.isa(),
            plan: &self.plan,
            windows: self.windows.as_ref(),
            params,
            values: &weights.values,
            copies: &weights.forward,
            zeros: &self.zeros,
            norms: &self.norms,
            gathers: &self.gathers,
            images,
            key: DropoutKey::default(),
            clock: self.clock.as_ref(),
        };
        let memory = &*self.memory;
        let _turn = memory.turn();
        let (n, size) = (images.count(), memory.capacity);
        if let Some(clock) = &self.clock {
            clock.batch(n);
        }
        cpu.share(n.div_ceil(size), |thread, block| {
            let (mut group, mut worker) = (write(&memory.groups[thread]), lock(&memory.workers[thread]));
            let part = block * size..n.min((block + 1) * size);
            for stage in 0..self.plan.stages.len() {
                context.stage(stage, &mut group, &mut worker, part.clone());
            }
            context.export(boundaries, &group, part);
        });
    }

    /// The backward pass of the last training batch of `n` images, whose leaf gradients the boundaries hold.
    pub fn backward(
        &mut self,
        cpu: &Cpu,
        params: &ParamTable,
        weights: &mut Weights,
        boundaries: &Boundaries,
        n: usize,
        key: DropoutKey,
    ) {
        let Some(backward) = &self.plan.backward else { return };
        let memory = &*self.memory;
        let _turn = memory.turn();
        for (s, stage) in backward.stages.iter().enumerate() {
            let context = BackwardContext {
                isa: cpu.isa(),
                plan: &self.plan,
                windows: self.windows.as_ref(),
                backward,
                params,
                values: &weights.values,
                copies: &weights.backward,
                norms: &self.norms,
                gathers: &self.gathers,
                boundaries,
                key,
                clock: self.clock.as_ref(),
            };
            over_groups(cpu, &memory.groups, &memory.workers, n, |group, worker, part| {
                if s == 0 {
                    group.prepare_backward(&self.plan, self.windows.as_ref(), memory.capacity);
                    group.sums.fill(0.0);
                }
                context.stage(s, group, worker, part);
            });
            weight_gradients(cpu, &context, stage, &memory.groups, n, &mut weights.gradients);
            for unit in &stage.finalize {
                let Unit::Norm(norm) = &self.plan.units[*unit] else { continue };
                let range =
                    backward.sums[*unit]..backward.sums[*unit] + 3 * self.plan.tensors[norm.y].map.stride;
                let totals = sum_groups(&memory.groups, n, &mut self.totals, range, |g| &g.sums);
                let (values, gradients) = (&weights.values, &mut weights.gradients);
                finish_backward(norm, &self.plan, params, &mut self.norms, values, gradients, totals, n);
            }
            for unit in &stage.biases {
                let bias = match &self.plan.units[*unit] {
                    Unit::Conv(c) => c.bias,
                    Unit::Linear(l) => l.bias,
                    _ => None,
                };
                let Some(bias) = bias else { continue };
                let to = &mut weights.gradients[params.places[bias].range.clone()];
                let range = backward.sums[*unit]..backward.sums[*unit] + to.len();
                let totals = sum_groups(&memory.groups, n, &mut self.totals, range, |g| &g.sums);
                to.iter_mut().zip(totals).for_each(|(g, t)| *g = *t as f32);
            }
        }
    }
}

/// Weight gradients that are complete after a stage.
fn weight_gradients(
    cpu: &Cpu,
    context: &BackwardContext<'_>,
    stage: &BackwardStage,
    groups: &[RwLock<Group>],
    n: usize,
    gradients: &mut [f32],
) {
    if !stage.reduce.ranges.is_empty() {
        cpu.for_ranges(gradients, &stage.reduce.ranges, |i, to| {
            let _running = context.clock.map(Clock::sums);
            let start = stage.reduce.partial[i];
            for (g, group) in groups[..groups.len().min(n)].iter().enumerate() {
                let group = read(group);
                let from = &group.partial[start..start + to.len()];
                if g == 0 {
                    to.copy_from_slice(from);
                } else {
                    flat::accumulate(context.isa, to, from);
                }
            }
        });
    }
    for weights in &stage.linear {
        let Unit::Linear(l) = &context.plan.units[weights.unit] else { continue };
        cpu.for_ranges(gradients, &weights.ranges, |i, to| {
            let _running = context.clock.map(|c| c.linear(weights.unit));
            for (g, group) in groups[..groups.len().min(n)].iter().enumerate() {
                let count = part_of(n, groups.len(), g).len();
                let part = (weights.parts[i].0, weights.parts[i].1.clone());
                context.linear_weights(l, &read(group), count, part, to, g > 0);
            }
        });
        debug_assert!(weights.ranges.iter().all(|r| r.len().is_multiple_of(LANES)));
    }
}

/// Calls `f` for every group that has images.
fn over_groups(
    cpu: &Cpu,
    groups: &[RwLock<Group>],
    workers: &[Mutex<Worker>],
    n: usize,
    f: impl Fn(&mut Group, &mut Worker, Range<usize>) + Sync,
) {
    cpu.share(groups.len().min(n), |thread, g| {
        f(&mut write(&groups[g]), &mut lock(&workers[thread]), part_of(n, groups.len(), g));
    });
}

/// The images of group `g`: sizes differ by at most one, larger groups first.
fn part_of(n: usize, groups: usize, g: usize) -> Range<usize> {
    let (size, longer) = (n / groups, n % groups);
    let start = g * size + g.min(longer);
    start..start + size + usize::from(g < longer)
}

/// Adds a range of sums over the groups that have images, in their order.
fn sum_groups<'a>(
    groups: &[RwLock<Group>],
    n: usize,
    totals: &'a mut [f64],
    range: Range<usize>,
    sums: impl Fn(&Group) -> &[f64],
) -> &'a [f64] {
    let totals = &mut totals[..range.len()];
    totals.fill(0.0);
    for group in &groups[..groups.len().min(n)] {
        let group = read(group);
        totals.iter_mut().zip(&sums(&group)[range.clone()]).for_each(|(t, s)| *t += s);
    }
    totals
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
