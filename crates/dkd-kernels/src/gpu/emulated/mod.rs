//! The CPU in the place of a GPU: for tests, and slow.

mod compile;
mod convolve;
mod memory;
mod record;
mod sanitizer;
#[cfg(feature = "candle")]
mod tensors;
#[cfg(test)]
mod tests;
mod touched;

use super::convolution::{Convolution, Epilogue, Fused, Pass};
use super::error::{GpuError, Result, check};
use super::launch::Launch;
use super::machine::{Machine, Recorded};
use super::memory::{Memory, Registry, View};
use super::source;
use compile::{Compiled, Launched};
use convolve::After;
use record::{Parts, Record};
use std::sync::{Arc, Mutex, PoisonError};
use touched::Touched;

/// If this is in the environment, kernels are looked at: see [`Emulated`].
const SANITIZE: &str = "DKD_SANITIZE";

/// Runs the kernels' text, compiled by the C++ compiler of this computer (`CXX`, else `c++`), block by block and thread by thread.
///
/// It is strict where a GPU is not: a kernel whose threads wait for each other must be launched as such, the parameters' sizes are
/// compared with those in the text, and nothing that cannot be part of a recorded step is let through while one is recorded. Branches of a
/// recorded step are done one after the other, and what is called aside or beside is done at once.
///
/// With `DKD_SANITIZE` in the environment it also looks at every access of every thread, which makes it many times slower. Errors are then: two
/// threads that use the same byte, one of them to write, with no barrier between them; reading and writing outside of all memory; shared
/// memory that is read before it is written; addresses that are no multiple of what is read there; indices outside of an array; numbers
/// that do not fit into an integer; branches of a recorded step of which one writes what another uses.
#[derive(Clone, Debug)]
pub struct Emulated {
    inner: Arc<Inner>,
    /// Bytes that it says are free.
    free: u64,
    /// Whether it computes convolutions as a library does.
    library: bool,
}

#[derive(Debug)]
struct Inner {
    compiled: Compiled,
    /// Whether blocks and threads take their turns from the last to the first.
    backwards: bool,
    state: Mutex<State>,
    memory: Registry,
}

#[derive(Debug, Default)]
struct State {
    /// What has been recorded, while a step is.
    recording: Option<Parts>,
    /// Whether branches have begun.
    branching: bool,
    /// As many branches were prepared for.
    prepared: usize,
}

/// Work that can be recorded.
#[derive(Clone, Debug)]
enum Call {
    Launch {
        kernel: &'static str,
        parameters: Vec<u64>,
        bytes: usize,
        grid: [u32; 3],
        block: [u32; 3],
        barriers: bool,
    },
    Convolve {
        pass: Pass,
        convolution: Convolution,
        operands: [u64; 3],
        after: After,
    },
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    Clear {
        to: u64,
        bytes: usize,
    },
}

impl Emulated {
    /// Compiles the kernels, unless that was done before on this computer.
    ///
    /// # Errors
    /// There is no C++ compiler ([`GpuError::NoDevice`]); the text is wrong.
    pub fn new() -> Result<Self> {
        Self::in_order(false)
    }

    /// The same with blocks and threads in the opposite order, branches from the last to the first and what is called aside as late as is
    /// allowed, at every second replay call by call in turns: that must not change any result.
    ///
    /// # Errors
    /// As [`Emulated::new`].
    pub fn backwards() -> Result<Self> {
        Self::in_order(true)
    }

    /// The same machine, which says that so many bytes are free.
    #[must_use]
    pub fn with_memory(self, free: u64) -> Self {
        Self { free, ..self }
    }

    /// The same machine without a library that computes convolutions: all are left to kernels.
    #[must_use]
    pub fn without_library(self) -> Self {
        Self { library: false, ..self }
    }

    fn in_order(backwards: bool) -> Result<Self> {
        let sanitized = std::env::var_os(SANITIZE).is_some();
        Self::of(&source::kernels(), backwards, sanitized)
    }

    fn of(text: &str, backwards: bool, sanitized: bool) -> Result<Self> {
        let compiled = Compiled::new(text, sanitized)?;
        Ok(Self {
            inner: Arc::new(Inner {
                compiled,
                backwards,
                state: Mutex::default(),
                memory: Registry::default(),
            }),
            free: u64::MAX,
            library: true,
        })
    }
}

impl Inner {
    /// Notes `call` if a step is recorded, else makes it.
    ///
    /// # Safety
    /// What the call reads and writes is alive, now or when it is replayed.
    unsafe fn note_or_do(&self, call: Call) -> Result<()> {
        if let Some(parts) = self.state().recording.as_mut() {
            parts.note(call);
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.make(&call, None) }
    }

    /// Makes a call; what it uses is added to `touched`, if kernels are looked at.
    ///
    /// # Safety
    /// What the call reads and writes is alive.
    unsafe fn make(&self, call: &Call, mut touched: Option<&mut Vec<Touched>>) -> Result<()> {
        if let Some(touched) = &mut touched {
            touched.extend(touched::of(call));
        }
        // SAFETY: the caller's.
        unsafe {
            match call {
                Call::Launch { kernel, parameters, bytes, grid, block, barriers } => {
                    let launched = Launched {
                        kernel,
                        parameters,
                        bytes: *bytes,
                        grid: *grid,
                        block: *block,
                        barriers: *barriers,
                        backwards: self.backwards,
                    };
                    self.compiled.run(&launched, || self.memory.places(), touched)
                }
                Call::Convolve { pass, convolution, operands, after } => {
                    convolve::convolve(*pass, convolution, *operands, *after);
                    Ok(())
                }
                Call::Copy { from, to, bytes } => {
                    std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes);
                    Ok(())
                }
                Call::Clear { to, bytes } => {
                    (*to as *mut u8).write_bytes(0, *bytes);
                    Ok(())
                }
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_recording(&self, what: &'static str) -> Result<()> {
        if self.state().recording.is_some() { Err(GpuError::Recording(what)) } else { Ok(()) }
    }
}

impl Machine for Emulated {
    fn name(&self) -> String {
        "the CPU in the place of a GPU".to_owned()
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.inner.not_recording("alloc")?;
        let memory = memory::zeros(bytes);
        self.inner.memory.add(&memory);
        Ok(memory)
    }

    fn free_memory(&self) -> Result<(u64, u64)> {
        Ok((self.free, self.free))
    }

    fn write(&self, to: &View, bytes: &[u8]) -> Result<()> {
        self.inner.not_recording("write")?;
        check("write", to.bytes() == bytes.len(), || format!("{} bytes to {}", bytes.len(), to.bytes()))?;
        // SAFETY: the view is inside its memory, which nobody holds a reference to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address() as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: &View, bytes: &mut [u8]) -> Result<()> {
        self.inner.not_recording("read")?;
        check("read", from.bytes() == bytes.len(), || {
            format!("{} bytes from {}", bytes.len(), from.bytes())
        })?;
        // SAFETY: as for `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(from.address() as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    fn copy(&self, from: &View, to: &View) -> Result<()> {
        let same = from.len() == to.len() && from.element() == to.element() && !from.overlaps(to);
        check("copy", same, || {
            format!("{} {:?} to {} {:?}", from.len(), from.element(), to.len(), to.element())
        })?;
        let call = Call::Copy { from: from.address(), to: to.address(), bytes: from.bytes() };
        // SAFETY: both views are inside their memories, and apart.
        unsafe { self.inner.note_or_do(call) }
    }

    fn clear(&self, view: &View) -> Result<()> {
        // SAFETY: the view is inside its memory.
        unsafe { self.inner.note_or_do(Call::Clear { to: view.address(), bytes: view.bytes() }) }
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let bytes = launch.parameters.len();
        let mut parameters = vec![0_u64; bytes.div_ceil(8)];
        // SAFETY: there are at least as many bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(launch.parameters.as_ptr(), parameters.as_mut_ptr().cast(), bytes);
        }
        let Launch { kernel, grid, block, barriers, .. } = *launch;
        // SAFETY: the caller's.
        unsafe { self.inner.note_or_do(Call::Launch { kernel, parameters, bytes, grid, block, barriers }) }
    }

    fn prepare(&self, _: Pass, _: &Convolution) -> Result<bool> {
        self.inner.not_recording("prepare")?;
        Ok(self.library)
    }

    unsafe fn convolve(
        &self,
        pass: Pass,
        convolution: &Convolution,
        operands: [&View; 3],
        accumulate: bool,
    ) -> Result<()> {
        if !self.library {
            return Err(GpuError::no_library(format_args!("{pass}: {convolution}")));
        }
        let operands = operands.map(View::address);
        let after = if accumulate { After::Added } else { After::Stored };
        // SAFETY: the caller's.
        unsafe { self.inner.note_or_do(Call::Convolve { pass, convolution: *convolution, operands, after }) }
    }

    fn prepare_fused(&self, _: &Convolution, _: Epilogue) -> Result<bool> {
        self.inner.not_recording("prepare_fused")?;
        Ok(self.library)
    }

    unsafe fn convolve_fused(
        &self,
        convolution: &Convolution,
        epilogue: Epilogue,
        fused: &Fused<'_>,
    ) -> Result<()> {
        let (pass, operands) = (Pass::Forward, fused.operands.map(View::address));
        if !self.library {
            return Err(GpuError::no_library(format_args!("{pass}, {epilogue}: {convolution}")));
        }
        let after = After::Normalized {
            scale: fused.scale.address(),
            shift: fused.shift.address(),
            addend: fused.addend.map(View::address),
            relu: epilogue.relu,
        };
        // SAFETY: the caller's.
        unsafe { self.inner.note_or_do(Call::Convolve { pass, convolution: *convolution, operands, after }) }
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>> {
        self.inner.not_recording("record")?;
        // Before the work, which may drop some of it.
        let memory = self.inner.memory.hold();
        self.inner.state().recording = Some(Parts::default());
        let done = work();
        let parts = self.inner.state().recording.take().unwrap_or_default();
        done?;
        Ok(Box::new(Record::new(Arc::clone(&self.inner), parts, memory)))
    }

    fn prepare_branches(&self, n: usize) -> Result<()> {
        self.inner.not_recording("prepare_branches")?;
        let mut state = self.inner.state();
        state.prepared = state.prepared.max(n);
        Ok(())
    }

    fn branches(&self, n: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let mut state = self.inner.state();
        if state.branching || state.recording.as_ref().is_some_and(Parts::is_beside) {
            return Err(GpuError::NESTED);
        }
        if n < 2 {
            drop(state);
            return (0..n).try_for_each(work);
        }
        if state.recording.is_some() && n > state.prepared {
            return Err(GpuError::UNPREPARED);
        }
        state.branching = true;
        drop(state);
        let done = (0..n).try_for_each(|i| {
            if let Some(parts) = &mut self.inner.state().recording {
                parts.begin_branch(i);
            }
            work(i)
        });
        let mut state = self.inner.state();
        state.branching = false;
        if let Some(parts) = &mut state.recording {
            parts.end_branches();
        }
        done
    }

    fn aside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        let number = {
            let mut state = self.inner.state();
            let apart = !state.branching && state.prepared >= 2;
            state.recording.as_mut().filter(|_| apart).and_then(Parts::begin_aside)
        };
        let done = work();
        if number.is_some()
            && let Some(parts) = &mut self.inner.state().recording
        {
            parts.end_aside();
        }
        done.map(|()| number.unwrap_or(0))
    }

    fn rejoin(&self, number: usize) -> Result<()> {
        if let Some(parts) = &mut self.inner.state().recording {
            parts.rejoin(number);
        }
        Ok(())
    }

    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let begun = {
            let mut state = self.inner.state();
            let apart = !state.branching && state.prepared >= 3;
            state.recording.as_mut().filter(|_| apart).is_some_and(Parts::begin_beside)
        };
        let done = work();
        if begun && let Some(parts) = &mut self.inner.state().recording {
            parts.end_beside();
        }
        done
    }

    fn wait(&self) -> Result<()> {
        self.inner.not_recording("wait")
    }
}
