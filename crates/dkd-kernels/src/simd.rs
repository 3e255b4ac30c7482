//! Vectors of 16 `f32`, one implementation per instruction set, and the macro that compiles a kernel for each.
//!
//! A kernel is written once, as an `#[inline(always)]` function generic over [`Simd`]; `simd_kernel!` makes one
//! version per instruction set, with the features enabled, and picks it by an [`Isa`](crate::Isa) value.

/// Number of `f32` in a vector, for every instruction set: layouts do not depend on the machine.
pub const LANES: usize = 16;

/// Operations on vectors of [`LANES`] `f32`.
///
/// # Safety
/// Every function requires that the machine has the implementing type's instructions and that the pointers are valid
/// for [`LANES`] elements; alignment is not required.
pub(crate) trait Simd: Copy + 'static {
    /// One vector.
    type V: Copy;
    /// Largest number of accumulators of one-vector width that stay in registers beside the operands.
    const ACCUMULATORS: usize;
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c; with one rounding where the hardware has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(a, 0), and NaN stays NaN.
    unsafe fn relu(a: Self::V) -> Self::V;
    /// min(a, limit), and NaN stays NaN.
    unsafe fn at_most(a: Self::V, limit: Self::V) -> Self::V;
    /// max(a, limit), and NaN stays NaN.
    unsafe fn at_least(a: Self::V, limit: Self::V) -> Self::V;
    /// `value` where `condition > 0`, else 0. A NaN condition keeps the value, as [`Simd::relu`] kept the NaN.
    unsafe fn where_positive(condition: Self::V, value: Self::V) -> Self::V;
    /// [`LANES`] bf16 values: the upper halves of as many `f32`.
    unsafe fn load_half(from: *const u16) -> Self::V;
    /// Rounds to bf16, to nearest and to even in the middle; infinities and NaN stay what they are.
    unsafe fn store_half(to: *mut u16, value: Self::V);
    /// Asks for a cache line to be brought to the second-level cache; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_line: *const i8) {}
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

// Every function is one or two instructions; that the processor has them is the trait's contract, and so are its pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::{
        __m256, __m512, _CMP_NLE_UQ, _CMP_UNORD_Q, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch,
        _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps, _mm256_and_si256, _mm256_blendv_epi8,
        _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_or_si256,
        _mm256_packus_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_ps,
        _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
        _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_or_epi32, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_storeu_ps, _mm512_sub_ps,
    };

    /// 512-bit vectors.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    // SAFETY (all of this impl): the caller of a trait function has the instructions and valid pointers.
    impl Simd for Avx512 {
        type V = __m512;
        const ACCUMULATORS: usize = 28;
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: __m512) {
            unsafe { _mm512_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn relu(a: __m512) -> __m512 {
            // maxps returns its second operand when either is NaN.
            unsafe { _mm512_max_ps(_mm512_setzero_ps(), a) }
        }
        #[inline(always)]
        unsafe fn at_most(a: __m512, limit: __m512) -> __m512 {
            // minps returns its second operand when either is NaN.
            unsafe { _mm512_min_ps(limit, a) }
        }
        #[inline(always)]
        unsafe fn at_least(a: __m512, limit: __m512) -> __m512 {
            // As in `relu`.
            unsafe { _mm512_max_ps(limit, a) }
        }
        #[inline(always)]
        unsafe fn where_positive(condition: __m512, value: __m512) -> __m512 {
            unsafe {
                let keep = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(condition, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(keep, value)
            }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> __m512 {
            unsafe {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
            }
        }
        #[inline(always)]
        unsafe fn store_half(to: *mut u16, value: __m512) {
            unsafe {
                let bits = _mm512_castps_si512(value);
                let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
                let rounded = _mm512_mask_or_epi32(
                    _mm512_add_epi32(bits, half),
                    nan,
                    bits,
                    _mm512_set1_epi32(0x40_0000),
                );
                let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
                _mm256_storeu_si256(to.cast(), halves);
            }
        }
        #[inline(always)]
        unsafe fn prefetch(line: *const i8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line) }
        }
    }

    /// Pairs of 256-bit vectors with fused multiply-add.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    // SAFETY (all of this impl): the caller of a trait function has the instructions and valid pointers.
    impl Simd for Avx2 {
        type V = [__m256; 2];
        const ACCUMULATORS: usize = 6;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: Self::V) {
            unsafe {
                _mm256_storeu_ps(to, value[0]);
                _mm256_storeu_ps(to.add(8), value[1]);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        unsafe fn relu(a: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(_mm256_setzero_ps(), a[0]), _mm256_max_ps(_mm256_setzero_ps(), a[1])] }
        }
        #[inline(always)]
        unsafe fn at_most(a: Self::V, limit: Self::V) -> Self::V {
            unsafe { [_mm256_min_ps(limit[0], a[0]), _mm256_min_ps(limit[1], a[1])] }
        }
        #[inline(always)]
        unsafe fn at_least(a: Self::V, limit: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(limit[0], a[0]), _mm256_max_ps(limit[1], a[1])] }
        }
        #[inline(always)]
        unsafe fn where_positive(condition: Self::V, value: Self::V) -> Self::V {
            unsafe {
                let zero = _mm256_setzero_ps();
                let keep = |c, v| _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(c, zero), v);
                [keep(condition[0], value[0]), keep(condition[1], value[1])]
            }
        }
        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> Self::V {
            let eight = |from: *const u16| unsafe {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            };
            unsafe { [eight(from), eight(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn store_half(to: *mut u16, value: Self::V) {
            let rounded = |value: __m256| unsafe {
                let bits = _mm256_castps_si256(value);
                let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let sum = _mm256_add_epi32(_mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)), bits);
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
                _mm256_srli_epi32::<16>(_mm256_blendv_epi8(sum, quiet, nan))
            };
            unsafe {
                // Packing works on halves of the registers: first, third, second, fourth quarter.
                let packed = _mm256_packus_epi32(rounded(value[0]), rounded(value[1]));
                _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
            }
        }
        #[inline(always)]
        unsafe fn prefetch(line: *const i8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line) }
        }
    }
}

/// Plain arrays: whatever the compiler makes of them, on any machine.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

// SAFETY (all of this impl): only `load` and `store` touch memory; their callers pass pointers to LANES elements.
impl Simd for Portable {
    type V = [f32; LANES];
    const ACCUMULATORS: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the trait's contract.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::V) {
        // SAFETY: the trait's contract.
        unsafe { to.cast::<Self::V>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction it is a library call per element.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn relu(a: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] <= 0.0 { 0.0 } else { a[i] })
    }
    #[inline(always)]
    unsafe fn at_most(a: Self::V, limit: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > limit[i] { limit[i] } else { a[i] })
    }
    #[inline(always)]
    unsafe fn at_least(a: Self::V, limit: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < limit[i] { limit[i] } else { a[i] })
    }
    #[inline(always)]
    unsafe fn where_positive(condition: Self::V, value: Self::V) -> Self::V {
        std::array::from_fn(|i| if condition[i] <= 0.0 { 0.0 } else { value[i] })
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self::V {
        // SAFETY: the trait's contract.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        halves.map(|half| f32::from_bits(u32::from(half) << 16))
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, value: Self::V) {
        let halves = value.map(|value| {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            ((if value.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16) as u16
        });
        // SAFETY: the trait's contract.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
}

/// Makes `fn name(isa, args…)` from a generic `body::<S: Simd>(args…)`: one copy per instruction set.
macro_rules! simd_kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the features are on in this function; the rest is the caller's contract.
                unsafe { $body::<$crate::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the features are on in this function; the rest is the caller's contract.
                unsafe { $body::<$crate::simd::Avx2>($($arg),*) }
            }
            match isa.0 {
                // SAFETY: an `Isa` exists only for instruction sets that this machine has.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: needs no special instructions; the rest is the caller's contract.
                _ => unsafe { $body::<$crate::simd::Portable>($($arg),*) },
            }
        }
    };
}
pub(crate) use simd_kernel;
