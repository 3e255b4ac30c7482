//! Memory of a machine, and pieces of it.

use super::error::{GpuError, Result};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
#[cfg(any(feature = "cuda", feature = "emulated"))]
use std::sync::{Mutex, PoisonError, Weak};

/// Type of the numbers in a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floating point.
    F32,
    /// The upper half of an `f32`.
    Bf16,
    /// 64-bit floating point.
    F64,
    /// Bytes.
    U8,
    /// 32-bit integers.
    U32,
    /// 64-bit integers.
    U64,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 | Self::U64 => 8,
        }
    }
}

/// Memory of a machine, zero when it is given out; it goes back with the last copy of this handle.
#[derive(Clone)]
pub struct Memory {
    address: u64,
    bytes: usize,
    _owner: Owner,
}

/// What gives a piece of memory back when it is dropped.
type Owner = Arc<dyn Any + Send + Sync>;

/// All memory of a machine that is alive.
///
/// Recorded work knows addresses only. So a record holds all memory there was when it was made: nothing that it could touch goes
/// back before it does.
#[cfg(any(feature = "cuda", feature = "emulated"))]
#[derive(Default)]
pub(crate) struct Registry(Mutex<Vec<Known>>);

#[cfg(any(feature = "cuda", feature = "emulated"))]
struct Known {
    owner: Weak<dyn Any + Send + Sync>,
    #[cfg(feature = "emulated")]
    place: [u64; 2],
}

#[cfg(any(feature = "cuda", feature = "emulated"))]
impl Registry {
    /// Notes memory that was given out.
    pub fn add(&self, memory: &Memory) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.owner.strong_count() > 0);
        all.push(Known {
            owner: Arc::downgrade(&memory._owner),
            #[cfg(feature = "emulated")]
            place: [memory.address, memory.bytes as u64],
        });
    }

    /// Everything that is alive, and stays so.
    pub fn hold(&self) -> Vec<Arc<dyn Any + Send + Sync>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|known| known.owner.upgrade()).collect()
    }

    /// Addresses and sizes of all that is alive, in their order.
    #[cfg(feature = "emulated")]
    pub fn places(&self) -> Vec<[u64; 2]> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = all.iter().filter(|known| known.owner.strong_count() > 0);
        let mut places: Vec<_> = alive.map(|known| known.place).collect();
        places.sort_unstable();
        places
    }
}

#[cfg(any(feature = "cuda", feature = "emulated"))]
impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("address", &self.address).field("bytes", &self.bytes).finish()
    }
}

impl Memory {
    /// The memory at `address`, which lives as long as `owner`.
    pub(crate) fn new(address: u64, bytes: usize, owner: Owner) -> Self {
        Self { address, bytes, _owner: owner }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `len` numbers from byte `offset` on.
    ///
    /// # Errors
    /// They lie not inside, or not on a multiple of their size.
    pub fn view(&self, element: Element, offset: usize, len: usize) -> Result<View> {
        let size = element.bytes();
        let end = len.checked_mul(size).and_then(|bytes| bytes.checked_add(offset));
        if !offset.is_multiple_of(size) || end.is_none_or(|end| end > self.bytes) {
            let message =
                format!("{len} {element:?} from byte {offset} on are not inside {} bytes", self.bytes);
            return Err(GpuError::Shape { operation: "view", message });
        }
        Ok(View { address: self.address + offset as u64, len, element, _memory: self.clone() })
    }
}

/// Numbers in a machine's memory.
#[derive(Clone, Debug)]
pub struct View {
    address: u64,
    len: usize,
    element: Element,
    _memory: Memory,
}

impl View {
    /// Their number.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Their type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.len * self.element.bytes()
    }

    /// Some of them.
    ///
    /// # Errors
    /// There are not as many.
    pub fn part(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len {
            let message = format!("{range:?} of {} numbers", self.len);
            return Err(GpuError::Shape { operation: "part", message });
        }
        let address = self.address + (range.start * self.element.bytes()) as u64;
        Ok(Self { address, len: range.len(), ..self.clone() })
    }

    /// The first `len` of them.
    ///
    /// # Errors
    /// There are not as many.
    pub fn first(&self, len: usize) -> Result<Self> {
        self.part(0..len)
    }

    /// Where they lie.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Whether one byte is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |view: &Self| view.address + view.bytes() as u64;
        self.address < end(other) && other.address < end(self)
    }
}
