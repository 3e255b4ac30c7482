//! One launch of a kernel.

use super::error::Result;
use super::machine::Machine;
use super::memory::{Element, View};

/// Parameters of a kernel: the twin of a structure in its text.
///
/// # Safety
/// `#[repr(C)]`, made of `u64`, `u32`, `f64` and `f32` only, without padding.
pub(crate) unsafe trait Parameters: Copy {}

/// A kernel, how many threads run it, and what they are told.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name in the text.
    pub kernel: &'static str,
    /// The structure it takes, as bytes.
    pub parameters: &'a [u8],
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Whether threads of a block wait for each other.
    pub barriers: bool,
}

/// A kernel's names by the type of its maps.
pub(crate) struct MapKernel {
    pub f32: &'static str,
    pub bf16: &'static str,
}

impl MapKernel {
    /// The name for maps of this type; maps are of no other than these two.
    pub fn of(&self, element: Element) -> &'static str {
        if element == Element::Bf16 { self.bf16 } else { self.f32 }
    }
}

/// The names that `MAP_KERNEL` makes in the text.
macro_rules! map_kernel {
    ($name:literal) => {
        $crate::gpu::launch::MapKernel { f32: concat!($name, "_f32"), bf16: concat!($name, "_bf16") }
    };
}
pub(crate) use map_kernel;

/// Threads of a block, at most: the text says so to the compiler (`__launch_bounds__`).
const MOST_THREADS: u32 = 256;

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    pub grid: [u32; 3],
    pub block: [u32; 3],
}

impl Threads {
    /// One thread for each of `n`, in blocks of 256.
    pub fn each(n: usize) -> Self {
        Self { grid: [n.div_ceil(256) as u32, 1, 1], block: [256, 1, 1] }
    }
}

/// Launches a kernel whose threads do not wait for each other; nothing happens if there are no blocks.
///
/// # Safety
/// All that the kernel reads and writes with these parameters lies inside memory of `machine` that is alive.
pub(crate) unsafe fn launch<P: Parameters>(
    machine: &dyn Machine,
    kernel: &'static str,
    parameters: &P,
    threads: Threads,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { run(machine, kernel, parameters, threads, false) }
}

/// The same, for a kernel whose threads wait for each other.
///
/// # Safety
/// As for [`launch`].
pub(crate) unsafe fn launch_blocks<P: Parameters>(
    machine: &dyn Machine,
    kernel: &'static str,
    parameters: &P,
    threads: Threads,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { run(machine, kernel, parameters, threads, true) }
}

unsafe fn run<P: Parameters>(
    machine: &dyn Machine,
    kernel: &'static str,
    parameters: &P,
    Threads { grid, block }: Threads,
    barriers: bool,
) -> Result<()> {
    if grid.contains(&0) || block.contains(&0) {
        return Ok(());
    }
    debug_assert!(block.iter().product::<u32>() <= MOST_THREADS, "{kernel}: a block of {block:?} threads");
    // SAFETY: parameters are plain numbers without padding.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(parameters).cast(), size_of::<P>()) };
    // SAFETY: the caller's.
    unsafe { machine.launch(&Launch { kernel, parameters: bytes, grid, block, barriers }) }
}

/// The address of what may be absent.
pub(crate) fn address(view: Option<&View>) -> u64 {
    view.map_or(0, View::address)
}
