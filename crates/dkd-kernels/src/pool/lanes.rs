//! Vector operations that only pooling needs: a maximum that remembers its place, and a sum over chosen places.

use crate::LANES;
use crate::simd::{Portable, Simd};

/// Vectors that carry one small number (a position in the window) per lane.
///
/// # Safety
/// As for [`Simd`]; byte pointers are valid for [`LANES`] bytes.
pub(super) trait PoolLanes: Simd {
    /// One number below 256 per lane.
    type Index: Copy;
    unsafe fn index(value: usize) -> Self::Index;
    unsafe fn store_index(to: *mut u8, index: Self::Index);
    /// `(x, at)` in lanes where x > best or x is NaN, else `(best, best_at)`: NaN wins, and stays unless another comes.
    unsafe fn larger(
        best: Self::V,
        best_at: Self::Index,
        x: Self::V,
        at: Self::Index,
    ) -> (Self::V, Self::Index);
    /// `sum + value` in lanes whose byte equals `at`.
    unsafe fn add_where(sum: Self::V, bytes: *const u8, at: Self::Index, value: Self::V) -> Self::V;
}

// SAFETY (all of this impl): only the byte pointers are used for access; their callers pass LANES bytes.
#[allow(clippy::undocumented_unsafe_blocks)]
impl PoolLanes for Portable {
    type Index = [u8; LANES];
    #[inline(always)]
    unsafe fn index(value: usize) -> Self::Index {
        [value as u8; LANES]
    }
    #[inline(always)]
    unsafe fn store_index(to: *mut u8, index: Self::Index) {
        unsafe { to.cast::<Self::Index>().write_unaligned(index) }
    }
    #[inline(always)]
    unsafe fn larger(
        best: Self::V,
        best_at: Self::Index,
        x: Self::V,
        at: Self::Index,
    ) -> (Self::V, Self::Index) {
        let wins = |i: usize| x[i] > best[i] || x[i].is_nan();
        (
            std::array::from_fn(|i| if wins(i) { x[i] } else { best[i] }),
            std::array::from_fn(|i| if wins(i) { at[i] } else { best_at[i] }),
        )
    }
    #[inline(always)]
    unsafe fn add_where(sum: Self::V, bytes: *const u8, at: Self::Index, value: Self::V) -> Self::V {
        let bytes = unsafe { bytes.cast::<Self::Index>().read_unaligned() };
        // Bits instead of a branch: this form becomes vector code.
        let here = |i: usize| u32::from(bytes[i] == at[i]).wrapping_neg();
        std::array::from_fn(|i| sum[i] + f32::from_bits(value[i].to_bits() & here(i)))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::PoolLanes;
    use crate::simd::{Avx2, Avx512};
    use std::arch::x86_64::{
        __m256i, __m512i, _CMP_GT_OQ, _CMP_UNORD_Q, _mm_loadl_epi64, _mm_loadu_si128, _mm_packus_epi16,
        _mm_storeu_si128, _mm256_add_ps, _mm256_and_ps, _mm256_blendv_epi8, _mm256_blendv_ps,
        _mm256_castps_si256, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cmpeq_epi32,
        _mm256_cvtepu8_epi32, _mm256_extracti128_si256, _mm256_or_ps, _mm256_packs_epi32,
        _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm512_cmp_ps_mask, _mm512_cmpeq_epi32_mask,
        _mm512_cvtepi32_epi8, _mm512_cvtepu8_epi32, _mm512_mask_add_ps, _mm512_mask_blend_epi32,
        _mm512_mask_blend_ps, _mm512_set1_epi32,
    };

    // SAFETY (all of this impl): the caller of a trait function has the instructions and valid pointers.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl PoolLanes for Avx512 {
        type Index = __m512i;
        #[inline(always)]
        unsafe fn index(value: usize) -> __m512i {
            unsafe { _mm512_set1_epi32(value as i32) }
        }
        #[inline(always)]
        unsafe fn store_index(to: *mut u8, index: __m512i) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(index)) }
        }
        #[inline(always)]
        unsafe fn larger(best: Self::V, best_at: __m512i, x: Self::V, at: __m512i) -> (Self::V, __m512i) {
            unsafe {
                let wins =
                    _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, best) | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                (_mm512_mask_blend_ps(wins, best, x), _mm512_mask_blend_epi32(wins, best_at, at))
            }
        }
        #[inline(always)]
        unsafe fn add_where(sum: Self::V, bytes: *const u8, at: __m512i, value: Self::V) -> Self::V {
            unsafe {
                let found = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast()));
                _mm512_mask_add_ps(sum, _mm512_cmpeq_epi32_mask(found, at), sum, value)
            }
        }
    }

    // SAFETY (all of this impl): the caller of a trait function has the instructions and valid pointers.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl PoolLanes for Avx2 {
        type Index = [__m256i; 2];
        #[inline(always)]
        unsafe fn index(value: usize) -> Self::Index {
            unsafe { [_mm256_set1_epi32(value as i32); 2] }
        }
        #[inline(always)]
        unsafe fn store_index(to: *mut u8, index: Self::Index) {
            unsafe {
                // Packing works within 128-bit halves; the permutation puts the quarters back in order.
                let words = _mm256_packs_epi32(index[0], index[1]);
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let bytes =
                    _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(to.cast(), bytes);
            }
        }
        #[inline(always)]
        unsafe fn larger(
            best: Self::V,
            best_at: Self::Index,
            x: Self::V,
            at: Self::Index,
        ) -> (Self::V, Self::Index) {
            unsafe {
                let wins = [
                    _mm256_or_ps(
                        _mm256_cmp_ps::<_CMP_GT_OQ>(x[0], best[0]),
                        _mm256_cmp_ps::<_CMP_UNORD_Q>(x[0], x[0]),
                    ),
                    _mm256_or_ps(
                        _mm256_cmp_ps::<_CMP_GT_OQ>(x[1], best[1]),
                        _mm256_cmp_ps::<_CMP_UNORD_Q>(x[1], x[1]),
                    ),
                ];
                (
                    [_mm256_blendv_ps(best[0], x[0], wins[0]), _mm256_blendv_ps(best[1], x[1], wins[1])],
                    [
                        _mm256_blendv_epi8(best_at[0], at[0], _mm256_castps_si256(wins[0])),
                        _mm256_blendv_epi8(best_at[1], at[1], _mm256_castps_si256(wins[1])),
                    ],
                )
            }
        }
        #[inline(always)]
        unsafe fn add_where(sum: Self::V, bytes: *const u8, at: Self::Index, value: Self::V) -> Self::V {
            // Written out: a closure that the compiler does not inline would lack the instruction set.
            unsafe {
                let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast()));
                let high = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.add(8).cast()));
                let low = _mm256_castsi256_ps(_mm256_cmpeq_epi32(low, at[0]));
                let high = _mm256_castsi256_ps(_mm256_cmpeq_epi32(high, at[1]));
                [
                    _mm256_add_ps(sum[0], _mm256_and_ps(low, value[0])),
                    _mm256_add_ps(sum[1], _mm256_and_ps(high, value[1])),
                ]
            }
        }
    }
}
