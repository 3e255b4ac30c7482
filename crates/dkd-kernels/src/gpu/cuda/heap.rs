//! The device's memory, and pinned memory on the way there.

use super::branches::{Asides, Lane, STREAMS};
use super::errors::Called;
use super::record::ends_with_a_kernel;
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::ffi::c_void;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The stream of all work and those for branches, whether work is being recorded, and what has to wait until it is not.
#[derive(Debug)]
pub(super) struct Heap {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recording: bool,
    /// Whether branches have begun.
    branching: bool,
    /// As many branches were prepared for.
    prepared: usize,
    /// Streams beside the first one that may be used.
    lanes: Vec<Arc<Lane>>,
    /// The one that is used, from 1 on; 0 is the first stream.
    lane: usize,
    /// Work aside, which is on the first lane.
    aside: Asides,
    /// The stream of what is beside all else that is recorded, by its number.
    beside: Option<usize>,
    /// The stream whose last call was a kernel, if nothing has been called since.
    kernel: Option<Last>,
    /// That of the first stream, while something is called aside.
    before_aside: Option<Last>,
    /// Which kernels of ours may begin ahead of their time, and which were recorded so since recording began last.
    ahead: Ahead,
    used: Ahead,
    /// Memory to be freed: the driver forbids that while it records.
    late: Vec<sys::CUdeviceptr>,
}

/// Which kernels of recorded steps may begin ahead of their time: see `in_turn` in their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ahead {
    #[default]
    None,
    /// Those that follow another one of ours.
    OfOwn,
    /// Those that follow a library's, too.
    OfAll,
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "kernels begin when the one before has ended",
            Self::OfOwn => "kernels begin ahead of each other's end, but not of a convolution's",
            Self::OfAll => "kernels begin ahead of the end of the one before",
        })
    }
}

/// The kernel that was called last.
#[derive(Clone, Copy, Debug)]
struct Last {
    lane: usize,
    /// What it takes to begin ahead of its end.
    ahead: Ahead,
}

/// Memory of the device.
#[derive(Debug)]
pub(super) struct Block {
    heap: Arc<Heap>,
    pub address: sys::CUdeviceptr,
    pub bytes: usize,
}

impl State {
    /// The one that is used, `first` or a lane's.
    fn stream(&self, first: &CudaStream) -> sys::CUstream {
        let lane = self.lane.checked_sub(1).and_then(|i| self.lanes.get(i));
        lane.map_or(first, |lane| &lane.stream).cu_stream()
    }
}

impl Heap {
    pub fn new(stream: Arc<CudaStream>) -> Self {
        Self { context: Arc::clone(stream.context()), stream, state: Mutex::default() }
    }

    /// The driver's handle of the stream, in a branch its own, with the context made this thread's.
    pub fn bound(&self) -> Result<sys::CUstream> {
        self.context.bind_to_thread().called("cuCtxSetCurrent")?;
        let mut state = self.state();
        state.kernel = None;
        Ok(state.stream(&self.stream))
    }

    /// The same for a kernel of ours; and whether it may begin ahead of its time: it is recorded right after another one, and waits for nothing
    /// else.
    pub fn bound_for_kernel(&self) -> Result<(sys::CUstream, bool)> {
        self.context.bind_to_thread().called("cuCtxSetCurrent")?;
        let mut state = self.state();
        let lane = state.lane;
        let before = state.kernel.replace(Last { lane, ahead: Ahead::OfOwn });
        let follows = before.filter(|last| last.lane == lane && state.recording && last.ahead <= state.ahead);
        state.used = state.used.max(follows.map_or(Ahead::None, |last| last.ahead));
        Ok((state.stream(&self.stream), follows.is_some()))
    }

    /// Notes that a library has been called: it may have ended with a kernel.
    pub fn library_called(&self) {
        let mut state = self.state();
        if state.recording && state.ahead == Ahead::OfAll && ends_with_a_kernel(state.stream(&self.stream)) {
            state.kernel = Some(Last { lane: state.lane, ahead: Ahead::OfAll });
        }
    }

    /// Says which kernels that are recorded from now on may begin ahead of their time.
    pub fn set_ahead(&self, ahead: Ahead) {
        self.state().ahead = ahead;
    }

    /// Which may, and which were recorded so since recording began last.
    pub fn ahead(&self) -> (Ahead, Ahead) {
        let state = self.state();
        (state.ahead, state.used)
    }

    /// Which stream that is: 0 outside of branches.
    pub fn lane(&self) -> usize {
        self.state().lane
    }

    pub fn choose_lane(&self, lane: usize) {
        let mut state = self.state();
        (state.lane, state.kernel) = (lane, None);
    }

    /// Notes that so many branches will be recorded.
    pub fn prepare_branches(&self, n: usize) {
        let mut state = self.state();
        state.prepared = state.prepared.max(n);
    }

    /// How many streams beside the first one are wanted.
    pub fn wanted_lanes(&self) -> usize {
        self.state().prepared.clamp(1, STREAMS) - 1
    }

    /// Says which streams branches may use.
    pub fn set_lanes(&self, lanes: Vec<Arc<Lane>>) {
        self.state().lanes = lanes;
    }

    /// Notes that `n` branches begin, and gives the streams beside the first one on which they are to be recorded.
    pub fn begin_branches(&self, n: usize) -> Result<Vec<Arc<Lane>>> {
        let mut state = self.state();
        if state.branching || state.lane != 0 {
            return Err(GpuError::NESTED);
        }
        if state.recording && n > state.prepared {
            return Err(GpuError::UNPREPARED);
        }
        // One alone is as if there were none.
        state.branching = n > 1;
        let free = state.lanes.len() - usize::from(state.beside.is_some());
        let used = if state.recording { n.saturating_sub(1).min(free) } else { 0 };
        Ok(state.lanes.iter().take(used).cloned().collect())
    }

    pub fn end_branches(&self) {
        let mut state = self.state();
        state.branching = false;
        (state.lane, state.kernel) = (0, None);
    }

    /// Takes what is called from now on to another stream, if there is one and nothing speaks against it: then the number that it has.
    pub fn begin_aside(&self) -> Result<Option<usize>> {
        let mut state = self.state();
        let apart = state.recording && !state.branching && state.lane == 0;
        let Some(lane) = state.lanes.first().filter(|_| apart).cloned() else { return Ok(None) };
        lane.fork(&self.stream)?;
        let (number, waits) = state.aside.begin(&self.context, &self.stream)?;
        state.before_aside = state.kernel.take().filter(|_| !waits);
        state.lane = 1;
        Ok(Some(number))
    }

    pub fn end_aside(&self) -> Result<()> {
        let mut state = self.state();
        // What comes now does not follow what is aside.
        (state.lane, state.kernel) = (0, state.before_aside.take());
        let State { lanes, aside, .. } = &mut *state;
        lanes.first().map_or(Ok(()), |lane| aside.end(&lane.stream))
    }

    /// Takes what is called from now on to a stream that nothing waits for, if there is one and nothing speaks against it.
    pub fn begin_beside(&self) -> Result<bool> {
        let mut state = self.state();
        let apart = state.recording && !state.branching && state.lane == 0 && state.beside.is_none();
        let State { lanes, aside, .. } = &mut *state;
        // The first is for what is aside.
        let Some(lane) = lanes.get(1..).and_then(<[_]>::last).filter(|_| apart) else { return Ok(false) };
        aside.rejoin(&self.stream, usize::MAX)?;
        lane.fork(&self.stream)?;
        let number = state.lanes.len();
        (state.lane, state.beside, state.kernel) = (number, Some(number), None);
        Ok(true)
    }

    pub fn end_beside(&self) {
        let mut state = self.state();
        (state.lane, state.kernel) = (0, None);
    }

    /// Lets the first stream wait for all that was called aside or beside.
    pub fn rejoin_all(&self) -> Result<()> {
        let aside = self.rejoin(usize::MAX);
        let mut state = self.state();
        let beside = state.beside.take().and_then(|number| state.lanes.get(number - 1));
        aside.and(beside.map_or(Ok(()), |lane| lane.join(&self.stream)))
    }

    /// Lets the first stream wait for what was called aside under this number, and before.
    pub fn rejoin(&self, number: usize) -> Result<()> {
        let mut state = self.state();
        if state.aside.rejoin(&self.stream, number)? {
            (state.kernel, state.before_aside) = (None, None);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn recording(&self) -> bool {
        self.state().recording
    }

    /// Fails while a step is recorded.
    pub fn not_recording(&self, what: &'static str) -> Result<()> {
        if self.recording() { Err(GpuError::Recording(what)) } else { Ok(()) }
    }

    /// Notes that recording begins, unless it has.
    pub fn begin_recording(&self) -> Result<()> {
        let mut state = self.state();
        (state.kernel, state.before_aside, state.beside) = (None, None, None);
        state.used = Ahead::None;
        if mem::replace(&mut state.recording, true) {
            return Err(GpuError::Recording("record"));
        }
        Ok(())
    }

    pub fn end_recording(&self) {
        let late = {
            let mut state = self.state();
            state.recording = false;
            mem::take(&mut state.late)
        };
        late.into_iter().for_each(|address| self.free(address));
    }

    fn free(&self, address: sys::CUdeviceptr) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the address came from `cuMemAlloc`, and nobody else frees it; the driver waits for work
            // that uses it.
            let done = unsafe { result::free_sync(address) };
            // Nobody is there to tell now; the next call reports it.
            self.context.record_err(done);
        }
    }

    /// Memory of zeros.
    pub fn zeros(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let stream = self.bound()?;
        // Nothing is more than nothing for the driver.
        let asked = bytes.max(1);
        // SAFETY: it is set to zero before anything reads it.
        let allocate = || unsafe { result::malloc_sync(asked) };
        let address = match allocate() {
            // candle's tensors go back to a pool that keeps them until the stream has been waited for.
            Err(e) if exhausted(&e) => {
                self.stream.synchronize().called("cuStreamSynchronize")?;
                allocate()
            }
            other => other,
        };
        let address = match address {
            Err(e) if exhausted(&e) => {
                let (free, total) = self.free_memory()?;
                return Err(GpuError::OutOfMemory { asked: asked as u64, free, total });
            }
            other => other.called("cuMemAlloc")?,
        };
        let block = Block { heap: Arc::clone(self), address, bytes };
        // SAFETY: the memory is as large.
        unsafe { result::memset_d8_async(address, 0, asked, stream) }.called("cuMemsetD8Async")?;
        Ok(block)
    }

    pub fn free_memory(&self) -> Result<(u64, u64)> {
        let (free, total) = self.context.mem_get_info().called("cuMemGetInfo")?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.heap.state();
        if state.recording {
            state.late.push(self.address);
            return;
        }
        drop(state);
        self.heap.free(self.address);
    }
}

fn exhausted(e: &DriverError) -> bool {
    e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Bytes of one piece of memory for what is on its way to the device, and the number of pieces.
const PIECE: usize = 4 << 20;
const PIECES: usize = 4;
/// What is written next begins on a multiple of this.
const ALIGNMENT: usize = 16;

/// Pinned memory through which everything is written, so that the driver never waits for the stream. It is a ring: one waits for the device
/// only where a piece is still on its way that was filled a whole ring ago, and not for every few numbers that a step is told.
#[derive(Debug)]
pub(super) struct Staging {
    heap: Arc<Heap>,
    pieces: Vec<Piece>,
    /// The piece that is filled at present, and how far.
    current: usize,
    used: usize,
}

#[derive(Debug)]
struct Piece {
    start: *mut u8,
    /// When all copies are done that were under way when the next piece's turn came.
    done: sys::CUevent,
}

// SAFETY: the pointers are the driver's, which takes them from any thread; the memory is used by one thread
// at a time.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new(heap: Arc<Heap>) -> Self {
        Self { heap, pieces: Vec::new(), current: 0, used: 0 }
    }

    /// Copies `bytes` to the device: they are taken when this returns.
    ///
    /// # Safety
    /// There are as many bytes at `to`.
    pub unsafe fn write(&mut self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        let stream = self.heap.bound()?;
        while self.pieces.len() < PIECES {
            self.pieces.push(Piece::new()?);
        }
        let mut written = 0;
        while written < bytes.len() {
            if self.used == PIECE {
                self.turn(stream)?;
            }
            let part = &bytes[written..bytes.len().min(written + PIECE - self.used)];
            // SAFETY: the part ends inside the piece, no copy reads there any more, and there is room at `to`: the caller's.
            unsafe {
                let start = self.pieces[self.current].start.add(self.used);
                std::ptr::copy_nonoverlapping(part.as_ptr(), start, part.len());
                let from = std::slice::from_raw_parts(start, part.len());
                result::memcpy_htod_async(to + written as u64, from, stream).called("cuMemcpyHtoDAsync")?;
            }
            written += part.len();
            self.used = (self.used + part.len()).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    /// Begins with the next piece, once nothing reads it any more.
    fn turn(&mut self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the events are alive.
        unsafe {
            result::event::record(self.pieces[self.current].done, stream).called("cuEventRecord")?;
            self.current = (self.current + 1) % PIECES;
            result::event::synchronize(self.pieces[self.current].done).called("cuEventSynchronize")?;
        }
        self.used = 0;
        Ok(())
    }
}

impl Piece {
    /// The context is this thread's.
    fn new() -> Result<Self> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let done = result::event::create(flags).called("cuEventCreate")?;
        // SAFETY: the memory is written before it is read.
        match unsafe { result::malloc_host(PIECE, 0) }.called("cuMemHostAlloc") {
            Ok(start) => Ok(Self { start: start.cast(), done }),
            Err(e) => {
                // SAFETY: the event was made above and is used nowhere.
                let _ = unsafe { result::event::destroy(done) };
                Err(e)
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.heap.context.bind_to_thread().is_err() {
            return;
        }
        let _ = self.heap.stream.synchronize();
        for piece in self.pieces.drain(..) {
            // SAFETY: memory and event were made by `Piece::new`, and all copies are done.
            unsafe {
                let _ = result::free_host(piece.start.cast::<c_void>());
                let _ = result::event::destroy(piece.done);
            }
        }
    }
}
