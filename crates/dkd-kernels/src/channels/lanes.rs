//! The one vector operation that only this module needs: some lanes from a few neighbouring channels.

use super::gather::Piece;
use crate::LANES;
use crate::simd::{Portable, Simd};

/// Channels that a [`Piece`] chooses from.
pub(super) const PIECE: usize = LANES / 2;

/// Vectors whose lanes can be filled from [`PIECE`] neighbouring elements in any order.
///
/// # Safety
/// As for [`Simd`]; `from` and `condition` are valid for [`PIECE`] elements.
pub(super) trait ChannelLanes: Simd {
    /// `so_far` with the piece's lanes filled: lane i by `from[piece.index[i]]`. Those lanes were 0.
    unsafe fn fill(so_far: Self::V, from: *const f32, piece: &Piece) -> Self::V;
    /// The same, with 0 in the place of elements whose `condition` is not positive (NaN counts as positive).
    unsafe fn fill_where_positive(
        so_far: Self::V,
        from: *const f32,
        condition: *const f32,
        piece: &Piece,
    ) -> Self::V;
}

// SAFETY (all of this impl): indices are below PIECE, by construction of `Piece`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl ChannelLanes for Portable {
    #[inline(always)]
    unsafe fn fill(so_far: Self::V, from: *const f32, piece: &Piece) -> Self::V {
        let from = unsafe { from.cast::<[f32; PIECE]>().read_unaligned() };
        std::array::from_fn(|i| if piece.keep[i] != 0 { from[piece.index[i] as usize] } else { so_far[i] })
    }
    #[inline(always)]
    unsafe fn fill_where_positive(
        so_far: Self::V,
        from: *const f32,
        condition: *const f32,
        piece: &Piece,
    ) -> Self::V {
        let condition = unsafe { condition.cast::<[f32; PIECE]>().read_unaligned() };
        let from = unsafe { from.cast::<[f32; PIECE]>().read_unaligned() };
        let kept: [f32; PIECE] = std::array::from_fn(|i| if condition[i] <= 0.0 { 0.0 } else { from[i] });
        unsafe { Self::fill(so_far, kept.as_ptr(), piece) }
    }
}

// SAFETY: every function is a few instructions that the caller has; indices are below PIECE, by construction of `Piece`.
#[allow(clippy::undocumented_unsafe_blocks)]
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ChannelLanes, Piece};
    use crate::simd::{Avx2, Avx512};
    use std::arch::x86_64::{
        __m256, __m256i, __m512, _CMP_NLE_UQ, _mm256_and_ps, _mm256_castsi256_ps, _mm256_cmp_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_or_ps, _mm256_permutevar8x32_ps, _mm256_setzero_ps,
        _mm512_castps256_ps512, _mm512_loadu_si512, _mm512_mask_permutexvar_ps,
    };

    /// `from` where `condition` is positive, else 0.
    #[inline(always)]
    unsafe fn positive(from: *const f32, condition: *const f32) -> __m256 {
        unsafe {
            let keep = _mm256_cmp_ps::<_CMP_NLE_UQ>(_mm256_loadu_ps(condition), _mm256_setzero_ps());
            _mm256_and_ps(keep, _mm256_loadu_ps(from))
        }
    }

    #[inline(always)]
    unsafe fn fill_pair(so_far: [__m256; 2], from: __m256, piece: &Piece) -> [__m256; 2] {
        let half = |acc, at: usize| unsafe {
            let index = _mm256_loadu_si256(piece.index.as_ptr().add(at).cast::<__m256i>());
            let keep = _mm256_loadu_si256(piece.keep.as_ptr().add(at).cast::<__m256i>());
            let lanes = _mm256_permutevar8x32_ps(from, index);
            _mm256_or_ps(acc, _mm256_and_ps(lanes, _mm256_castsi256_ps(keep)))
        };
        [half(so_far[0], 0), half(so_far[1], 8)]
    }

    #[inline(always)]
    unsafe fn fill_whole(so_far: __m512, from: __m256, piece: &Piece) -> __m512 {
        unsafe {
            let index = _mm512_loadu_si512(piece.index.as_ptr().cast());
            _mm512_mask_permutexvar_ps(so_far, piece.mask, index, _mm512_castps256_ps512(from))
        }
    }

    impl ChannelLanes for Avx2 {
        #[inline(always)]
        unsafe fn fill(so_far: Self::V, from: *const f32, piece: &Piece) -> Self::V {
            unsafe { fill_pair(so_far, _mm256_loadu_ps(from), piece) }
        }
        #[inline(always)]
        unsafe fn fill_where_positive(
            so_far: Self::V,
            from: *const f32,
            condition: *const f32,
            piece: &Piece,
        ) -> Self::V {
            unsafe { fill_pair(so_far, positive(from, condition), piece) }
        }
    }

    impl ChannelLanes for Avx512 {
        #[inline(always)]
        unsafe fn fill(so_far: Self::V, from: *const f32, piece: &Piece) -> Self::V {
            unsafe { fill_whole(so_far, _mm256_loadu_ps(from), piece) }
        }
        #[inline(always)]
        unsafe fn fill_where_positive(
            so_far: Self::V,
            from: *const f32,
            condition: *const f32,
            piece: &Piece,
        ) -> Self::V {
            unsafe { fill_whole(so_far, positive(from, condition), piece) }
        }
    }
}
