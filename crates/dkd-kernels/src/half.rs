//! Maps kept in half of the memory: bf16, which is the upper half of an `f32`.
//!
//! Rounding is to nearest, to even in the middle, for every instruction set: results do not depend on the machine. (The
//! instruction that AVX-512 BF16 has for it makes zeros of the smallest numbers, and is no faster where memory is waited for.)

use crate::simd::{Simd, simd_kernel};
use crate::{Isa, LANES};

/// # Safety
/// Both have `n` elements.
#[inline(always)]
unsafe fn expand_body<S: Simd>(from: *const u16, to: *mut f32, n: usize) {
    let whole = n / LANES * LANES;
    // SAFETY: whole vectors below n, then single elements below n.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            S::store(to.add(i), S::load_half(from.add(i)));
        }
        for i in whole..n {
            to.add(i).write(f32::from_bits(u32::from(from.add(i).read()) << 16));
        }
    }
}

/// # Safety
/// Both have `n` elements.
#[inline(always)]
unsafe fn round_body<S: Simd>(from: *const f32, to: *mut u16, n: usize) {
    let whole = n / LANES * LANES;
    // SAFETY: whole vectors below n, then single elements below n.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            S::store_half(to.add(i), S::load(from.add(i)));
        }
        if whole == n {
            return;
        }
        let mut rest = ([0.0; LANES], [0; LANES]);
        for i in whole..n {
            rest.0[i - whole] = from.add(i).read();
        }
        S::store_half(rest.1.as_mut_ptr(), S::load(rest.0.as_ptr()));
        for i in whole..n {
            to.add(i).write(rest.1[i - whole]);
        }
    }
}

simd_kernel!(fn run_expand = expand_body(from: *const u16, to: *mut f32, n: usize));
simd_kernel!(fn run_round = round_body(from: *const f32, to: *mut u16, n: usize));

/// The values of bf16 bits, exactly.
///
/// # Panics
/// The slices differ in length.
pub fn expand(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the lengths agree.
    unsafe { run_expand(isa, from.as_ptr(), to.as_mut_ptr(), to.len()) }
}

/// Bits of the nearest bf16 values: of two as near the one with an even last digit. A NaN stays one.
///
/// # Panics
/// The slices differ in length.
pub fn round(isa: Isa, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the lengths agree.
    unsafe { run_round(isa, from.as_ptr(), to.as_mut_ptr(), to.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(isa: Isa, values: &[f32]) -> Vec<f32> {
        let (mut halves, mut back) = (vec![0; values.len()], vec![0.0; values.len()]);
        round(isa, values, &mut halves);
        expand(isa, &halves, &mut back);
        back
    }

    #[test]
    fn every_half_comes_back_as_it_was() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for isa in Isa::available() {
            let (mut values, mut back) = (vec![0.0; all.len()], vec![0; all.len()]);
            expand(isa, &all, &mut values);
            round(isa, &values, &mut back);
            for ((half, value), back) in all.iter().zip(&values).zip(&back) {
                // A NaN whose digits are lost is made a quiet one.
                let expected = if value.is_nan() { half | 0x40 } else { *half };
                assert_eq!(*back, expected, "{isa}: {half:#x} is {value}");
            }
        }
    }

    #[test]
    fn the_nearest_is_taken_and_of_two_the_even_one() {
        let eps = 1.0 / 128.0; // From 1 to the next value in bf16.
        let cases = [
            (1.0 + 0.49 * eps, 1.0),
            (1.0 + 0.51 * eps, 1.0 + eps),
            (1.0 + 0.5 * eps, 1.0),
            (1.0 + 1.5 * eps, 1.0 + 2.0 * eps),
            (-1.0 - 1.5 * eps, -1.0 - 2.0 * eps),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-0.0, -0.0),
            (f32::from_bits(0x0001_8001), f32::from_bits(0x0002_0000)),
        ];
        let values: Vec<f32> = cases.iter().map(|(value, _)| *value).cycle().take(45).collect();
        for isa in Isa::available() {
            for (i, got) in rounded(isa, &values).into_iter().enumerate() {
                let (value, expected) = cases[i % cases.len()];
                assert_eq!(got.to_bits(), expected.to_bits(), "{isa}: {value:e} became {got:e}");
            }
            assert!(rounded(isa, &[f32::NAN, f32::from_bits(0x7f80_0001)]).iter().all(|v| v.is_nan()));
        }
    }
}
