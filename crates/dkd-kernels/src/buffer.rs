//! Zeroed memory on cache-line boundaries.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const ALIGNMENT: usize = 64;

/// What a buffer may hold: numbers whose bits may all be zero, and then mean 0.
pub trait Number: Copy + Send + Sync + sealed::Sealed {}

impl Number for f32 {}
impl Number for u16 {}

mod sealed {
    /// Keeps [`Number`](super::Number) to types for which memory of zeros is valid.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u16 {}
}

/// A fixed-length buffer of `f32`, or of `u16` for the bits of bf16 values; 64-byte aligned and zeroed when made.
pub struct AlignedBuf<T: Number = f32> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its memory, like a `Box<[T]>`.
unsafe impl<T: Number> Send for AlignedBuf<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Number> Sync for AlignedBuf<T> {}

impl<T: Number> AlignedBuf<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        match NonNull::new(raw.cast::<T>()) {
            Some(start) => Self { start, len },
            None => handle_alloc_error(layout),
        }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).and_then(|l| l.align_to(ALIGNMENT)).expect("a buffer fits the address space")
    }
}

impl<T: Number> Default for AlignedBuf<T> {
    /// An empty buffer, which owns no memory.
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl<T: Number> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeros` with the same layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl<T: Number> Deref for AlignedBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised elements (or is dangling with length 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> std::fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({})", self.len)
    }
}
