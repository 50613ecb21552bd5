//! The vectors of x86-64 processors.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Kernel, Simd, add_products_one_by_one, store_bf16_one_by_one};

/// # Safety
///
/// The processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// # Safety
///
/// The processor must have AVX-512F, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512<false>>()
}

/// # Safety
///
/// The processor must have AVX-512F with `bf16`, AVX2, FMA and F16C.
#[target_feature(enable = "avx512bf16,avx512f,avx2,fma,f16c")]
pub unsafe fn with_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512<true>>()
}

#[derive(Clone, Copy)]
pub struct Avx2(__m256);

/// With or without the instructions for `bf16`.
#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool>(__m512);

/// Implements the methods that are one instruction each.
macro_rules! instructions {
    ($($method:ident = $instruction:ident),*) => {
        $(#[inline(always)]
        fn $method(self, other: Self) -> Self {
            // SAFETY: values of this type are only made on processors that have the instruction.
            Self(unsafe { $instruction(self.0, other.0) })
        })*
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    // 12 accumulators, 2 vectors of weights and 1 of an activation, of 16 registers.
    const VECTORS: usize = 2;
    // A panel of 20 KiB and six rows of it are in a first-level cache of 32 KiB; networks have multiples of 320 channels.
    const DEPTH: usize = 320;

    instructions!(
        add = _mm256_add_ps,
        sub = _mm256_sub_ps,
        mul = _mm256_mul_ps,
        div = _mm256_div_ps,
        min = _mm256_min_ps,
        max = _mm256_max_ps
    );

    #[inline(always)]
    fn prefetch(from: *const u8) {
        // SAFETY: it reads nothing, and every processor of the architecture has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: called only on processors that have the instruction.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe {
            let narrow = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(narrow))
        })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for as many numbers.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16) {
        // SAFETY: the caller promises room for as many numbers.
        unsafe {
            _mm_storeu_si128(
                to.cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0),
            )
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: values of this type are only made on processors that have the instruction.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        // SAFETY: values of this type are only made on processors that have the instructions.
        Self(unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), power))
        })
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    // 24 accumulators, 4 vectors of weights and 1 of an activation, of 32 registers.
    const VECTORS: usize = 4;
    // From the second-level cache; measured on Zen 4.
    const DEPTH: usize = 640;
    const PAIRS: bool = BF16 || cfg!(test);

    instructions!(
        add = _mm512_add_ps,
        sub = _mm512_sub_ps,
        mul = _mm512_mul_ps,
        div = _mm512_div_ps,
        min = _mm512_min_ps,
        max = _mm512_max_ps
    );

    #[inline(always)]
    fn prefetch(from: *const u8) {
        // SAFETY: it reads nothing, and every processor of the architecture has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: called only on processors that have the instruction.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe {
            let narrow = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(narrow))
        })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for as many numbers.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16) {
        // SAFETY: the caller promises room for as many numbers.
        unsafe {
            _mm256_storeu_si256(
                to.cast(),
                _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut half::bf16) {
        if BF16 {
            // SAFETY: values of this type are only made on processors that have the instruction, and the caller promises room
            // for as many numbers.
            unsafe {
                to.cast::<__m256bh>()
                    .write_unaligned(_mm512_cvtneps_pbh(self.0))
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { store_bf16_one_by_one(self, to) }
        }
    }

    #[inline(always)]
    fn add_products(self, factors: Self, sum: Self) -> Self {
        if !BF16 {
            return add_products_one_by_one(self, factors, sum);
        }
        // SAFETY: as many bits, of which all are numbers.
        let [these, factors] = [self, factors].map(|pairs| unsafe { transmute(pairs.0) });
        // SAFETY: values of this type are only made on processors that have the instruction.
        Self(unsafe { _mm512_dpbf16_ps(sum.0, these, factors) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: values of this type are only made on processors that have the instruction.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        // SAFETY: values of this type are only made on processors that have the instructions.
        Self(unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), power))
        })
    }
}
