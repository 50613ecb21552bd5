//! Functions of vectors.

use crate::simd::Simd;

/// `e^x` with a relative error of about 1e-7; below -87, where normal numbers end, next to nothing.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: S) -> S {
    // In this order of the operands NaN stays NaN.
    let bounded = S::splat(-87.3).max(S::splat(88.0).min(x));
    let shifted = bounded.mul(S::splat(std::f32::consts::LOG2_E)).shifted();
    let power = shifted.unshifted();
    // ln 2 in two parts, the first, 355/512, of few bits, so that its products are exact.
    let rest = power.mul_add(S::splat(-355.0 / 512.0), bounded);
    let rest = power.mul_add(S::splat(2.121_944_4e-4), rest);
    power_of_two(shifted, rest.mul(S::splat(std::f32::consts::LOG2_E)))
}

/// `2^x` for `x` of at most 0, with a relative error of about 1e-7; below -126 next to nothing.
#[inline(always)]
pub(crate) fn exp2_of_negative<S: Simd>(x: S) -> S {
    let bounded = S::splat(-126.0).max(x);
    let shifted = bounded.shifted();
    power_of_two(shifted, bounded.sub(shifted.unshifted()))
}

/// 2 to a whole number, which is [shifted](Simd::shifted), and a rest between -1/2 and 1/2.
///
/// The polynomial is exact at 0 and interpolates `(2^r - 1) / r` at Chebyshev's nodes.
#[inline(always)]
fn power_of_two<S: Simd>(shifted: S, rest: S) -> S {
    let mut polynomial = S::splat(1.545_316_3e-4);
    for coefficient in [
        1.339_086_3e-3,
        9.618_083e-3,
        5.550_357e-2,
        2.402_265e-1,
        6.931_472e-1,
        1.0,
    ] {
        polynomial = polynomial.mul_add(rest, S::splat(coefficient));
    }
    polynomial.times_power_of_two(shifted)
}

/// `x / (1 + e^-x)`
#[inline(always)]
pub(crate) fn silu<S: Simd>(x: S) -> S {
    x.div(S::splat(1.0).add(exp(x.neg())))
}

/// `x / (1 + e^(-1.702 x))`
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(x: S) -> S {
    x.div(S::splat(1.0).add(exp(x.mul(S::splat(-1.702)))))
}

/// `x (1 + erf(x / √2)) / 2`
///
/// The complementary error function is formula 7.1.26 of Abramowitz and Stegun, whose error is at most 1.5e-7.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(x: S) -> S {
    let one = S::splat(1.0);
    let z = x.abs().mul(S::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = one.div(S::splat(0.327_591_1).mul_add(z, one));
    let mut polynomial = S::splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        polynomial = polynomial.mul_add(t, S::splat(coefficient));
    }
    let complement = polynomial.mul(t).mul(exp(z.mul(z).neg()));
    // erfc(-z) = 2 - erfc(z). Of `x` and 0, the one that is not taken is 0, or `x` is NaN.
    let half = x.abs().mul(complement).mul(S::splat(0.5));
    S::zero().max(x).sub(half)
}

/// What is applied to every number of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `x · sigmoid(x)`
    Silu,
    /// `x (1 + erf(x / √2)) / 2`
    Gelu,
    /// `x · sigmoid(1.702 x)`
    QuickGelu,
}

impl Activation {
    #[inline(always)]
    pub(crate) fn of<S: Simd>(self, x: S) -> S {
        match self {
            Activation::Identity => x,
            Activation::Silu => silu(x),
            Activation::Gelu => gelu(x),
            Activation::QuickGelu => quick_gelu(x),
        }
    }
}
