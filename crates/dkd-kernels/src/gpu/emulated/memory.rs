//! Memory of this computer.

use crate::gpu::memory::Memory;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

/// As cudaMalloc gives it.
const ALIGNMENT: usize = 256;

struct Block {
    address: u64,
    layout: Layout,
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.address as *mut u8, self.layout) };
    }
}

/// `bytes` zeros.
pub(super) fn zeros(bytes: usize) -> Memory {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("sizes of memory that exists");
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        handle_alloc_error(layout);
    }
    let address = start as u64;
    Memory::new(address, bytes, Arc::new(Block { address, layout }))
}
