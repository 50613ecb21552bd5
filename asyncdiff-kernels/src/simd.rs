//! Vectors of `f32`, and how a kernel that is written once runs on the widest of them.
//!
//! A [`Kernel`] is generic over [`Simd`]. [`run`] calls it inside a function that is compiled for the instructions of the
//! [`Level`], and because everything on the way is inlined into that function, so is the kernel.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::level::{Level, current};

/// A vector of `f32`.
///
/// Values of a type other than [`Portable`] are made only by kernels that [`run`] has called, which asks the processor first.
/// Methods are `#[inline(always)]`: outside a function with the right target features they would not be compiled to single
/// instructions.
pub trait Simd: Copy {
    /// Numbers in a vector, at most [`MOST_LANES`].
    const LANES: usize;
    /// Vectors side by side in the tile of a matrix product: with six rows of them the accumulators fill the registers.
    const VECTORS: usize;
    /// How much of the inner dimension of a matrix product is taken at a time, so that a panel stays in the cache that feeds
    /// the tile.
    const DEPTH: usize;
    /// Whether products with `bf16` weights take two channels at a time, by [`add_products`](Simd::add_products). In tests they
    /// do so at every level.
    const PAIRS: bool = cfg!(test);

    fn splat(value: f32) -> Self;
    /// Has the second-level cache fetch what will be read soon; nothing depends on it.
    #[inline(always)]
    fn prefetch(_: *const u8) {}
    /// # Safety
    ///
    /// `LANES` numbers must be readable at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// `LANES` numbers in the upper halves of whose bits are at `from`.
    ///
    /// # Safety
    ///
    /// `LANES` of them must be readable.
    unsafe fn load_bf16(from: *const half::bf16) -> Self;
    /// # Safety
    ///
    /// `LANES` numbers must be readable at `from`.
    unsafe fn load_f16(from: *const half::f16) -> Self;
    /// # Safety
    ///
    /// `LANES` numbers must be writable at `to`.
    unsafe fn store(self, to: *mut f32);
    /// The nearest `bf16`, of two that are equally near the even one.
    ///
    /// # Safety
    ///
    /// `LANES` numbers must be writable at `to`.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut half::bf16) {
        // SAFETY: the caller's promise.
        unsafe { store_bf16_one_by_one(self, to) }
    }
    /// The nearest `f16`, of two that are equally near the even one.
    ///
    /// # Safety
    ///
    /// `LANES` numbers must be writable at `to`.
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16) {
        for (lane, number) in self.to_array()[..Self::LANES].iter().enumerate() {
            // SAFETY: the caller promises room for as many numbers.
            unsafe { *to.add(lane) = half::f16::from_f32(*number) }
        }
    }
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// `self * factor + summand`.
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    /// In every lane `sum` plus the products of two `bf16` in the bits of `self` with two in those of `factors`, all rounded as
    /// `f32`.
    #[inline(always)]
    fn add_products(self, factors: Self, sum: Self) -> Self {
        add_products_one_by_one(self, factors, sum)
    }
    /// Numbers of about 1, times 2 to the power of whole numbers between -126 and 127 that are [shifted](Simd::shifted).
    fn times_power_of_two(self, shifted: Self) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    #[inline(always)]
    fn neg(self) -> Self {
        Self::zero().sub(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.max(self.neg())
    }

    /// The nearest whole number, for values far below 2^22, in the lowest bits.
    #[inline(always)]
    fn shifted(self) -> Self {
        // Adding 1.5 * 2^23 leaves no bits for a fraction.
        self.add(Self::splat(12_582_912.0))
    }

    /// The whole number that was [shifted](Simd::shifted).
    #[inline(always)]
    fn unshifted(self) -> Self {
        self.sub(Self::splat(12_582_912.0))
    }

    /// The first `LANES` numbers of a slice that has as many.
    #[inline(always)]
    fn of(from: &[f32]) -> Self {
        let from = &from[..Self::LANES];
        // SAFETY: the slice has LANES numbers.
        unsafe { Self::load(from.as_ptr()) }
    }

    /// To the first `LANES` numbers of a slice that has as many.
    #[inline(always)]
    fn put(self, to: &mut [f32]) {
        let to = &mut to[..Self::LANES];
        // SAFETY: the slice has LANES numbers.
        unsafe { self.store(to.as_mut_ptr()) }
    }

    /// Fewer than `LANES` numbers, followed by `fill`.
    #[inline(always)]
    fn of_some(from: &[f32], fill: f32) -> Self {
        let mut all = [fill; MOST_LANES];
        all[..from.len()].copy_from_slice(from);
        Self::of(&all)
    }

    /// To a slice of fewer than `LANES` numbers.
    #[inline(always)]
    fn put_some(self, to: &mut [f32]) {
        let count = to.len();
        to.copy_from_slice(&self.to_array()[..count]);
    }

    #[inline(always)]
    fn to_array(self) -> [f32; MOST_LANES] {
        let mut all = [0.0; MOST_LANES];
        self.put(&mut all);
        all
    }

    /// The sum of all lanes, pairs first.
    #[inline(always)]
    fn sum(self) -> f32 {
        fold(self, |a, b| a + b)
    }

    /// The greatest of all lanes, none of which is NaN.
    #[inline(always)]
    fn greatest(self) -> f32 {
        fold(self, |a, b| if a > b { a } else { b })
    }
}

/// [`Simd::store_bf16`] without an instruction for it.
///
/// # Safety
///
/// `LANES` numbers must be writable at `to`.
#[inline(always)]
unsafe fn store_bf16_one_by_one<S: Simd>(vector: S, to: *mut half::bf16) {
    for (lane, number) in vector.to_array()[..S::LANES].iter().enumerate() {
        // SAFETY: the caller promises room for as many numbers.
        unsafe { *to.add(lane) = half::bf16::from_f32(*number) }
    }
}

/// [`Simd::add_products`] without an instruction for it.
#[inline(always)]
fn add_products_one_by_one<S: Simd>(pairs: S, factors: S, sum: S) -> S {
    let halves = |pair: f32| {
        let bits = pair.to_bits();
        [bits & 0xffff_0000, bits << 16].map(f32::from_bits)
    };
    let [pairs, factors, mut sums] = [pairs, factors, sum].map(S::to_array);
    for (sum, pairs) in sums.iter_mut().zip(pairs.into_iter().zip(factors)) {
        let ([a, b], [c, d]) = (halves(pairs.0), halves(pairs.1));
        *sum = *sum + a * c + b * d;
    }
    S::of(&sums)
}

#[inline(always)]
fn fold<S: Simd>(vector: S, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut all = vector.to_array();
    let mut half = S::LANES / 2;
    while half > 0 {
        for lane in 0..half {
            all[lane] = combine(all[lane], all[lane + half]);
        }
        half /= 2;
    }
    all[0]
}

/// Of the widest vectors.
pub(crate) const MOST_LANES: usize = 16;

/// Work that is written once for all vectors.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, and so must be what it calls with vectors.
    fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a kernel on the widest vectors that the processor has, or the environment allows.
#[inline]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    match current() {
        // SAFETY: the level is one that the processor has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { x86::with_avx512_bf16(kernel) },
        // SAFETY: likewise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::with_avx512(kernel) },
        // SAFETY: likewise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::with_avx2(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx512Bf16 | Level::Avx512 | Level::Avx2 => kernel.run::<Portable>(),
        Level::Portable => kernel.run::<Portable>(),
    }
}

/// Four numbers, whatever the processor has: compilers turn the loops into vector instructions on most.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn map(self, other: Self, combine: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| {
            combine(self.0[lane], other.0[lane])
        }))
    }
}

impl Simd for Portable {
    const LANES: usize = 4;
    // 64-bit ARM has 32 registers, the x86-64 that everybody has only 16.
    const VECTORS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const DEPTH: usize = 384;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises as many numbers.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller promises as many numbers.
        let narrow = unsafe { from.cast::<[half::bf16; 4]>().read_unaligned() };
        Self(narrow.map(|number| f32::from_bits(u32::from(number.to_bits()) << 16)))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: the caller promises as many numbers.
        let narrow = unsafe { from.cast::<[half::f16; 4]>().read_unaligned() };
        Self(narrow.map(half::f16::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for as many numbers.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.map(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.map(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.map(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.map(other, |a, b| a / b)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.map(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.map(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // Without the instruction, a fused product is a call of a function that works in integers.
        let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        Self(std::array::from_fn(|lane| {
            let (a, b, c) = (self.0[lane], factor.0[lane], summand.0[lane]);
            if fused { a.mul_add(b, c) } else { a * b + c }
        }))
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            let power = shifted.0[lane].to_bits() << 23;
            f32::from_bits(self.0[lane].to_bits().wrapping_add(power))
        }))
    }
}
