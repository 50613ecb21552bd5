//! Group norms and layer norms.

use std::ops::Range;

use rayon::prelude::*;

use crate::math::Activation;
use crate::simd::{Kernel, Simd, run};
use crate::split::worth_splitting;

/// `[batch, positions, channels]`, and how many groups the channels form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Samples; each is normalised by itself.
    pub batch: usize,
    /// Pixels, or pixels of all frames.
    pub positions: usize,
    /// Channels, side by side.
    pub channels: usize,
    /// A divisor of the channels.
    pub groups: usize,
}

/// The learned part of a norm.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Factors, one for each channel.
    pub scale: &'a [f32],
    /// Summands, one for each channel.
    pub shift: &'a [f32],
    /// What is added to the variance.
    pub epsilon: f64,
}

/// Positions whose sums are taken by one thread.
const STRIPE: usize = 1024;
/// Positions whose sums are taken in `f32`.
const SHORT: usize = 64;
/// Numbers that a thread normalises at a time.
const CHUNK: usize = 1 << 16;

/// `torch.nn.GroupNorm` and an activation.
///
/// # Panics
///
/// If a slice has not the size that follows from the others.
pub fn group_norm(
    x: &[f32],
    shape: Groups,
    affine: Affine<'_>,
    activation: Activation,
    out: &mut [f32],
) {
    let Groups {
        batch,
        positions,
        channels,
        ..
    } = shape;
    let sample = positions * channels;
    assert_eq!(x.len(), batch * sample, "the input's size");
    assert_eq!(out.len(), x.len(), "the result's size");
    assert_eq!(affine.scale.len(), channels, "a factor for each channel");
    assert_eq!(affine.shift.len(), channels, "a summand for each channel");
    if sample == 0 {
        return;
    }
    let split = worth_splitting(x.len());
    let stripes = positions.div_ceil(STRIPE);
    let sums = |index: usize| {
        let x = &x[index / stripes * sample..][..sample];
        let first = index % stripes * STRIPE;
        run(Sums {
            pivot: &x[..channels],
            x: &x[first * channels..(first + STRIPE).min(positions) * channels],
        })
    };
    let sums: Vec<Vec<[f64; 2]>> = if split {
        (0..batch * stripes).into_par_iter().map(sums).collect()
    } else {
        (0..batch * stripes).map(sums).collect()
    };
    let factors: Vec<Vec<f32>> = (0..batch)
        .map(|index| {
            let pivot = &x[index * sample..][..channels];
            factors(shape, affine, pivot, &sums[index * stripes..][..stripes])
        })
        .collect();
    let rows = (CHUNK / channels).clamp(1, positions);
    let normalise = |(index, out): (usize, &mut [f32]), sample: usize, x: &[f32]| {
        run(Apply {
            x: &x[index * rows * channels..][..out.len()],
            factors: &factors[sample],
            activation,
            out,
        });
    };
    for (index, (x, out)) in x.chunks(sample).zip(out.chunks_mut(sample)).enumerate() {
        if split {
            let chunks = out.par_chunks_mut(rows * channels).enumerate();
            chunks.for_each(|chunk| normalise(chunk, index, x));
        } else {
            let chunks = out.chunks_mut(rows * channels).enumerate();
            chunks.for_each(|chunk| normalise(chunk, index, x));
        }
    }
}

/// For each channel the centre, after all of them the factors, and then the summands, that normalise it:
/// `(x - centre) · factor + summand`.
///
/// The centre is the mean in single precision, and the summand has what that leaves: where the variance is small, the factor is
/// large, and would make the rounding of a mean that is only in the summand seen. What is summed is the difference from the `pivot`, so that a large mean does not cancel the variance.
fn factors(
    shape: Groups,
    affine: Affine<'_>,
    pivot: &[f32],
    stripes: &[Vec<[f64; 2]>],
) -> Vec<f32> {
    let Groups {
        positions,
        channels,
        groups,
        ..
    } = shape;
    let total = |channel: usize| {
        let add = |[a, b]: [f64; 2], [c, d]: [f64; 2]| [a + c, b + d];
        stripes.iter().map(|sums| sums[channel]).fold([0.0; 2], add)
    };
    let size = channels / groups;
    let count = (positions * size) as f64;
    let mut factors = vec![0.0; 3 * channels];
    for group in 0..groups {
        let members = group * size..(group + 1) * size;
        let sum: f64 = members
            .clone()
            .map(|channel| total(channel)[0] + positions as f64 * f64::from(pivot[channel]))
            .sum();
        let mean = sum / count;
        let squares: f64 = members
            .clone()
            .map(|channel| {
                let [sum, squares] = total(channel);
                let off = f64::from(pivot[channel]) - mean;
                squares + off * (2.0 * sum + positions as f64 * off)
            })
            .sum();
        let scale = 1.0 / ((squares / count).max(0.0) + affine.epsilon).sqrt();
        for channel in members {
            let factor = scale * f64::from(affine.scale[channel]);
            let centre = mean as f32;
            let rest = mean - f64::from(centre);
            factors[channel] = centre;
            factors[channels + channel] = factor as f32;
            factors[2 * channels + channel] =
                (f64::from(affine.shift[channel]) - rest * factor) as f32;
        }
    }
    factors
}

/// For each channel, the sums of the differences from the pivot and of their squares.
struct Sums<'a> {
    pivot: &'a [f32],
    x: &'a [f32],
}

impl Kernel for Sums<'_> {
    type Output = Vec<[f64; 2]>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Vec<[f64; 2]> {
        let channels = self.pivot.len();
        let mut sums = vec![[0.0; 2]; channels];
        for x in self.x.chunks(SHORT * channels) {
            let mut from = 0;
            while from + 4 * S::LANES <= channels {
                self.add::<S, 4>(x, from..from + 4 * S::LANES, &mut sums);
                from += 4 * S::LANES;
            }
            while from < channels {
                let to = channels.min(from + S::LANES);
                self.add::<S, 1>(x, from..to, &mut sums);
                from = to;
            }
        }
        sums
    }
}

impl Sums<'_> {
    #[inline(always)]
    fn add<S: Simd, const V: usize>(
        &self,
        x: &[f32],
        columns: Range<usize>,
        totals: &mut [[f64; 2]],
    ) {
        let load = |row: &[f32], vector: usize| {
            let row = &row[columns.clone()];
            match row.get(vector * S::LANES..(vector + 1) * S::LANES) {
                Some(all) => S::of(all),
                None => S::of_some(row, 0.0),
            }
        };
        let mut pivot = [S::zero(); V];
        for (vector, pivot) in pivot.iter_mut().enumerate() {
            *pivot = load(self.pivot, vector);
        }
        let (mut sums, mut squares) = ([S::zero(); V], [S::zero(); V]);
        for row in x.chunks_exact(self.pivot.len()) {
            for vector in 0..V {
                let off = load(row, vector).sub(pivot[vector]);
                sums[vector] = sums[vector].add(off);
                squares[vector] = off.mul_add(off, squares[vector]);
            }
        }
        for vector in 0..V {
            let (sums, squares) = (sums[vector].to_array(), squares[vector].to_array());
            let totals = &mut totals[columns.clone()];
            let totals = totals.iter_mut().skip(vector * S::LANES).take(S::LANES);
            for (lane, total) in totals.enumerate() {
                total[0] += f64::from(sums[lane]);
                total[1] += f64::from(squares[lane]);
            }
        }
    }
}

/// `activation((x - centre) · factor + summand)`
struct Apply<'a> {
    x: &'a [f32],
    factors: &'a [f32],
    activation: Activation,
    out: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.activation {
            Activation::Silu => self.with::<S>(Activation::Silu),
            other => self.with::<S>(other),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn with<S: Simd>(self, activation: Activation) {
        let channels = self.factors.len() / 3;
        let (centres, rest) = self.factors.split_at(channels);
        let (factors, summands) = rest.split_at(channels);
        let rows = self.x.chunks_exact(channels);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(channels)) {
            let whole = channels / S::LANES * S::LANES;
            let vectors = x.chunks_exact(S::LANES).zip(out.chunks_exact_mut(S::LANES));
            let centres_of = centres.chunks_exact(S::LANES);
            let affine = factors
                .chunks_exact(S::LANES)
                .zip(summands.chunks_exact(S::LANES));
            for (((x, out), centre), (factor, summand)) in vectors.zip(centres_of).zip(affine) {
                let off = S::of(x).sub(S::of(centre));
                let normal = off.mul_add(S::of(factor), S::of(summand));
                activation.of(normal).put(out);
            }
            if whole < channels {
                let load = |numbers: &[f32]| S::of_some(&numbers[whole..], 0.0);
                let off = load(x).sub(load(centres));
                let normal = off.mul_add(load(factors), load(summands));
                activation.of(normal).put_some(&mut out[whole..]);
            }
        }
    }
}

/// `torch.nn.LayerNorm` over rows as long as the affine part.
///
/// # Panics
///
/// If a slice has not the size that follows from the others.
pub fn layer_norm(x: &[f32], affine: Affine<'_>, out: &mut [f32]) {
    let columns = affine.scale.len();
    assert_eq!(affine.shift.len(), columns, "a summand for each factor");
    assert!(x.len().is_multiple_of(columns), "whole rows");
    assert_eq!(out.len(), x.len(), "the result's size");
    let chunk = (CHUNK / columns).max(1) * columns;
    let normalise = |(x, out): (&[f32], &mut [f32])| run(LayerNorm { x, affine, out });
    if worth_splitting(x.len()) {
        let chunks = x.par_chunks(chunk).zip(out.par_chunks_mut(chunk));
        chunks.for_each(normalise);
    } else {
        normalise((x, out));
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    affine: Affine<'a>,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let columns = self.affine.scale.len();
        let rows = self.x.chunks_exact(columns);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(columns)) {
            let mean = total::<S>(x, 0.0, |x| x) / columns as f32;
            let center = S::splat(mean);
            // Padded with the mean, which is no distance from itself.
            let squares = total::<S>(x, mean, |x| {
                let off = x.sub(center);
                off.mul(off)
            });
            let variance = squares / columns as f32;
            let scale = S::splat((1.0 / (f64::from(variance) + self.affine.epsilon).sqrt()) as f32);
            let each =
                |x: S, factor: S, summand: S| x.sub(center).mul(scale).mul_add(factor, summand);
            let whole = columns / S::LANES * S::LANES;
            let vectors = x.chunks_exact(S::LANES).zip(out.chunks_exact_mut(S::LANES));
            let affine = self.affine.scale.chunks_exact(S::LANES);
            let affine = affine.zip(self.affine.shift.chunks_exact(S::LANES));
            for ((x, out), (factor, summand)) in vectors.zip(affine) {
                each(S::of(x), S::of(factor), S::of(summand)).put(out);
            }
            if whole < columns {
                let load = |numbers: &[f32]| S::of_some(&numbers[whole..], 0.0);
                let last = each(load(x), load(self.affine.scale), load(self.affine.shift));
                last.put_some(&mut out[whole..]);
            }
        }
    }
}

/// The sum of `each` over a row, whose last vector is padded with `fill`.
#[inline(always)]
fn total<S: Simd>(row: &[f32], fill: f32, each: impl Fn(S) -> S) -> f32 {
    let mut sums = [S::zero(); 4];
    let fours = row.chunks_exact(4 * S::LANES);
    let vectors = fours.remainder().chunks_exact(S::LANES);
    for four in fours {
        for (sum, vector) in sums.iter_mut().zip(four.chunks_exact(S::LANES)) {
            *sum = sum.add(each(S::of(vector)));
        }
    }
    let rest = vectors.remainder();
    for vector in vectors {
        sums[0] = sums[0].add(each(S::of(vector)));
    }
    if !rest.is_empty() {
        sums[0] = sums[0].add(each(S::of_some(rest, fill)));
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
}
