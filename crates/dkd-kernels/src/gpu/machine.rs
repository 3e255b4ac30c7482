//! What runs kernels.

use super::convolution::{Convolution, Epilogue, Fused, Pass};
use super::error::{GpuError, Result};
use super::launch::Launch;
use super::memory::{Element, Memory, View};
use std::fmt;

/// Work that was recorded by [`Machine::record`]; it keeps all memory alive that there was then.
pub trait Recorded: fmt::Debug + Send {
    /// Does it once more, in order with everything else on the machine.
    ///
    /// # Errors
    /// The driver's.
    fn replay(&self) -> Result<()>;
}

/// Records the calls that `work` makes, as [`Machine::record`] does, where the work has errors of its own.
///
/// # Errors
/// `work`'s; the machine's.
pub fn record<E: From<GpuError> + fmt::Display>(
    machine: &dyn Machine,
    work: &mut dyn FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<Box<dyn Recorded>, E> {
    with_own_errors(|failed| {
        machine.record(&mut || {
            // It may be called again after it has failed.
            *failed = None;
            noted(work(), failed)
        })
    })
}

/// Makes the calls of pieces of work that do not depend on each other, as [`Machine::branches`] does, where they have errors of their own.
///
/// # Errors
/// `work`'s; the machine's.
pub fn branches<E: From<GpuError> + fmt::Display>(
    machine: &dyn Machine,
    n: usize,
    work: &mut dyn FnMut(usize) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    with_own_errors(|failed| machine.branches(n, &mut |i| noted(work(i), failed)))
}

/// Makes calls that nothing waits for, as [`Machine::aside`] does, where the work has errors of its own.
///
/// # Errors
/// `work`'s; the machine's.
pub fn aside<E: From<GpuError> + fmt::Display>(
    machine: &dyn Machine,
    work: &mut dyn FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<usize, E> {
    with_own_errors(|failed| machine.aside(&mut || noted(work(), failed)))
}

/// Makes calls that nothing waits for up to the end of a recording, as [`Machine::beside`] does, where the work has errors of its own.
///
/// # Errors
/// `work`'s; the machine's.
pub fn beside<E: From<GpuError> + fmt::Display>(
    machine: &dyn Machine,
    work: &mut dyn FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    with_own_errors(|failed| machine.beside(&mut || noted(work(), failed)))
}

/// What `run` gives, or the error that [`noted`] has kept meanwhile.
fn with_own_errors<T, E: From<GpuError> + fmt::Display>(
    run: impl FnOnce(&mut Option<E>) -> Result<T>,
) -> std::result::Result<T, E> {
    let mut failed = None;
    let done = run(&mut failed);
    match failed {
        Some(e) => Err(e),
        None => Ok(done?),
    }
}

/// Keeps an error: a machine knows its own only.
fn noted<E: fmt::Display>(done: std::result::Result<(), E>, failed: &mut Option<E>) -> Result<()> {
    done.map_err(|e| {
        let text = e.to_string();
        *failed = Some(e);
        GpuError::Within(text)
    })
}

/// Something that has memory and runs kernels in it, one after the other in the order of the calls.
///
/// Implemented by this crate only. Calls return before their work is done, except for [`Machine::read`] and [`Machine::wait`].
pub trait Machine: fmt::Debug + Send + Sync {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Memory of `bytes` zeros, on a multiple of 256.
    ///
    /// # Errors
    /// There is not enough; a step is being recorded.
    fn alloc(&self, bytes: usize) -> Result<Memory>;

    /// Memory for `n` numbers of one type, all 0.
    ///
    /// # Errors
    /// As [`Machine::alloc`].
    fn zeros(&self, element: Element, n: usize) -> Result<View> {
        self.alloc(n * element.bytes())?.view(element, 0, n)
    }

    /// Bytes that are free, and all.
    ///
    /// # Errors
    /// The driver's.
    fn free_memory(&self) -> Result<(u64, u64)>;

    /// Writes bytes; they are taken before the call returns.
    ///
    /// # Errors
    /// Another number of bytes; a step is being recorded.
    fn write(&self, to: &View, bytes: &[u8]) -> Result<()>;

    /// Reads bytes, after all work before.
    ///
    /// # Errors
    /// Another number of bytes; a step is being recorded.
    fn read(&self, from: &View, bytes: &mut [u8]) -> Result<()>;

    /// Writes numbers in f32, as [`Machine::write`].
    ///
    /// # Errors
    /// The same.
    fn write_floats(&self, to: &View, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write(to, &bytes)
    }

    /// Reads numbers in f32, as [`Machine::read`].
    ///
    /// # Errors
    /// A step is being recorded.
    fn read_floats(&self, from: &View) -> Result<Vec<f32>> {
        let mut bytes = vec![0; from.bytes()];
        self.read(from, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Copies numbers of one type from one place to another; may be recorded.
    ///
    /// # Errors
    /// They differ in length or type, or overlap.
    fn copy(&self, from: &View, to: &View) -> Result<()>;

    /// Sets every byte to 0; may be recorded.
    ///
    /// # Errors
    /// The driver's.
    fn clear(&self, view: &View) -> Result<()>;

    /// Runs a kernel.
    ///
    /// # Safety
    /// All that it reads and writes lies inside memory of this machine that is alive.
    ///
    /// # Errors
    /// There is no such kernel; the driver's.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// Gets ready for a convolution: it must be called before one is recorded, and may take a while. Whether [`Machine::convolve`] computes
    /// it; if not, [`super::grouped::run`] does, in any number of groups.
    ///
    /// # Errors
    /// A step is being recorded; the driver's.
    fn prepare(&self, pass: Pass, convolution: &Convolution) -> Result<bool>;

    /// What computes a convolution that [`Machine::prepare`] has got ready for, for people, if it is a library that has names for that.
    fn algorithm(&self, _pass: Pass, _convolution: &Convolution) -> Option<String> {
        None
    }

    /// A convolution's output, or one of its gradients, from the other two of `x`, `weight` and `y`: see [`Pass`]. With `accumulate` it is added
    /// to what is there, which only gradients of `x` can be.
    ///
    /// # Safety
    /// The views are inside memory of this machine, with the lengths and the type that `convolution` says.
    ///
    /// # Errors
    /// The machine does not compute it: see [`Machine::prepare`]; the driver's.
    unsafe fn convolve(
        &self,
        pass: Pass,
        convolution: &Convolution,
        operands: [&View; 3],
        accumulate: bool,
    ) -> Result<()>;

    /// Gets ready for a convolution's forward pass with what follows it: it must be called before one is recorded, and may take a second, as
    /// libraries compile for it. Whether [`Machine::convolve_fused`] computes it.
    ///
    /// # Errors
    /// A step is being recorded; the driver's.
    fn prepare_fused(&self, convolution: &Convolution, epilogue: Epilogue) -> Result<bool>;

    /// What computes such a pass, as [`Machine::algorithm`].
    fn fused_algorithm(&self, _convolution: &Convolution, _epilogue: Epilogue) -> Option<String> {
        None
    }

    /// A convolution's output with what follows it: see [`Epilogue`].
    ///
    /// # Safety
    /// The views are inside memory of this machine, with the lengths and types that `convolution` and `epilogue` say; the output is apart from
    /// the others.
    ///
    /// # Errors
    /// The machine does not compute it: see [`Machine::prepare_fused`]; the driver's.
    unsafe fn convolve_fused(
        &self,
        convolution: &Convolution,
        epilogue: Epilogue,
        fused: &Fused<'_>,
    ) -> Result<()>;

    /// Records the calls that `work` makes, without their being done. If it fails, it may be called again, and must make the same calls then.
    ///
    /// # Errors
    /// `work`'s; one is being recorded already.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>>;

    /// Gets ready for `n` branches: it must be called before as many are recorded.
    ///
    /// # Errors
    /// A step is being recorded.
    fn prepare_branches(&self, n: usize) -> Result<()>;

    /// Makes the calls of `n` pieces of work that do not depend on each other, `work(0)` to `work(n - 1)`: none of them writes what another
    /// reads or writes. All that was called before is done before any of it, all of it before what is called afterwards.
    ///
    /// While a step is recorded they become branches, which may be done at the same time when it is replayed. Outside of a recording one
    /// follows the other. One alone is no branch.
    ///
    /// # Errors
    /// `work`'s, and what comes after it is not called; it is called within a branch; a step is being recorded, and
    /// [`Machine::prepare_branches`] was not called for as many ([`GpuError::Branches`]).
    fn branches(&self, n: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<()>;

    /// Makes calls that come after all before, while those called afterwards do not wait for them until [`Machine::rejoin`]: what they write
    /// is neither read nor written by others up to there, and what they read is not written. Those of the next one follow them.
    ///
    /// While a step is recorded, outside of branches, and if [`Machine::prepare_branches`] was called for 2, they may be done at the same time as
    /// what comes afterwards when it is replayed; else they are calls like others. The result is a number for [`Machine::rejoin`].
    ///
    /// # Errors
    /// `work`'s.
    fn aside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<usize>;

    /// What is called from now on comes after what was called [aside](Machine::aside) under this number, and before; `usize::MAX` means all. So do
    /// branches, and the end of a recording.
    ///
    /// # Errors
    /// The driver's.
    fn rejoin(&self, number: usize) -> Result<()>;

    /// Makes calls that come after all before, while nothing that is called afterwards waits for them up to the end of the recording: what they
    /// write is neither read nor written by others up to there, and what they read is not written.
    ///
    /// While a step is recorded, outside of branches and with nothing [aside](Machine::aside), once, and if [`Machine::prepare_branches`] was
    /// called for at least 3, they may be done at the same time as all that comes afterwards when it is replayed; else they are calls like
    /// others. There are no branches within.
    ///
    /// # Errors
    /// `work`'s.
    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// Waits until everything is done.
    ///
    /// # Errors
    /// An earlier call has failed meanwhile.
    fn wait(&self) -> Result<()>;
}
