//! Dropout whose mask is recomputed, never stored.

use crate::rng::Stream;
use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES};

/// Blocks of four random words drawn at a time: one per lane, so that the compiler makes vectors of them.
const CHUNK: usize = 4 * LANES;

/// # Safety
/// `x` and `y` hold `n` elements.
#[inline(always)]
unsafe fn body<S: Simd>(
    stream: &Stream,
    threshold: u32,
    scale: f32,
    x: *const f32,
    y: *mut f32,
    n: usize,
    accumulate: bool,
) {
    let _ = S::ACCUMULATORS;
    let mut start = 0;
    while start < n {
        let mut words = [[0_u32; 4]; LANES];
        for (i, w) in words.iter_mut().enumerate() {
            *w = stream.block((start / 4 + i) as u32);
        }
        for (i, word) in words.as_flattened().iter().enumerate().take(n - start) {
            let factor = if *word >= threshold { scale } else { 0.0 };
            // SAFETY: start + i < n.
            unsafe {
                let value = *x.add(start + i) * factor;
                let to = y.add(start + i);
                *to = if accumulate { *to + value } else { value };
            }
        }
        start += CHUNK;
    }
}

simd_kernel!(fn run = body(stream: &Stream, threshold: u32, scale: f32, x: *const f32, y: *mut f32, n: usize, accumulate: bool));

/// y = x * mask / (1 - p), where element i is dropped if word i of the stream is below p * 2^32; `y +=` with
/// `accumulate`. The same call on gradients is the backward pass.
///
/// # Panics
/// If the slices differ in length or p is not in [0, 1).
pub fn dropout(isa: Isa, stream: &Stream, p: f32, x: &[f32], y: &mut [f32], accumulate: bool) {
    assert!(x.len() == y.len() && (0.0..1.0).contains(&p));
    let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
    // SAFETY: both slices hold `x.len()` elements.
    unsafe { run(isa, stream, threshold, 1.0 / (1.0 - p), x.as_ptr(), y.as_mut_ptr(), x.len(), accumulate) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn masks_are_the_streams_words() {
        let stream = Stream::new(5, Purpose::Dropout, 2, 9);
        let x: Vec<f32> = (0..1003).map(|i| i as f32 + 1.0).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            dropout(isa, &stream, 0.25, &x, &mut y, false);
            dropout(isa, &stream, 0.25, &x, &mut y, true);
            for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                let keep = stream.word(i as u64) >= 1 << 30;
                assert_eq!(*y, if keep { 2.0 * x * (1.0 / 0.75) } else { 0.0 });
            }
            let kept = y.iter().filter(|v| **v != 0.0).count();
            assert!((700..800).contains(&kept), "{kept}");
        }
    }
}
