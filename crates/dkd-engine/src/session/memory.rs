//! The memory that a plan computes in, for one session or for several that take turns.

use super::Precision;
use super::group::{Group, Worker};
use super::windows::Windows;
use crate::graph::Graph;
use crate::plan::{Plan, Purpose};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

/// What the layout of the memory follows from: sessions that agree in it can share.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub graph: Graph,
    pub taps: Vec<String>,
    pub max_batch: usize,
    pub threads: usize,
    pub precision: Precision,
}

/// Intermediate values, their gradients and scratch memory, shared by sessions that take turns: students of a cohort, for example.
///
/// Sessions made with the same `SharedMemory` ([`Session::sharing`](super::Session::sharing)), for the same graph, taps, batch size
/// and number of threads, compute in the same memory: eight of them take little more than one, and find it in the processor's
/// caches. Weights, statistics and what losses see remain each session's own. A forward pass in training mode takes the memory
/// over: a [`backward`](super::Session::backward) of the session that had it before is an error from then on.
#[derive(Clone, Debug, Default)]
pub struct SharedMemory(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    key: Key,
    purpose: Purpose,
    memory: Weak<Memory>,
}

impl SharedMemory {
    /// The memory for `key`, which `make` makes if no session holds it.
    pub(super) fn get(&self, key: &Key, purpose: Purpose, make: impl FnOnce() -> Memory) -> Arc<Memory> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.memory.strong_count() > 0);
        let same = entries.iter().find(|entry| entry.purpose == purpose && entry.key == *key);
        if let Some(memory) = same.and_then(|entry| entry.memory.upgrade()) {
            return memory;
        }
        let memory = Arc::new(make());
        entries.push(Entry { key: key.clone(), purpose, memory: Arc::downgrade(&memory) });
        memory
    }
}

/// The memory of one plan.
#[derive(Debug)]
pub(super) struct Memory {
    pub groups: Vec<RwLock<Group>>,
    pub workers: Vec<Mutex<Worker>>,
    /// Images that a group can hold.
    pub capacity: usize,
    /// Held while a pass runs.
    turn: Mutex<()>,
    /// Number of the forward pass whose values it holds.
    batch: AtomicU64,
}

impl Memory {
    /// For so many groups of `capacity` images, with `moments` sums of the forward pass each.
    pub fn new(
        plan: &Plan,
        windows: Option<&Windows>,
        groups: usize,
        capacity: usize,
        moments: usize,
        threads: usize,
    ) -> Self {
        let group = || RwLock::new(Group::new(plan, windows, capacity, moments));
        Self {
            groups: (0..groups).map(|_| group()).collect(),
            workers: (0..threads).map(|_| Mutex::new(Worker::new(plan, windows, capacity))).collect(),
            capacity,
            turn: Mutex::new(()),
            batch: AtomicU64::new(0),
        }
    }

    /// Waits until no other session's pass runs.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a forward pass that overwrites what is there.
    pub fn begin(&self) -> u64 {
        self.batch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether it still holds the values of forward pass number `batch`.
    pub fn holds(&self, batch: u64) -> bool {
        self.batch.load(Ordering::Relaxed) == batch
    }
}
