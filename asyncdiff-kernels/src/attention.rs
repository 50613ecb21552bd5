//! Attention of several heads, a block of queries and a block of keys at a time.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use crate::math::exp2_of_negative;
use crate::packed::{Element, Storage};
use crate::product::tile::{ROWS, put_pairs, sums};
use crate::simd::{Kernel, MOST_LANES, Simd, run};
use crate::split::{Shared, worth_splitting};

/// Sequences of tokens in memory: the features of a token lie side by side, those of a head after those of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// Numbers from a sequence to the next.
    pub sequence: usize,
    /// Numbers from a token to the next.
    pub token: usize,
}

/// Tokens to read.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// All of them.
    pub numbers: &'a [f32],
    /// How they lie there.
    pub strides: Strides,
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Sequences, none of which knows of another.
    pub sequences: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Features of a head.
    pub features: usize,
    /// Tokens of a sequence that look.
    pub queries: usize,
    /// Tokens of a sequence that are looked at.
    pub keys: usize,
    /// Whether a token looks only at itself and those before it.
    pub causal: bool,
    /// With [`Storage::Bf16Pairs`], queries, keys, values and what they are weighted with are rounded where the processor
    /// multiplies such pairs. All others are multiplied as the `f32` that they are.
    pub storage: Storage,
}

/// `softmax(q kᵀ / √features) v` in every head, written where `strides` say.
///
/// # Panics
///
/// If a slice is too short for its strides, or there are no keys.
pub fn attention(
    shape: Heads,
    query: Tokens<'_>,
    key: Tokens<'_>,
    value: Tokens<'_>,
    out: &mut [f32],
    strides: Strides,
) {
    let Heads {
        sequences,
        heads,
        features,
        queries,
        keys,
        ..
    } = shape;
    assert!(keys > 0, "something to look at");
    if sequences * heads * features * queries == 0 {
        return;
    }
    let reach = |strides: Strides, tokens: usize| {
        (sequences - 1) * strides.sequence + (tokens - 1) * strides.token + heads * features
    };
    assert!(query.numbers.len() >= reach(query.strides, queries));
    assert!(key.numbers.len() >= reach(key.strides, keys));
    assert!(value.numbers.len() >= reach(value.strides, keys));
    assert!(out.len() >= reach(strides, queries));
    let all = sequences * heads;
    let work = 2 * all * queries * keys * features;
    let split = worth_splitting(work);
    // Where there are few heads, each is cut into spans of queries, which arrange its keys once more.
    let wanted = if split {
        (HEADS_OF_A_THREAD * rayon::current_num_threads()).div_ceil(all)
    } else {
        1
    };
    let spans = (queries / (4 * BLOCK)).clamp(1, wanted);
    let span = queries.div_ceil(spans).next_multiple_of(ROWS);
    let shared = Shared::new(out);
    let task = |tasks: Range<usize>| {
        run(Attend {
            shape,
            query,
            key,
            value,
            span,
            spans,
            tasks,
            out: &shared,
            strides,
        });
    };
    let tasks = all * spans;
    // Many short sequences in one go, so that their scratch memory is asked for once.
    let at_once = (AT_ONCE / (work / all).max(1)).clamp(1, tasks);
    let chunk = |index: usize| index * at_once..((index + 1) * at_once).min(tasks);
    let chunks = tasks.div_ceil(at_once);
    if split {
        (0..chunks).into_par_iter().map(chunk).for_each(task);
    } else {
        (0..chunks).map(chunk).for_each(task);
    }
}

/// Queries whose scores are held at a time.
const BLOCK: usize = 8 * ROWS;
/// Keys whose scores are held at a time: with [`BLOCK`] queries, a part of the second-level cache.
const KEYS: usize = 512;
/// Heads for each thread that are enough to keep all of them busy.
const HEADS_OF_A_THREAD: usize = 4;
/// Multiply-adds in one go.
const AT_ONCE: usize = 1 << 22;

struct Attend<'a> {
    shape: Heads,
    query: Tokens<'a>,
    key: Tokens<'a>,
    value: Tokens<'a>,
    /// Queries of a task.
    span: usize,
    /// Tasks of a head.
    spans: usize,
    tasks: Range<usize>,
    out: &'a Shared<'a>,
    strides: Strides,
}

/// Scratch memory.
#[derive(Default)]
struct Scratch<E> {
    /// In panels; the keys of a panel side by side, features one after another.
    keys: Vec<E>,
    /// In panels of features.
    values: Vec<E>,
    /// A key, and queries, that are pairs.
    row: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// What the values of the keys seen so far come to, for each query.
    sums: Vec<f32>,
    /// For each query the greatest score so far, and the sum of all exponentials.
    state: Vec<[f32; 2]>,
    table: Vec<[*const f32; ROWS]>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.shape.storage {
            Storage::Bf16Pairs if S::PAIRS => self.over_tasks::<S, [bf16; 2]>(),
            _ => self.over_tasks::<S, f32>(),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn over_tasks<S: Simd, E: Element>(&self) {
        let mut scratch = Scratch::<E>::default();
        let mut arranged = None;
        for task in self.tasks.clone() {
            let (head, span) = (task / self.spans, task % self.spans);
            let (sequence, index) = (head / self.shape.heads, head % self.shape.heads);
            let offset = |tokens: Tokens<'_>| {
                tokens.strides.sequence * sequence + index * self.shape.features
            };
            if arranged != Some(head) {
                self.arrange_keys::<S, E>(offset(self.key), &mut scratch);
                self.arrange_values::<S, E>(offset(self.value), &mut scratch.values);
                arranged = Some(head);
            }
            let end = self.shape.queries.min((span + 1) * self.span);
            let mut first = span * self.span;
            while first < end {
                let count = BLOCK.min(end - first);
                self.block::<S, E>(offset(self.query), first, count, &mut scratch);
                let to = self.strides.sequence * sequence + index * self.shape.features;
                self.write::<S, E>(to, first, count, &scratch);
                first += count;
            }
        }
    }
}

/// Calls a function with the number of vectors of a panel that begins at a column.
macro_rules! with_vectors {
    ($S:ident, $left:expr, $object:ident.$method:ident($($argument:expr),*)) => {
        match $left.div_ceil($S::LANES).min($S::VECTORS) {
            1 => $object.$method::<$S, E, 1>($($argument),*),
            2 => $object.$method::<$S, E, 2>($($argument),*),
            3 => $object.$method::<$S, E, 3>($($argument),*),
            _ => $object.$method::<$S, E, 4>($($argument),*),
        }
    };
}

impl Attend<'_> {
    #[inline(always)]
    fn arrange_keys<S: Simd, E: Element>(&self, offset: usize, scratch: &mut Scratch<E>) {
        let Heads { features, keys, .. } = self.shape;
        let Scratch { keys: to, row, .. } = scratch;
        let width = S::VECTORS * S::LANES;
        let depth = features.div_ceil(E::CHANNELS);
        row.resize(depth, 0.0);
        to.clear();
        to.resize(keys.next_multiple_of(S::LANES) * depth, E::zeroed());
        for (panel, to) in to.chunks_mut(width * depth).enumerate() {
            let columns = to.len() / depth;
            for column in 0..columns.min(keys - panel * width) {
                let from = offset + (panel * width + column) * self.key.strides.token;
                let mut key = &self.key.numbers[from..][..features];
                if E::CHANNELS > 1 {
                    put_pairs::<S>(key, row);
                    key = row;
                }
                let key: &[E] = bytemuck::cast_slice(key);
                for (number, to) in key.iter().zip(to[column..].iter_mut().step_by(columns)) {
                    *to = *number;
                }
            }
        }
    }

    #[inline(always)]
    fn arrange_values<S: Simd, E: Element>(&self, offset: usize, to: &mut Vec<E>) {
        let Heads { features, keys, .. } = self.shape;
        let width = S::VECTORS * S::LANES;
        let depth = keys.div_ceil(E::CHANNELS);
        to.clear();
        to.resize(features.next_multiple_of(S::LANES) * depth, E::zeroed());
        for (panel, to) in to.chunks_mut(width * depth).enumerate() {
            let columns = to.len() / depth;
            let count = columns.min(features - panel * width);
            let value = |token: usize| {
                let from = offset + token * self.value.strides.token + panel * width;
                &self.value.numbers[from..][..count]
            };
            for (step, to) in to.chunks_exact_mut(columns).enumerate() {
                let token = step * E::CHANNELS;
                if E::CHANNELS > 1 {
                    let next = (token + 1 < keys).then(|| value(token + 1));
                    put_as_pairs::<S>(value(token), next, bytemuck::cast_slice_mut(to));
                } else {
                    bytemuck::cast_slice_mut(to)[..count].copy_from_slice(value(token));
                }
            }
        }
    }

    /// The weighted values of a block of queries, not yet divided by the sum of the weights.
    ///
    /// Weights are relative to the greatest score so far; where a greater one comes, what there is shrinks (Milakov and
    /// Gimelshein, "Online normalizer calculation for softmax", 2018).
    #[inline(always)]
    fn block<S: Simd, E: Element>(
        &self,
        offset: usize,
        first: usize,
        count: usize,
        scratch: &mut Scratch<E>,
    ) {
        let Heads { features, keys, .. } = self.shape;
        let Scratch {
            keys: arranged_keys,
            values,
            queries,
            scores,
            sums,
            state,
            table,
            ..
        } = scratch;
        let width = features.next_multiple_of(S::LANES);
        let tiles = count.div_ceil(ROWS);
        sums.clear();
        sums.resize(tiles * ROWS * width, 0.0);
        state.clear();
        state.resize(count, [f32::NEG_INFINITY, 0.0]);
        let stride = KEYS.min(keys).next_multiple_of(TOGETHER * S::LANES);
        scores.resize(tiles * ROWS * stride, 0.0);
        // In powers of two.
        let scale = (std::f64::consts::LOG2_E / (features as f64).sqrt()) as f32;
        let depth = features.div_ceil(E::CHANNELS);
        let query = |index: usize| {
            let at = offset + (first + index) * self.query.strides.token;
            &self.query.numbers[at..][..features]
        };
        if E::CHANNELS > 1 {
            queries.resize(BLOCK * depth, 0.0);
            for (index, to) in queries.chunks_exact_mut(depth).take(count).enumerate() {
                put_pairs::<S>(query(index), to);
            }
        }
        let mut from = 0;
        while from < keys {
            let some = KEYS.min(keys - from);
            table.clear();
            table.extend((0..tiles).map(|tile| {
                std::array::from_fn(|row| {
                    let index = (tile * ROWS + row).min(count - 1);
                    match E::CHANNELS {
                        1 => query(index).as_ptr(),
                        _ => queries[index * depth..][..depth].as_ptr(),
                    }
                })
            }));
            let product = Product {
                table,
                depth,
                stride,
                adds: false,
            };
            // Panels are multiples of what KEYS is a multiple of.
            let panels = &arranged_keys[from * depth..];
            let padded = some.next_multiple_of(S::LANES);
            let mut column = 0;
            while column < padded {
                let panel = &panels[column * depth..];
                let left = padded - column;
                with_vectors!(S, left, product.compute(panel, &mut scores[column..]));
                column += left.min(S::VECTORS * S::LANES);
            }
            for (index, state) in state.iter_mut().enumerate() {
                let seen = match self.shape.causal {
                    true => (first + index + 1).saturating_sub(from).min(some),
                    false => some,
                };
                let scores = &mut scores[index * stride..][..stride];
                let shrink = softmax::<S, E>(scores, seen, some, scale, state);
                if from > 0 {
                    for sum in &mut sums[index * width..][..width] {
                        *sum *= shrink;
                    }
                }
            }
            table.clear();
            table.extend((0..tiles).map(|tile| {
                std::array::from_fn(|row| {
                    let query = (tile * ROWS + row).min(count - 1);
                    scores[query * stride..][..some].as_ptr()
                })
            }));
            let product = Product {
                table,
                depth: some.div_ceil(E::CHANNELS),
                stride: width,
                adds: from > 0,
            };
            let mut column = 0;
            while column < width {
                let left = width - column;
                let columns = left.min(S::VECTORS * S::LANES);
                let above = column * keys.div_ceil(E::CHANNELS);
                let panel = &values[above + from / E::CHANNELS * columns..];
                with_vectors!(S, left, product.compute(panel, &mut sums[column..]));
                column += columns;
            }
            from += some;
        }
    }

    #[inline(always)]
    fn write<S: Simd, E>(&self, offset: usize, first: usize, count: usize, scratch: &Scratch<E>) {
        let features = self.shape.features;
        let width = features.next_multiple_of(S::LANES);
        for (index, [_, total]) in scratch.state.iter().enumerate().take(count) {
            let at = offset + (first + index) * self.strides.token;
            // SAFETY: this head of this token belongs to this task alone.
            let out = unsafe { self.out.part(at, features) };
            let sums = &scratch.sums[index * width..][..features];
            let share = 1.0 / total;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * share;
            }
        }
    }
}

/// Pairs of the numbers of two rows, or of one and zeros.
#[inline(always)]
fn put_as_pairs<S: Simd>(row: &[f32], next: Option<&[f32]>, to: &mut [[bf16; 2]]) {
    let narrow = |row: &[f32]| {
        let mut narrow = [bf16::ZERO; MOST_LANES];
        let vector = match row.len() == S::LANES {
            true => S::of(row),
            false => S::of_some(row, 0.0),
        };
        // SAFETY: there is room for any vector's.
        unsafe { vector.store_bf16(narrow.as_mut_ptr()) };
        narrow
    };
    for (index, row) in row.chunks(S::LANES).enumerate() {
        let from = index * S::LANES;
        let first = narrow(row);
        let second = next.map_or([bf16::ZERO; MOST_LANES], |next| {
            narrow(&next[from..][..row.len()])
        });
        for (lane, to) in to[from..][..S::LANES].iter_mut().enumerate() {
            *to = [first[lane], second[lane]];
        }
    }
}

/// Vectors of scores that are looked at together, so that none waits for another.
const TOGETHER: usize = 4;

/// Scores to weights in place, relative to the greatest score so far, and zero from `seen` on to `end`. What earlier weights have
/// to be multiplied with.
///
/// Where weights are halves of pairs, they are in the first half of the place.
#[inline(always)]
fn softmax<S: Simd, E: Element>(
    scores: &mut [f32],
    seen: usize,
    end: usize,
    scale: f32,
    state: &mut [f32; 2],
) -> f32 {
    let width = TOGETHER * S::LANES;
    let padded = seen.next_multiple_of(width);
    scores[seen..padded].fill(f32::NEG_INFINITY);
    let mut greatest = [S::splat(f32::NEG_INFINITY); TOGETHER];
    for scores in scores[..padded].chunks_exact(width) {
        for (scores, greatest) in scores.chunks_exact(S::LANES).zip(&mut greatest) {
            *greatest = S::of(scores).max(*greatest);
        }
    }
    let [a, b, c, d] = greatest;
    let [before, total] = *state;
    let greatest = before.max(a.max(b).max(c.max(d)).greatest() * scale);
    let shrink = (before - greatest).exp2();
    let (scales, offset) = (S::splat(scale), S::splat(-greatest));
    let mut totals = [S::zero(); TOGETHER];
    for at in (0..padded).step_by(width) {
        let some = &mut scores[at..][..width];
        let mut weights = [S::zero(); TOGETHER];
        let vectors = some.chunks_exact(S::LANES).zip(&mut weights);
        for ((scores, weights), total) in vectors.zip(&mut totals) {
            *weights = exp2_of_negative(S::of(scores).mul_add(scales, offset));
            *total = total.add(*weights);
        }
        if E::CHANNELS == 1 {
            for (weights, to) in weights.iter().zip(some.chunks_exact_mut(S::LANES)) {
                weights.put(to);
            }
        } else {
            let halves = &mut as_halves(scores)[at..][..width];
            for (weights, to) in weights.iter().zip(halves.chunks_exact_mut(S::LANES)) {
                // SAFETY: there is room for as many.
                unsafe { weights.store_bf16(to.as_mut_ptr()) };
            }
        }
    }
    if E::CHANNELS == 1 {
        scores[seen..end].fill(0.0);
    } else {
        as_halves(scores)[seen..end.next_multiple_of(2)].fill(bf16::ZERO);
    }
    let [a, b, c, d] = totals;
    *state = [greatest, total * shrink + a.add(b).add(c.add(d)).sum()];
    shrink
}

fn as_halves(pairs: &mut [f32]) -> &mut [bf16] {
    bytemuck::cast_slice_mut(pairs)
}

/// Rows times a panel.
struct Product<'a> {
    table: &'a [[*const f32; ROWS]],
    /// Numbers of a row.
    depth: usize,
    /// From a row of the result to the next.
    stride: usize,
    /// Whether the result is added to what is there.
    adds: bool,
}

impl Product<'_> {
    #[inline(always)]
    fn compute<S: Simd, E: Element, const V: usize>(&self, panel: &[E], out: &mut [f32]) {
        if V > S::VECTORS {
            return;
        }
        let panel = &panel[..self.depth * V * S::LANES];
        for (tile, rows) in self.table.iter().enumerate() {
            let rows = std::slice::from_ref(rows);
            // SAFETY: every row has `depth` numbers, and the panel as many rows of V vectors.
            let sums = unsafe { sums::<S, E, V>(rows, 0..self.depth, panel.as_ptr()) };
            for (row, sums) in sums.iter().enumerate() {
                let out = &mut out[(tile * ROWS + row) * self.stride..][..V * S::LANES];
                for (sum, out) in sums.iter().zip(out.chunks_exact_mut(S::LANES)) {
                    let sum = if self.adds { sum.add(S::of(out)) } else { *sum };
                    sum.put(out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    /// As the processors that can do it at every level, in tests: only the instructions themselves are others.
    #[test]
    fn pairs_of_bf16_attend_as_rounded_numbers_do() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            let number = |index: usize| ((index + seed) * 7919 % 1009) as f32 / 504.0 - 1.0;
            let rounded = |index: usize| bf16::from_f32(number(index)).to_f32();
            (0..count).map(rounded).collect()
        };
        for (sequences, heads, features, queries, keys, causal) in [
            (1, 1, 1, 1, 1, false),
            (2, 3, 4, 7, 1, false),
            (2, 2, 9, 50, 7, false),
            (1, 2, 40, 13, 77, true),
            (1, 1, 9, 700, 700, true),
            (1, 1, 97, 5, 1031, false),
        ] {
            let shape = Heads {
                sequences,
                heads,
                features,
                queries,
                keys,
                causal,
                storage: Storage::Bf16Pairs,
            };
            let strides = |tokens: usize| Strides {
                sequence: tokens * heads * features,
                token: heads * features,
            };
            let of = |tokens: usize, seed| numbers(sequences * tokens * heads * features, seed);
            let (q, k, v) = (of(queries, 1), of(keys, 2), of(keys, 3));
            let tokens = |numbers, tokens| Tokens {
                numbers,
                strides: strides(tokens),
            };
            let (query, key, value) = (tokens(&q, queries), tokens(&k, keys), tokens(&v, keys));
            let expected = reference::attention(shape, query, key, value);
            let mut found = vec![f32::NAN; expected.len()];
            attention(shape, query, key, value, &mut found, strides(queries));
            for (found, expected) in found.iter().zip(expected) {
                // Of the weights, whose sum is 1, each is rounded to 8 bits; numbers are at most 1.
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= 1.0 / 256.0, "{shape:?}: {found}, {expected}");
            }
        }
    }
}
