//! The machine's multiply-add peak, measured: what kernel speeds are compared with.

use crate::Cpu;
use crate::simd::{Simd, simd_kernel};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

const CHAINS: usize = 12;
const ROUNDS: usize = 400_000;

/// # Safety
/// The machine has `S`.
#[inline(always)]
unsafe fn chains<S: Simd>(out: &mut [f32; 16]) {
    // SAFETY: no memory but `out` is touched.
    unsafe {
        let (m, k) = (S::splat(std::hint::black_box(0.999)), S::splat(std::hint::black_box(1e-3)));
        let mut acc = [S::splat(1e-9); CHAINS];
        for _ in 0..ROUNDS {
            for a in &mut acc {
                *a = S::fma(*a, m, k);
            }
        }
        let mut sum = acc[0];
        for a in &acc[1..] {
            sum = S::add(sum, *a);
        }
        S::store(out.as_mut_ptr(), sum);
    }
}

simd_kernel!(fn run_chains = chains(out: &mut [f32; 16]));

/// Multiply-add peak in GFLOP/s of all the pool's threads together, with its instruction set: independent chains in
/// registers, best of five tries of a few milliseconds.
pub fn fma_peak(cpu: &Cpu) -> f64 {
    let best = Mutex::new(vec![0.0_f64; cpu.threads()]);
    for _ in 0..5 {
        cpu.run(|thread| {
            let mut out = [0.0; 16];
            let start = Instant::now();
            // SAFETY: `out` holds one vector.
            unsafe { run_chains(cpu.isa(), &mut out) }
            std::hint::black_box(out);
            let rate = (2 * 16 * CHAINS * ROUNDS) as f64 / start.elapsed().as_secs_f64() / 1e9;
            let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
            best[thread] = best[thread].max(rate);
        });
    }
    best.into_inner().unwrap_or_else(PoisonError::into_inner).iter().sum()
}
