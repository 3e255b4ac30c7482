//! Branches of a recorded step, on streams beside the first.

use super::errors::Called;
use super::heap::Heap;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::mem;
use std::sync::Arc;

/// At most as many streams work together, the first one counted; more branches share them in turn. A table of the replication has 12 rows.
pub(super) const STREAMS: usize = 16;

/// A stream beside the first.
#[derive(Debug)]
pub(super) struct Lane {
    pub stream: Arc<CudaStream>,
    /// What one stream waits for of another.
    event: CudaEvent,
}

impl Lane {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let stream = context.new_stream().called("cuStreamCreate")?;
        Ok(Self { stream, event: context.new_event(None).called("cuEventCreate")? })
    }

    /// What is called on the lane from now on comes after what was called on `first`.
    pub fn fork(&self, first: &CudaStream) -> Result<()> {
        self.event.record(first).called("cuEventRecord")?;
        self.stream.wait(&self.event).called("cuStreamWaitEvent")
    }

    /// What is called on `first` from now on comes after what was called on the lane.
    pub fn join(&self, first: &CudaStream) -> Result<()> {
        self.event.record(&self.stream).called("cuEventRecord")?;
        first.wait(&self.event).called("cuStreamWaitEvent")
    }
}

/// So many at most are aside that nobody waits for yet.
const ASIDES: usize = 8;

/// Work aside, all on one stream: when each is done.
#[derive(Debug, Default)]
pub(super) struct Asides {
    events: Vec<CudaEvent>,
    /// How many there were, and of how many the first stream waits.
    begun: usize,
    joined: usize,
}

impl Asides {
    /// Its number, from 1 on, and whether `first` waits for something from now on.
    pub fn begin(&mut self, context: &Arc<CudaContext>, first: &CudaStream) -> Result<(usize, bool)> {
        while self.events.len() < ASIDES {
            self.events.push(context.new_event(None).called("cuEventCreate")?);
        }
        // That one's event is used again.
        let waits = self.rejoin(first, (self.begun + 1).saturating_sub(ASIDES))?;
        self.begun += 1;
        Ok((self.begun, waits))
    }

    /// The last one is complete on the lane.
    pub fn end(&mut self, lane: &CudaStream) -> Result<()> {
        self.events[self.begun % ASIDES].record(lane).called("cuEventRecord")
    }

    /// What is called on `first` from now on comes after that number and those before it; whether it did not already.
    pub fn rejoin(&mut self, first: &CudaStream, number: usize) -> Result<bool> {
        let number = number.min(self.begun);
        if number <= self.joined {
            return Ok(false);
        }
        self.joined = number;
        first.wait(&self.events[number % ASIDES]).called("cuStreamWaitEvent")?;
        Ok(true)
    }
}

/// The time of branches. It ends with this value at the latest: whatever has happened then, the lanes are joined, without which recording
/// could not be ended.
pub(super) struct Branches<'a> {
    heap: &'a Heap,
    /// Those that have to be joined.
    lanes: Vec<Arc<Lane>>,
}

impl<'a> Branches<'a> {
    /// Of `n` branches; while a step is recorded, on several streams.
    pub fn begin(heap: &'a Heap, n: usize) -> Result<Self> {
        if n > 1 {
            heap.rejoin(usize::MAX)?;
        }
        let lanes = heap.begin_branches(n)?;
        let mut branches = Self { heap, lanes: Vec::new() };
        for lane in lanes {
            lane.fork(&heap.stream)?;
            branches.lanes.push(lane);
        }
        Ok(branches)
    }

    /// What is called from now on belongs to branch `i`.
    pub fn enter(&self, i: usize) {
        self.heap.choose_lane(i % (self.lanes.len() + 1));
    }

    /// What is called from now on comes after all branches.
    pub fn finish(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let mut joined = Ok(());
        for lane in mem::take(&mut self.lanes) {
            // The others are tried as well.
            joined = joined.and(lane.join(&self.heap.stream));
        }
        joined
    }
}

impl Drop for Branches<'_> {
    fn drop(&mut self) {
        // If this fails the driver tells it again when recording ends.
        let _ = self.join();
        self.heap.end_branches();
    }
}
