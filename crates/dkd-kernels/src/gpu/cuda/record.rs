//! Recorded work: a graph of the driver's.

use super::Inner;
use super::errors::Called;
use super::heap::{Block, Heap};
use crate::gpu::error::Result;
use crate::gpu::machine::Recorded;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use std::any::Any;
use std::ptr;
use std::sync::Arc;

/// The time between the beginning and the end of recording; it ends with this value at the latest.
pub(super) struct Capture<'a> {
    heap: &'a Arc<Heap>,
    open: bool,
}

impl<'a> Capture<'a> {
    pub fn begin(heap: &'a Arc<Heap>) -> Result<Self> {
        let stream = heap.bound()?;
        heap.begin_recording()?;
        // What this crate calls is looked at by itself; cuDNN may load code or get memory of its own while it is recorded.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        let begun = unsafe { result::stream::begin_capture(stream, mode) };
        if begun.is_err() {
            heap.end_recording();
        }
        begun.called("cuStreamBeginCapture")?;
        Ok(Self { heap, open: true })
    }

    /// Ends recording.
    pub fn finish<K>(mut self, kept: K) -> Result<Record<K>> {
        let graph = self.end()?;
        // SAFETY: the graph is whole, and not used any more afterwards.
        let instance = unsafe {
            let instance = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            self.heap.context.record_err(result::graph::destroy(graph));
            instance
        };
        let instance = instance.called("cuGraphInstantiate")?;
        let record = Record { heap: Arc::clone(self.heap), instance, _kept: kept };
        // SAFETY: both are alive. The first launch is then as fast as the others.
        unsafe { result::graph::upload(instance, self.heap.stream.cu_stream()) }.called("cuGraphUpload")?;
        Ok(record)
    }

    fn end(&mut self) -> Result<sys::CUgraph> {
        self.open = false;
        // If this fails, so does what comes next.
        let _ = self.heap.rejoin_all();
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is alive, and it is this thread that has begun.
        let ended = unsafe { sys::cuStreamEndCapture(self.heap.stream.cu_stream(), &raw mut graph) };
        self.heap.end_recording();
        ended.result().called("cuStreamEndCapture")?;
        Ok(graph)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open
            && let Ok(graph) = self.end()
            && !graph.is_null()
        {
            // SAFETY: nobody else has it.
            let _ = unsafe { result::graph::destroy(graph) };
        }
    }
}

/// Whether what was recorded last on a stream is one kernel, and the next that is recorded there follows nothing else. It is not if the driver
/// cannot tell.
pub(super) fn ends_with_a_kernel(stream: sys::CUstream) -> bool {
    const KERNEL: u32 = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL as u32;
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let (mut id, mut graph, mut count) = (0, ptr::null_mut(), 0);
    // Kinds of edges have a place as well: without it the driver would fail if there were any but the usual.
    let (mut nodes, mut edges) = (ptr::null(), ptr::null());
    // SAFETY: the stream is alive; all places are.
    let asked = unsafe {
        sys::cuStreamGetCaptureInfo_v3(
            stream,
            &raw mut status,
            &raw mut id,
            &raw mut graph,
            &raw mut nodes,
            &raw mut edges,
            &raw mut count,
        )
    };
    let active = status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if asked.result().is_err() || !active || count != 1 {
        return false;
    }
    // Not the enumeration: a driver may know more of them.
    let mut kind = u32::MAX;
    // SAFETY: there is one, which lives until the stream is used again.
    let asked = unsafe { sys::cuGraphNodeGetType(*nodes, (&raw mut kind).cast()) };
    asked.result().is_ok() && kind == KERNEL
}

/// What recorded work uses, which is to live as long.
#[derive(Debug)]
pub(super) struct Kept {
    /// The kernels, and cuDNN.
    pub _machine: Arc<Inner>,
    /// Memory for convolutions.
    pub _workspaces: Vec<Arc<Block>>,
    /// All that was given out.
    pub _memory: Vec<Arc<dyn Any + Send + Sync>>,
}

/// A graph that can be launched.
#[derive(Debug)]
pub(super) struct Record<K> {
    heap: Arc<Heap>,
    instance: sys::CUgraphExec,
    /// What it uses.
    _kept: K,
}

// SAFETY: the driver takes a graph from any thread, if from one at a time: replaying needs the heap's stream,
// and `Record` is not `Sync`.
unsafe impl<K: Send> Send for Record<K> {}

impl<K: std::fmt::Debug + Send> Recorded for Record<K> {
    fn replay(&self) -> Result<()> {
        self.heap.not_recording("replay")?;
        let stream = self.heap.bound()?;
        // SAFETY: graph and stream are alive, and what the graph uses is kept.
        unsafe { result::graph::launch(self.instance, stream) }.called("cuGraphLaunch")
    }
}

impl<K> Drop for Record<K> {
    fn drop(&mut self) {
        if self.heap.context.bind_to_thread().is_ok() {
            // SAFETY: nobody else has it; the driver lets a launch that is under way end first.
            let done = unsafe { result::graph::exec_destroy(self.instance) };
            self.heap.context.record_err(done);
        }
    }
}
