//! The worker threads that share a batch, and the machine they run on.

use crate::{Isa, IsaError};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Spins before a waiting thread gives up its time slice; beyond twice this number a worker sleeps.
const SPINS: u32 = 20_000;

/// Most threads of a pool: more than any machine has cores, few enough to be started.
const MAX_THREADS: usize = 1024;

/// A pool that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// The instruction set that was asked for is unknown or absent.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// More threads than a pool can have.
    #[error(
        "{threads} threads were asked for, at most {limit} are possible; 0 takes one for every core of this machine"
    )]
    TooManyThreads {
        /// Threads asked for.
        threads: usize,
        /// The limit.
        limit: usize,
    },
    /// The system starts no further thread.
    #[error("the system does not start thread {index} of {threads}: {source}. Ask for fewer threads")]
    Spawn {
        /// The thread that could not be started, counted from 1; the caller's is the first.
        index: usize,
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        source: std::io::Error,
    },
}

type Task = dyn Fn(usize) + Sync;

/// A task whose lifetime is erased: valid until the call of [`Cpu::run`] that set it returns.
#[derive(Clone, Copy)]
struct TaskPointer(*const Task);
// SAFETY: the pointee is `Sync`, and `Cpu::run` keeps it alive until every worker has finished.
unsafe impl Send for TaskPointer {}

struct Shared {
    /// Counts calls of `run`; a worker that sees a new value takes the task.
    generation: AtomicU64,
    task: Mutex<Option<TaskPointer>>,
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleeping: Mutex<()>,
    wake: Condvar,
}

/// A pool of worker threads and the instruction set they use. Sessions share one through an `Arc`.
///
/// The workers live as long as the pool. Between two pieces of work they spin for some microseconds, so that a step of
/// fifty pieces does not pay for fifty wake-ups; then they sleep.
pub struct Cpu {
    isa: Isa,
    threads: usize,
    shared: Arc<Shared>,
    /// Serialises `run`: sessions on different threads may share the pool.
    turn: Mutex<()>,
    /// Items of each thread's list that somebody has taken, in [`Cpu::share`].
    taken: Vec<AtomicUsize>,
    workers: Vec<JoinHandle<()>>,
}

impl Cpu {
    /// A pool of `threads` (0: one per available core) with the best instruction set, or the one that the environment
    /// variable [`crate::ISA_VARIABLE`] names.
    ///
    /// # Errors
    /// The variable names an instruction set that is unknown or absent; more than 1024 threads; the system does not
    /// start one, in which case those already started have ended.
    pub fn new(threads: usize) -> Result<Arc<Self>, CpuError> {
        Self::start(threads, Isa::detect()?, spawn)
    }

    /// A pool of `threads` (0: one per available core) with a given instruction set: for tests and measurements.
    ///
    /// # Panics
    /// Where [`Cpu::new`] reports an error about the threads.
    pub fn with_isa(threads: usize, isa: Isa) -> Arc<Self> {
        Self::start(threads, isa, spawn).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `spawn` starts the worker of an index.
    fn start(
        threads: usize,
        isa: Isa,
        spawn: impl Fn(usize, Arc<Shared>) -> std::io::Result<JoinHandle<()>>,
    ) -> Result<Arc<Self>, CpuError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let threads = if threads == 0 { cores() } else { threads };
        if threads > MAX_THREADS {
            return Err(CpuError::TooManyThreads { threads, limit: MAX_THREADS });
        }
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            task: Mutex::new(None),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: Mutex::new(()),
            wake: Condvar::new(),
        });
        let taken = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        let mut cpu = Self { isa, threads, shared, turn: Mutex::new(()), taken, workers: Vec::new() };
        for index in 1..threads {
            // An early return drops the pool, which ends the workers that it has so far.
            let failed = |source| CpuError::Spawn { index: index + 1, threads, source };
            cpu.workers.push(spawn(index, Arc::clone(&cpu.shared)).map_err(failed)?);
        }
        Ok(Arc::new(cpu))
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `task(t)` for t in 0..threads, each on its own thread (0 on the caller's), and waits for all. A panic in
    /// any of them is a panic here.
    pub fn run(&self, task: impl Fn(usize) + Sync) {
        if self.threads == 1 {
            task(0);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.run_in_turn(task);
    }

    fn run_in_turn(&self, task: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        let erased: &(dyn Fn(usize) + Sync + '_) = &task;
        // SAFETY: only the lifetime changes. The pointer is cleared below, after every worker has finished with it and
        // before `task` is dropped, also when the caller's own part panics (`Finish`).
        let erased: *const Task =
            unsafe { std::mem::transmute(erased as *const (dyn Fn(usize) + Sync + '_)) };
        *shared.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(TaskPointer(erased));
        shared.running.store(self.threads - 1, Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        drop(shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner));
        shared.wake.notify_all();
        let finish = Finish(shared);
        task(0);
        drop(finish);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked");
    }

    /// Calls `task(t, i)` once for every i in 0..count, on some thread t. Thread t takes t, t + threads, …, whose data it had
    /// the last time as well, and then what the others have not begun: a core that something else uses holds nobody up.
    /// Items must be independent, so that results do not depend on who does them.
    pub fn share(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
        if self.threads == 1 {
            return (0..count).for_each(|i| task(0, i));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.taken.iter().for_each(|taken| taken.store(0, Ordering::Relaxed));
        self.run_in_turn(|thread| {
            for other in 0..self.threads {
                let owner = (thread + other) % self.threads;
                let next = || owner + self.taken[owner].fetch_add(1, Ordering::Relaxed) * self.threads;
                std::iter::repeat_with(next).take_while(|i| *i < count).for_each(|i| task(thread, i));
            }
        });
    }

    /// [`Cpu::share`] for tasks that do not care which thread they are on.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync) {
        self.share(count, |_, i| task(i));
    }
}

impl Cpu {
    /// Calls `task(i, part)` for every range of `data`, in parallel, each with its own part of the slice.
    ///
    /// # Panics
    /// If the ranges do not ascend without overlap inside the slice.
    pub fn for_ranges(
        &self,
        data: &mut [f32],
        ranges: &[Range<usize>],
        task: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let mut end = 0;
        for range in ranges {
            assert!(end <= range.start && range.start <= range.end, "ranges ascend without overlap");
            end = range.end;
        }
        assert!(end <= data.len(), "ranges lie in the slice");
        let start = DataPointer(data.as_mut_ptr());
        self.for_each(ranges.len(), |i| {
            let start = &start;
            // SAFETY: the ranges lie in `data` and are disjoint (checked above), each is handed out once, and `data` is
            // borrowed until `for_each` returns.
            let part =
                unsafe { std::slice::from_raw_parts_mut(start.0.add(ranges[i].start), ranges[i].len()) };
            task(i, part);
        });
    }
}

/// Start of a slice whose disjoint parts go to different threads.
pub(crate) struct DataPointer(pub *mut f32);
// SAFETY: whoever uses it hands out disjoint parts only.
unsafe impl Sync for DataPointer {}

/// Waits for the workers when dropped, so that a panic of the caller's part cannot free the task under them.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut spins = 0_u32;
        while self.0.running.load(Ordering::Acquire) > 0 {
            relax(&mut spins);
        }
        *self.0.task.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        drop(self.shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has already been reported by `run`.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cpu({} threads, {})", self.threads, self.isa)
    }
}

fn relax(spins: &mut u32) {
    *spins = spins.saturating_add(1);
    if *spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

fn spawn(index: usize, shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("dkd-{index}")).spawn(move || work(&shared, index))
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(generation) = next(shared, seen) {
        seen = generation;
        let task = *shared.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(TaskPointer(task)) = task {
            // SAFETY: `run` waits for `running` to reach 0 before the task goes out of scope.
            let call = std::panic::AssertUnwindSafe(|| unsafe { (*task)(index) });
            if std::panic::catch_unwind(call).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// The next generation after `seen`, or `None` when the pool is dropped.
fn next(shared: &Shared, seen: u64) -> Option<u64> {
    let mut spins = 0_u32;
    loop {
        if shared.stop.load(Ordering::Acquire) {
            return None;
        }
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != seen {
            return Some(generation);
        }
        relax(&mut spins);
        if spins > 2 * SPINS {
            let guard = shared.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |_: &mut ()| {
                shared.generation.load(Ordering::Acquire) == seen && !shared.stop.load(Ordering::Acquire)
            };
            drop(shared.wake.wait_while(guard, idle).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Limits the thread pools of the libraries under candle: its elementwise pool to one thread (it spins, and collapses
/// on shared cores) and rayon's to `threads`. Must be the first thing `main` does, before another thread exists and
/// before candle is used; variables that the user has set are respected.
pub fn limit_library_pools(threads: usize) {
    let set = |name: &str, value: usize| {
        if std::env::var_os(name).is_none() {
            // SAFETY: by this function's contract no other thread is running that could read the environment.
            unsafe { std::env::set_var(name, value.to_string()) }
        }
    };
    set("CANDLE_NUM_THREADS", 1);
    set("RAYON_NUM_THREADS", threads.clamp(1, MAX_THREADS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 3, 5] {
            let cpu = Cpu::with_isa(threads, Isa::available()[0]);
            for round in 0..200 {
                let counts: Vec<AtomicUsize> = (0..round % 7).map(|_| AtomicUsize::new(0)).collect();
                cpu.for_each(counts.len(), |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_slow_thread_is_helped() {
        let cpu = Cpu::with_isa(2, Isa::available()[0]);
        let (slow, helped) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        cpu.share(10, |thread, i| {
            if i == 0 {
                slow.store(thread, Ordering::Relaxed);
                while helped.load(Ordering::Relaxed) < 4 && std::time::Instant::now() < deadline {
                    std::thread::yield_now();
                }
            } else if thread != slow.load(Ordering::Relaxed) && i % 2 == 0 {
                helped.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(
            helped.load(Ordering::Relaxed),
            4,
            "the other items of the slow thread's list were done meanwhile"
        );
    }

    #[test]
    fn ranges_are_disjoint_parts() {
        let cpu = Cpu::with_isa(3, Isa::available()[0]);
        let mut data = vec![0.0; 100];
        cpu.for_ranges(&mut data, &[0..10, 10..11, 50..100], |i, part| part.fill(i as f32 + 1.0));
        let count = |v: f32| data.iter().filter(|x| **x == v).count();
        assert_eq!([count(0.0), count(1.0), count(2.0), count(3.0)], [39, 10, 1, 50]);
        let overlap = std::panic::AssertUnwindSafe(|| cpu.for_ranges(&mut data, &[0..10, 9..12], |_, _| ()));
        assert!(std::panic::catch_unwind(overlap).is_err());
    }

    #[test]
    fn a_panic_travels_and_the_pool_goes_on() {
        let cpu = Cpu::with_isa(3, Isa::available()[0]);
        for bad in 0..3 {
            let run = || cpu.run(|t| assert_ne!(t, bad, "on purpose"));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        }
        let done = AtomicUsize::new(0);
        cpu.for_each(10, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn too_many_threads_are_refused() {
        for threads in [MAX_THREADS + 1, usize::MAX] {
            let message = Cpu::new(threads).unwrap_err().to_string();
            assert!(message.contains(&threads.to_string()) && message.contains("at most 1024"), "{message}");
        }
    }

    #[test]
    fn a_thread_that_does_not_start_leaves_none_behind() {
        let seen = Mutex::new(Vec::new());
        let third_fails = |index, shared: Arc<Shared>| {
            seen.lock().unwrap().push(Arc::clone(&shared));
            if index == 3 { Err(std::io::Error::other("no more")) } else { spawn(index, shared) }
        };
        let error = Cpu::start(8, Isa::available()[0], third_fails).unwrap_err().to_string();
        assert!(error.contains("thread 4 of 8: no more"), "{error}");
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 3, "the pool gives up at once");
        // Every worker holds one of these: only the test's own are left.
        assert_eq!(Arc::strong_count(&seen[0]), 3);
    }

    #[test]
    fn workers_wake_from_sleep() {
        let cpu = Cpu::with_isa(2, Isa::available()[0]);
        std::thread::sleep(std::time::Duration::from_millis(80));
        let done = AtomicUsize::new(0);
        cpu.run(|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }
}
