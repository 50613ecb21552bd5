//! Numbers one by one, and rows of several matrices.

use rayon::prelude::*;

use crate::math::Activation;
use crate::simd::{Kernel, Simd, run};
use crate::split::worth_splitting;

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 15;

/// An activation of every number.
///
/// # Panics
///
/// If the slices differ in length.
pub fn activate(activation: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "the result's size");
    let chunk = |(x, out)| {
        run(Activate { activation, x, out });
    };
    // Exponentials cost as much as some multiply-adds.
    if worth_splitting(8 * x.len()) {
        let chunks = x.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK));
        chunks.for_each(chunk);
    } else {
        chunk((x, out));
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
