//! Attention of several heads, a block of queries and a block of keys at a time.

use rayon::prelude::*;

use crate::math::exp2_of_negative;
use crate::product::tile::{ROWS, sums};
use crate::simd::{Kernel, Simd, run};
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
    let spans = if split && all < MANY_HEADS {
        (queries / (4 * BLOCK)).clamp(1, MANY_HEADS.div_ceil(all))
    } else {
        1
    };
    let span = queries.div_ceil(spans).next_multiple_of(ROWS);
    let shared = Shared::new(out);
    let task = |tasks: std::ops::Range<usize>| {
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
/// Heads that are enough to keep all threads busy.
const MANY_HEADS: usize = 16;
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
    tasks: std::ops::Range<usize>,
    out: &'a Shared<'a>,
    strides: Strides,
}

/// Scratch memory.
#[derive(Default)]
struct Scratch {
    /// In panels; the keys of a panel side by side, features one after another.
    keys: Vec<f32>,
    /// In panels of features.
    values: Vec<f32>,
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
        let mut scratch = Scratch::default();
        let mut arranged = None;
        for task in self.tasks.clone() {
            let (head, span) = (task / self.spans, task % self.spans);
            let (sequence, index) = (head / self.shape.heads, head % self.shape.heads);
            let offset = |tokens: Tokens<'_>| {
                tokens.strides.sequence * sequence + index * self.shape.features
            };
            if arranged != Some(head) {
                self.arrange_keys::<S>(offset(self.key), &mut scratch.keys);
                self.arrange_values::<S>(offset(self.value), &mut scratch.values);
                arranged = Some(head);
            }
            let end = self.shape.queries.min((span + 1) * self.span);
            let mut first = span * self.span;
            while first < end {
                let count = BLOCK.min(end - first);
                self.block::<S>(offset(self.query), first, count, &mut scratch);
                let to = self.strides.sequence * sequence + index * self.shape.features;
                self.write::<S>(to, first, count, &scratch);
                first += count;
            }
        }
    }
}

/// Calls a function with the number of vectors of a panel that begins at a column.
macro_rules! with_vectors {
    ($S:ident, $left:expr, $object:ident.$method:ident($($argument:expr),*)) => {
        match $left.div_ceil($S::LANES).min($S::VECTORS) {
            1 => $object.$method::<$S, 1>($($argument),*),
            2 => $object.$method::<$S, 2>($($argument),*),
            3 => $object.$method::<$S, 3>($($argument),*),
            _ => $object.$method::<$S, 4>($($argument),*),
        }
    };
}

impl Attend<'_> {
    #[inline(always)]
    fn arrange_keys<S: Simd>(&self, offset: usize, to: &mut Vec<f32>) {
        let Heads { features, keys, .. } = self.shape;
        let width = S::VECTORS * S::LANES;
        to.clear();
        to.resize(keys.next_multiple_of(S::LANES) * features, 0.0);
        for (panel, to) in to.chunks_mut(width * features).enumerate() {
            let columns = to.len() / features;
            for column in 0..columns.min(keys - panel * width) {
                let from = offset + (panel * width + column) * self.key.strides.token;
                let key = &self.key.numbers[from..][..features];
                for (number, to) in key.iter().zip(to[column..].iter_mut().step_by(columns)) {
                    *to = *number;
                }
            }
        }
    }

    #[inline(always)]
    fn arrange_values<S: Simd>(&self, offset: usize, to: &mut Vec<f32>) {
        let Heads { features, keys, .. } = self.shape;
        let width = S::VECTORS * S::LANES;
        to.clear();
        to.resize(features.next_multiple_of(S::LANES) * keys, 0.0);
        for (panel, to) in to.chunks_mut(width * keys).enumerate() {
            let columns = to.len() / keys;
            let count = columns.min(features - panel * width);
            for (token, to) in to.chunks_exact_mut(columns).enumerate() {
                let from = offset + token * self.value.strides.token + panel * width;
                to[..count].copy_from_slice(&self.value.numbers[from..][..count]);
            }
        }
    }

    /// The weighted values of a block of queries, not yet divided by the sum of the weights.
    ///
    /// Weights are relative to the greatest score so far; where a greater one comes, what there is shrinks (Milakov and
    /// Gimelshein, "Online normalizer calculation for softmax", 2018).
    #[inline(always)]
    fn block<S: Simd>(&self, offset: usize, first: usize, count: usize, scratch: &mut Scratch) {
        let Heads { features, keys, .. } = self.shape;
        let Scratch {
            keys: arranged_keys,
            values,
            scores,
            sums,
            state,
            table,
        } = scratch;
        let width = features.next_multiple_of(S::LANES);
        let tiles = count.div_ceil(ROWS);
        sums.clear();
        sums.resize(tiles * ROWS * width, 0.0);
        state.clear();
        state.resize(count, [f32::NEG_INFINITY, 0.0]);
        let stride = KEYS.min(keys).next_multiple_of(S::LANES);
        scores.resize(tiles * ROWS * stride, 0.0);
        // In powers of two.
        let scale = (std::f64::consts::LOG2_E / (features as f64).sqrt()) as f32;
        let mut from = 0;
        while from < keys {
            let some = KEYS.min(keys - from);
            table.clear();
            table.extend((0..tiles).map(|tile| {
                std::array::from_fn(|row| {
                    let query = first + (tile * ROWS + row).min(count - 1);
                    let at = offset + query * self.query.strides.token;
                    self.query.numbers[at..][..features].as_ptr()
                })
            }));
            let product = Product {
                table,
                depth: features,
                stride,
                adds: false,
            };
            // Panels are multiples of what KEYS is a multiple of.
            let panels = &arranged_keys[from * features..];
            let padded = some.next_multiple_of(S::LANES);
            let mut column = 0;
            while column < padded {
                let panel = &panels[column * features..];
                let left = padded - column;
                with_vectors!(S, left, product.compute(panel, &mut scores[column..]));
                column += left.min(S::VECTORS * S::LANES);
            }
            for (index, state) in state.iter_mut().enumerate() {
                let seen = match self.shape.causal {
                    true => (first + index + 1).saturating_sub(from).min(some),
                    false => some,
                };
                let scores = &mut scores[index * stride..][..some];
                let shrink = softmax::<S>(scores, seen, scale, state);
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
                depth: some,
                stride: width,
                adds: from > 0,
            };
            let mut column = 0;
            while column < width {
                let left = width - column;
                let columns = left.min(S::VECTORS * S::LANES);
                let panel = &values[column * keys + from * columns..];
                with_vectors!(S, left, product.compute(panel, &mut sums[column..]));
                column += columns;
            }
            from += some;
        }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, offset: usize, first: usize, count: usize, scratch: &Scratch) {
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

/// Scores to weights in place, relative to the greatest score so far, and zero from `seen` on. What earlier weights have to be
/// multiplied with.
#[inline(always)]
fn softmax<S: Simd>(scores: &mut [f32], seen: usize, scale: f32, state: &mut [f32; 2]) -> f32 {
    let (seen, hidden) = scores.split_at_mut(seen);
    hidden.fill(0.0);
    let mut greatest = [S::splat(f32::NEG_INFINITY); 4];
    let vectors = seen.chunks_exact(S::LANES);
    let rest = vectors.remainder();
    for (index, vector) in vectors.enumerate() {
        greatest[index % 4] = S::of(vector).max(greatest[index % 4]);
    }
    if !rest.is_empty() {
        greatest[0] = S::of_some(rest, f32::NEG_INFINITY).max(greatest[0]);
    }
    let greatest = greatest[0]
        .max(greatest[1])
        .max(greatest[2].max(greatest[3]));
    let [before, total] = *state;
    let greatest = before.max(greatest.greatest() * scale);
    let shrink = (before - greatest).exp2();
    let (scales, offset) = (S::splat(scale), S::splat(-greatest));
    let mut totals = [S::zero(); 4];
    let mut vectors = seen.chunks_exact_mut(S::LANES);
    for (index, vector) in vectors.by_ref().enumerate() {
        let weight = exp2_of_negative(S::of(vector).mul_add(scales, offset));
        totals[index % 4] = totals[index % 4].add(weight);
        weight.put(vector);
    }
    let rest = vectors.into_remainder();
    if !rest.is_empty() {
        let weight = exp2_of_negative(S::of_some(rest, f32::NEG_INFINITY).mul_add(scales, offset));
        totals[0] = totals[0].add(weight);
        weight.put_some(rest);
    }
    let totals = totals[0].add(totals[1]).add(totals[2].add(totals[3]));
    *state = [greatest, total * shrink + totals.sum()];
    shrink
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
    fn compute<S: Simd, const V: usize>(&self, panel: &[f32], out: &mut [f32]) {
        if V > S::VECTORS {
            return;
        }
        let panel = &panel[..self.depth * V * S::LANES];
        for (tile, rows) in self.table.iter().enumerate() {
            let rows = std::slice::from_ref(rows);
            // SAFETY: every row has `depth` numbers, and the panel as many rows of V vectors.
            let sums = unsafe { sums::<S, f32, V>(rows, 0..self.depth, panel.as_ptr()) };
            for (row, sums) in sums.iter().enumerate() {
                let out = &mut out[(tile * ROWS + row) * self.stride..];
                for (vector, sum) in sums.iter().enumerate() {
                    let out = &mut out[vector * S::LANES..][..S::LANES];
                    let sum = if self.adds { sum.add(S::of(out)) } else { *sum };
                    sum.put(out);
                }
            }
        }
    }
}
