//! Numbers one by one, and rows of several matrices.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::math::Activation;
use crate::packed::Element;
use crate::simd::{Kernel, MOST_LANES, Simd, run};
use crate::split::worth_splitting;

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 15;

/// An activation of every number.
///
/// # Panics
///
/// If the slices differ in length.
pub fn activate(activation: Activation, x: &[f32], out: &mut [f32]) {
    by_chunks(x, out, |x, out| run(Activate { activation, x, out }));
}

/// Has all numbers computed, some at a time, by several threads if that is worth it.
fn by_chunks<X: Sync, Y: Send>(x: &[X], out: &mut [Y], compute: impl Fn(&[X], &mut [Y]) + Sync) {
    assert_eq!(x.len(), out.len(), "the result's size");
    // Exponentials, and what comes from memory, cost as much as some multiply-adds.
    if worth_splitting(8 * x.len()) {
        let chunks = x.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK));
        chunks.for_each(|(x, out)| compute(x, out));
    } else {
        compute(x, out);
    }
}

struct Activate<'a> {
    activation: Activation,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let vectors = self.x.chunks_exact(S::LANES);
        let rest = vectors.remainder();
        let mut outs = self.out.chunks_exact_mut(S::LANES);
        for (x, out) in vectors.zip(&mut outs) {
            self.activation.of(S::of(x)).put(out);
        }
        if !rest.is_empty() {
            let last = self.activation.of(S::of_some(rest, 0.0));
            last.put_some(outs.into_remainder());
        }
    }
}

/// A type of 16 bits that numbers are kept in: `f16` or `bf16`.
pub trait Narrow: Element {
    /// The nearest numbers, of two that are equally near the even one.
    ///
    /// # Safety
    ///
    /// As many as a vector has must be writable at `to`.
    #[doc(hidden)]
    unsafe fn store<S: Simd>(vector: S, to: *mut Self);
}

impl Narrow for f16 {
    #[inline(always)]
    unsafe fn store<S: Simd>(vector: S, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { vector.store_f16(to) }
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    unsafe fn store<S: Simd>(vector: S, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { vector.store_bf16(to) }
    }
}

/// Numbers of 16 bits in 32.
///
/// # Panics
///
/// If the slices differ in length.
pub fn widen<E: Narrow>(x: &[E], out: &mut [f32]) {
    by_chunks(x, out, |x, out| run(Widen { x, out }));
}

struct Widen<'a, E> {
    x: &'a [E],
    out: &'a mut [f32],
}

impl<E: Narrow> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: slices of as many numbers as a vector has.
        let of = |x: &[E]| unsafe { E::load::<S>(x[..S::LANES].as_ptr()) };
        let vectors = self.x.chunks_exact(S::LANES);
        let rest = vectors.remainder();
        let mut outs = self.out.chunks_exact_mut(S::LANES);
        for (x, out) in vectors.zip(&mut outs) {
            of(x).put(out);
        }
        let mut last = [E::zeroed(); MOST_LANES];
        last[..rest.len()].copy_from_slice(rest);
        of(&last).put_some(outs.into_remainder());
    }
}

/// The nearest numbers of 16 bits.
///
/// # Panics
///
/// If the slices differ in length.
pub fn narrow<E: Narrow>(x: &[f32], out: &mut [E]) {
    by_chunks(x, out, |x, out| run(Narrowed { x, out }));
}

struct Narrowed<'a, E> {
    x: &'a [f32],
    out: &'a mut [E],
}

impl<E: Narrow> Kernel for Narrowed<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let vectors = self.x.chunks_exact(S::LANES);
        let rest = vectors.remainder();
        let mut outs = self.out.chunks_exact_mut(S::LANES);
        for (x, out) in vectors.zip(&mut outs) {
            // SAFETY: there is room for as many.
            unsafe { E::store(S::of(x), out.as_mut_ptr()) };
        }
        let mut last = [E::zeroed(); MOST_LANES];
        // SAFETY: there is room for any vector's.
        unsafe { E::store(S::of_some(rest, 0.0), last.as_mut_ptr()) };
        outs.into_remainder().copy_from_slice(&last[..rest.len()]);
    }
}

/// Rows of several matrices, one after another: `[rows, a]` and `[rows, b]` to `[rows, a + b]`.
///
/// # Panics
///
/// If a slice has not the size that follows from the others.
pub fn join(parts: &[(&[f32], usize)], out: &mut [f32]) {
    let columns: usize = parts.iter().map(|(_, columns)| columns).sum();
    let rows = out.len() / columns.max(1);
    for (numbers, columns) in parts {
        assert_eq!(numbers.len(), rows * columns, "as many rows in all parts");
    }
    let join = |(row, out): (usize, &mut [f32])| {
        let mut at = 0;
        for (numbers, columns) in parts {
            out[at..at + columns].copy_from_slice(&numbers[row * columns..][..*columns]);
            at += columns;
        }
    };
    if worth_splitting(out.len()) {
        let at_once = (CHUNK / columns).max(1);
        let chunks = out.par_chunks_mut(at_once * columns).enumerate();
        chunks.for_each(|(index, out)| {
            let rows = out.chunks_mut(columns).enumerate();
            rows.for_each(|(row, out)| join((index * at_once + row, out)));
        });
    } else {
        out.chunks_mut(columns).enumerate().for_each(join);
    }
}
