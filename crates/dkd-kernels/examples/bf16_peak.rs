//! What AVX-512 BF16 could gain on this machine: `cargo run --release -p dkd-kernels --example bf16_peak`.
//!
//! One thread multiplies and adds in registers only, in f32 and in bf16 with f32 sums. The ratio bounds what kernels in bf16 gain
//! where arithmetic is the limit.
#![allow(unsafe_code, clippy::print_stdout)]

#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    };
    use std::time::Instant;

    const ACCUMULATORS: usize = 24;
    const ROUNDS: usize = 4_000_000;

    /// Operations per nanosecond of `step`, which adds to every accumulator `flops / 16` products per lane.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    unsafe fn rate(flops: usize, step: impl Fn(__m512) -> __m512) -> f64 {
        // SAFETY: the caller's contract.
        let mut sums = unsafe { [_mm512_setzero_ps(); ACCUMULATORS] };
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = step(*sum);
            }
            // SAFETY: an empty instruction; the compiler must not merge the rounds.
            unsafe { asm!("", options(nomem, nostack)) };
        }
        let seconds = start.elapsed().as_secs_f64();
        // SAFETY: the caller's contract.
        let total =
            sums.into_iter().fold(0.0, |t, s| t + unsafe { _mm512_reduce_add_ps(_mm512_add_ps(s, s)) });
        assert!(total > 0.0, "the sums are used");
        (ROUNDS * ACCUMULATORS * flops) as f64 / seconds / 1e9
    }

    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn single() -> f64 {
        let (a, b) = (_mm512_set1_ps(1.0), _mm512_set1_ps(0.5));
        // SAFETY: the function's contract.
        unsafe { rate(32, |sum| _mm512_fmadd_ps(a, b, sum)) }
    }

    /// # Safety
    /// The machine has AVX-512 and its BF16 extension.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn half() -> f64 {
        // Pairs of 1.0 in bf16.
        // SAFETY: both types are 512 bits without invalid patterns.
        let ones: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(0x3f80_3f80)) };
        // SAFETY: the function's contract.
        unsafe { rate(64, |sum| _mm512_dpbf16_ps(sum, ones, ones)) }
    }
}

fn main() {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        for _ in 0..3 {
            // SAFETY: the machine has both, as was just asked.
            let (single, half) = unsafe { (peak::single(), peak::half()) };
            println!("f32 {single:.0} GFLOP/s, bf16 {half:.0} GFLOP/s: {:.2}x", half / single);
        }
        return;
    }
    println!("this machine has no AVX-512 BF16");
}
