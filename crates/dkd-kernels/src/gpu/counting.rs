//! A machine that only counts: what it would take in memory, before anything is taken, and what would be called.

use super::convolution::{Convolution, Epilogue, Fused, Pass};
use super::error::Result;
use super::launch::Launch;
use super::machine::{Machine, Recorded};
use super::memory::{Memory, View};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// In a row, and aside.
    calls: [AtomicU64; 2],
    aside: AtomicBool,
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

    /// Calls that would be work of the device's: those that follow each other, and those [aside](Machine::aside).
    pub fn calls(&self) -> [u64; 2] {
        self.counts.calls.each_ref().map(|calls| calls.load(Ordering::Relaxed))
    }

    fn called(&self) -> Result<()> {
        let aside = usize::from(self.counts.aside.load(Ordering::Relaxed));
        self.counts.calls[aside].fetch_add(1, Ordering::Relaxed);
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
        self.called()
    }

    fn clear(&self, _: &View) -> Result<()> {
        self.called()
    }

    unsafe fn launch(&self, _: &Launch<'_>) -> Result<()> {
        self.called()
    }

    fn prepare(&self, _: Pass, _: &Convolution) -> Result<bool> {
        Ok(true)
    }

    unsafe fn convolve(&self, _: Pass, _: &Convolution, _: [&View; 3], _: bool) -> Result<()> {
        self.called()
    }

    fn prepare_fused(&self, _: &Convolution, _: Epilogue) -> Result<bool> {
        Ok(true)
    }

    unsafe fn convolve_fused(&self, _: &Convolution, _: Epilogue, _: &Fused<'_>) -> Result<()> {
        self.called()
    }

    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recorded>> {
        Ok(Box::new(Nothing))
    }

    fn prepare_branches(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn branches(&self, n: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        (0..n).try_for_each(work)
    }

    fn aside(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        self.counts.aside.store(true, Ordering::Relaxed);
        let done = work();
        self.counts.aside.store(false, Ordering::Relaxed);
        done.map(|()| 0)
    }

    fn rejoin(&self, _: usize) -> Result<()> {
        Ok(())
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
        let view = machine.zeros(crate::gpu::Element::F32, 4).unwrap();
        machine.clear(&view).unwrap();
        machine.aside(&mut || machine.clear(&view).and_then(|()| machine.clear(&view))).unwrap();
        machine.copy(&view, &view).unwrap();
        assert_eq!(machine.calls(), [2, 2]);
    }
}
