//! Memory that is fetched while the processor multiplies.
//!
//! Maps of many channels do not stay in the second-level cache from one step of a network to the next, and a loop that only reads,
//! adds and writes waits for memory most of its time; a convolution does not. So whoever knows what the next image's steps will read
//! and write names it with [`fetch`] before the present image's, and the convolutions' register tiles ask for it line by line.
//! Nothing is computed from it: results are the same bits with and without.

use std::cell::Cell;

/// Slices that are waited for at most; further ones are left to be fetched when they are used.
const RANGES: usize = 16;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What is still to be asked for: addresses, never followed, and lines from there.
#[derive(Clone, Copy)]
struct Queue {
    ranges: [(usize, usize); RANGES],
    next: usize,
    end: usize,
}

impl Queue {
    const EMPTY: Self = Self { ranges: [(0, 0); RANGES], next: 0, end: 0 };
}

thread_local! {
    static QUEUE: Cell<Queue> = const { Cell::new(Queue::EMPTY) };
}

/// Memory that will be read or written soon.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    address: usize,
    lines: usize,
}

impl<T> From<&[T]> for Wanted {
    fn from(slice: &[T]) -> Self {
        Self { address: slice.as_ptr().addr(), lines: size_of_val(slice).div_ceil(LINE) }
    }
}

/// Lets this thread's next convolutions fetch this, and nothing else, into the second-level cache.
///
/// A hint: what the convolutions have not got to by the next call is dropped.
pub fn fetch(wanted: impl IntoIterator<Item = Wanted>) {
    let mut queue = Queue::EMPTY;
    for (range, wanted) in queue.ranges.iter_mut().zip(wanted) {
        *range = (wanted.address, wanted.lines);
        queue.end += 1;
    }
    QUEUE.set(queue);
}

/// The lines that one register tile fetches.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    next: usize,
}

impl Lines {
    /// Lines for a tile of so many iterations, if any are waited for; it may run past the end of what was asked for, by less than a
    /// tile's.
    #[inline]
    pub fn take(iterations: usize) -> Option<Self> {
        let lines = Self::EACH * iterations;
        QUEUE.with(|cell| {
            // SAFETY: the cell is this thread's, and nothing is called while the reference lives.
            let queue = unsafe { &mut *cell.as_ptr() };
            if queue.next == queue.end {
                return None;
            }
            let (address, left) = queue.ranges[queue.next];
            if left <= lines {
                queue.next += 1;
            } else {
                queue.ranges[queue.next] = (address + lines * LINE, left - lines);
            }
            Some(Self { next: address })
        })
    }

    /// Lines of an iteration: one would not bring the maps of a grouped convolution in time.
    const EACH: usize = 2;

    /// Asks for the lines of one iteration.
    #[inline(always)]
    pub fn fetch<S: crate::simd::Simd>(&mut self) {
        for line in 0..Self::EACH {
            // SAFETY: a hint, without effect for addresses that are not mapped; the machine has `S`.
            unsafe { S::prefetch(std::ptr::without_provenance(self.next + line * LINE)) };
        }
        self.next = self.next.wrapping_add(Self::EACH * LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LANES;

    /// The addresses from which tiles of `iterations` fetch, until nothing is left.
    fn all(iterations: usize) -> Vec<usize> {
        std::iter::from_fn(|| Lines::take(iterations).map(|lines| lines.next)).collect()
    }

    #[test]
    fn tiles_take_what_was_named_in_its_order() {
        let (a, b) = (vec![0.0_f32; 100 * LANES], vec![0.0_f32; 10 * LANES]);
        fetch([Wanted::from(&a[..]), Wanted::from(&b[..])]);
        let start = a.as_ptr().addr();
        let expected: Vec<usize> = (0..4).map(|tile| start + tile * 30 * LINE).collect();
        assert_eq!(all(15), [expected, vec![b.as_ptr().addr()]].concat());
    }

    #[test]
    fn a_new_list_replaces_the_old_one_and_is_bounded() {
        let values = [0.0_f32; LANES];
        fetch([Wanted::from(&values[..]); 3 * RANGES]);
        assert_eq!(all(1).len(), RANGES);
        fetch([Wanted::from(&values[..]); 3]);
        fetch([]);
        assert!(Lines::take(1).is_none());
    }
}
