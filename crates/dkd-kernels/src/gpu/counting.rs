//! A machine that only counts: what it would take in memory, before anything is taken, and what would be called.

use super::convolution::{Convolution, Epilogue, Fused, Pass};
use super::error::Result;
use super::launch::Launch;
use super::machine::{Machine, Recorded};
use super::memory::{Memory, View};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gives out memory that is not there, and does nothing: whatever is made on it says by [`Counting::most`] how much it needs, and by
/// [`Counting::calls`] how much it does.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: AtomicU64,
    most: AtomicU64,
    work: Mutex<Work>,
}

/// Calls that would be work of a device's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Those that follow each other.
    pub in_row: u64,
    /// Those [aside](Machine::aside) and [beside](Machine::beside).
    pub aside: u64,
    /// Kernels of ours in the row that come right after another one, a convolution taken for one, with nothing between that they wait for.
    pub after_kernels: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Call {
    Kernel,
    Convolution,
    Other,
}

#[derive(Debug, Default)]
struct Work {
    calls: Calls,
    /// Whether calls are aside; how many times they were, and up to which all have rejoined.
    is_aside: bool,
    begun: usize,
    joined: usize,
    /// Whether the last call in the row was a kernel or a convolution.
    kernel: bool,
    /// Bytes of the largest input, weights, output and addend of all convolutions that were prepared.
    operands: [usize; 4],
}

/// Memory that was given out.
struct Counted {
    counts: Arc<Counts>,
    bytes: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// As devices do.
const GRAIN: u64 = 512;

impl Counting {
    /// The most bytes that were given out at once.
    pub fn most(&self) -> u64 {
        self.counts.most.load(Ordering::Relaxed)
    }

    /// Bytes of the operands with which a device tries convolutions, beside all that was given out.
    pub fn tried(&self) -> u64 {
        self.work().operands.iter().sum::<usize>() as u64
    }

    /// Notes a convolution's operands.
    fn operands(&self, convolution: &Convolution, is_added: bool) {
        let size = convolution.arithmetic.element().bytes();
        let [x, weight, y] = convolution.lengths().map(|len| len * size);
        let mut work = self.work();
        for (most, bytes) in work.operands.iter_mut().zip([x, weight, y, if is_added { y } else { 0 }]) {
            *most = bytes.max(*most);
        }
    }

    /// All calls so far; those that are recorded count once, however often they are replayed.
    pub fn calls(&self) -> Calls {
        self.work().calls
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.counts.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self, call: Call) -> Result<()> {
        let mut work = self.work();
        if work.is_aside {
            work.calls.aside += 1;
        } else {
            work.calls.in_row += 1;
            work.calls.after_kernels += u64::from(call == Call::Kernel && work.kernel);
            work.kernel = call != Call::Other;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Nothing;

impl Recorded for Nothing {
    fn replay(&self) -> Result<()> {
        Ok(())
    }
}

impl Machine for Counting {
    fn name(&self) -> String {
        "a machine that only counts".to_owned()
    }

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        let size = (bytes.max(1) as u64).next_multiple_of(GRAIN);
        let now = self.counts.now.fetch_add(size, Ordering::Relaxed) + size;
        self.counts.most.fetch_max(now, Ordering::Relaxed);
        let owner = Counted { counts: Arc::clone(&self.counts), bytes: size };
        // Nothing reads or writes there. Places differ, so that what is apart does not overlap.
        static NEXT: AtomicU64 = AtomicU64::new(GRAIN);
        Ok(Memory::new(NEXT.fetch_add(size, Ordering::Relaxed), bytes, Arc::new(owner)))
    }

    fn free_memory(&self) -> Result<(u64, u64)> {
        Ok((u64::MAX, u64::MAX))
    }

    fn write(&self, _: &View, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: &View, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, _: &View, _: &View) -> Result<()> {
        self.called(Call::Other)
    }

    fn clear(&self, _: &View) -> Result<()> {
        self.called(Call::Other)
    }

    unsafe fn launch(&self, _: &Launch<'_>) -> Result<()> {
        self.called(Call::Kernel)
    }

    fn prepare(&self, _: Pass, convolution: &Convolution) -> Result<bool> {
        self.operands(convolution, false);
        Ok(true)
    }

    unsafe fn convolve(&self, _: Pass, _: &Convolution, _: [&View; 3], _: bool) -> Result<()> {
        self.called(Call::Convolution)
    }

    fn prepare_fused(&self, convolution: &Convolution, epilogue: Epilogue) -> Result<bool> {
        self.operands(convolution, epilogue.addend);
        Ok(true)
    }

    unsafe fn convolve_fused(&self, _: &Convolution, _: Epilogue, _: &Fused<'_>) -> Result<()> {
        self.called(Call::Convolution)
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>> {
        work()?;
        Ok(Box::new(Nothing))
    }

    fn prepare_branches(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn branches(&self, n: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        (0..n).try_for_each(work)
    }

    fn aside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        let number = {
            let mut state = self.work();
            state.is_aside = true;
            state.begun += 1;
            state.begun
        };
        let done = work();
        self.work().is_aside = false;
        done.map(|()| number)
    }

    fn rejoin(&self, number: usize) -> Result<()> {
        let mut work = self.work();
        let number = number.min(work.begun);
        if number > work.joined {
            (work.joined, work.kernel) = (number, false);
        }
        Ok(())
    }

    fn beside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        {
            let mut state = self.work();
            (state.is_aside, state.kernel) = (true, false);
        }
        let done = work();
        self.work().is_aside = false;
        done
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(feature = "candle")]
impl super::TensorMachine for Counting {
    fn device(&self) -> &candle_core::Device {
        &candle_core::Device::Cpu
    }

    fn write_own(&self, _: &View, _: &candle_core::Tensor) -> Result<()> {
        Ok(())
    }

    fn read_own(&self, _: &candle_core::Tensor, _: &View) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::convolution::Arithmetic;
    use crate::gpu::memory::Element;
    use crate::gpu::pointwise::{Pointwise, pointwise};

    #[test]
    fn the_most_at_once_counts() {
        let machine = Counting::default();
        let a = machine.alloc(1000).unwrap();
        drop(machine.alloc(5000).unwrap());
        let b = machine.alloc(1).unwrap();
        assert_eq!(machine.most(), 1024 + 5120);
        drop((a, b));
        drop(machine.alloc(10_000).unwrap());
        assert_eq!(machine.most(), 10_240);
    }

    #[test]
    fn calls_are_counted_where_they_are() {
        let machine = Counting::default();
        let view = machine.zeros(Element::F32, 4).unwrap();
        machine.clear(&view).unwrap();
        machine.aside(&mut || machine.clear(&view).and_then(|()| machine.clear(&view))).unwrap();
        machine.copy(&view, &view).unwrap();
        assert_eq!(machine.calls(), Calls { in_row: 2, aside: 2, after_kernels: 0 });
    }

    #[test]
    fn kernels_right_after_others_are_counted() {
        let machine = Counting::default();
        let view = machine.zeros(Element::F32, 4).unwrap();
        let kernel = || pointwise(&machine, Pointwise::Relu, &view, None, &view, false);
        let count = |work: &dyn Fn() -> Result<()>| {
            let before = machine.calls().after_kernels;
            work().unwrap();
            machine.calls().after_kernels - before
        };
        assert_eq!(count(&|| kernel().and_then(|()| kernel()).and_then(|()| kernel())), 2);
        assert_eq!(count(&|| machine.clear(&view).and_then(|()| kernel())), 0);
        // What is called aside comes from here, which changes nothing here, and is waited for once.
        let aside = || machine.aside(&mut || kernel().and_then(|()| kernel())).map(|_| ());
        assert_eq!(count(&|| aside().and_then(|()| kernel()).and_then(|()| kernel())), 2);
        assert_eq!(count(&|| machine.rejoin(1).and_then(|()| kernel()).and_then(|()| kernel())), 1);
        assert_eq!(count(&|| machine.rejoin(1).and_then(|()| kernel())), 1);
    }
    #[test]
    fn convolutions_are_tried_with_the_largest_operands() {
        let convolution = |images: usize, channels: usize| Convolution {
            images,
            input: (4, 4, channels),
            output: (4, 4, 8),
            kernel: (3, 3),
            stride: (1, 1),
            padding: (1, 1),
            groups: 1,
            arithmetic: Arithmetic::F32,
        };
        let machine = Counting::default();
        machine.prepare(Pass::Forward, &convolution(2, 16)).unwrap();
        let (x, weights, y) = (2 * 16 * 16, 9 * 16 * 8, 2 * 16 * 8);
        assert_eq!(machine.tried(), 4 * (x + weights + y));
        machine.prepare(Pass::WeightGradient, &convolution(4, 8)).unwrap();
        assert_eq!(machine.tried(), 4 * (x + weights + 2 * y));
        machine.prepare_fused(&convolution(1, 8), Epilogue { addend: true, relu: true }).unwrap();
        assert_eq!(machine.tried(), 4 * (x + weights + 2 * y + y / 2));
        assert_eq!(machine.most(), 0);
    }
}
