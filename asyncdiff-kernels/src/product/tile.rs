//! A block of a product: the tiles whose sums are in registers.

use std::ops::Range;

use super::{Finish, Rows};
use crate::math::{Activation, gelu};
use crate::packed::{Element, Numbers, Packed};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, run};
use crate::split::Shared;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;

/// Tiles for which narrow weights are widened once, not by each.
const MANY: usize = 4;

/// Some rows and some panels of a product.
pub(super) struct Block<'a> {
    rows: Range<usize>,
    panels: Range<usize>,
    /// For every tile, and in it for every tap, where its rows are. The last rows of an incomplete tile are there twice.
    table: Vec<[*const f32; ROWS]>,
    weights: &'a Packed,
}

impl<'a> Block<'a> {
    pub fn new<'r>(
        rows: Range<usize>,
        panels: Range<usize>,
        source: &impl Rows<'r>,
        weights: &'a Packed,
    ) -> Self
    where
        'r: 'a,
    {
        let taps = weights.taps();
        let tiles = rows.len().div_ceil(ROWS);
        let mut table = vec![[std::ptr::null(); ROWS]; tiles * taps];
        for (tile, table) in table.chunks_mut(taps).enumerate() {
            for index in 0..ROWS {
                let row = (rows.start + tile * ROWS + index).min(rows.end - 1);
                let place = source.place(row);
                for (tap, pointers) in table.iter_mut().enumerate() {
                    let numbers = source.numbers(&place, tap);
                    assert_eq!(numbers.len(), weights.channels(), "a tap's numbers");
                    pointers[index] = numbers.as_ptr();
                }
            }
        }
        Self {
            rows,
            panels,
            table,
            weights,
        }
    }

    /// Computes the block of the result, and touches nothing else of it.
    pub fn compute(&self, finish: &Finish<'_>, out: &Shared<'_>) {
        run(Compute {
            block: self,
            finish,
            out,
        });
    }
}

struct Compute<'a> {
    block: &'a Block<'a>,
    finish: &'a Finish<'a>,
    out: &'a Shared<'a>,
}

/// A part of the inner dimension: some taps, and of each of them the same channels.
#[derive(Clone)]
struct Part {
    taps: Range<usize>,
    channels: Range<usize>,
}

/// Cuts the inner dimension into parts of about `depth`: whole taps, or parts of one.
fn parts(taps: usize, channels: usize, depth: usize) -> Vec<Part> {
    if channels <= depth {
        let most = depth / channels.max(1);
        let parts = taps.div_ceil(most);
        let cut = |part| part * taps / parts;
        return (0..parts)
            .map(|part| Part {
                taps: cut(part)..cut(part + 1),
                channels: 0..channels,
            })
            .collect();
    }
    let pieces = channels.div_ceil(depth);
    let cut = |piece| piece * channels / pieces;
    (0..taps)
        .flat_map(|tap| (0..pieces).map(move |piece| (tap, piece)))
        .map(|(tap, piece)| Part {
            taps: tap..tap + 1,
            channels: cut(piece)..cut(piece + 1),
        })
        .collect()
}

impl Kernel for Compute<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.block.weights.numbers() {
            Numbers::F32(numbers) => self.over_panels::<S, _>(numbers),
            Numbers::F16(numbers) => self.over_panels::<S, _>(numbers),
            Numbers::Bf16(numbers) => self.over_panels::<S, _>(numbers),
        }
    }
}

impl Compute<'_> {
    #[inline(always)]
    fn over_panels<S: Simd, E: Element>(&self, numbers: &[E]) {
        let Block {
            rows,
            panels,
            weights,
            ..
        } = self.block;
        let parts = parts(weights.taps(), weights.channels(), S::DEPTH);
        let last = parts.len() - 1;
        // Sums that are not complete, tile by tile; panels one after another.
        let tiles = rows.len().div_ceil(ROWS);
        let size = tiles * ROWS * S::VECTORS * S::LANES;
        let mut partial = Scratch::new(if last == 0 { 0 } else { size * panels.len() });
        for (index, part) in parts.iter().enumerate() {
            let Part { taps, channels } = part;
            for panel in panels.clone() {
                let stage = Stage {
                    part,
                    panel,
                    first: index == 0,
                    last: index == last,
                };
                let from = (panel - panels.start) * size;
                let partial = partial.get_mut(from..from + size).unwrap_or_default();
                let columns = weights.vectors(panel) * S::LANES;
                let start = taps.start * weights.channels() + channels.start;
                let count = taps.len() * channels.len() * columns;
                let numbers = &numbers[weights.start(panel) + start * columns..][..count];
                if E::IS_WIDE || tiles < MANY {
                    self.over_vectors::<S, E>(numbers, &stage, partial);
                } else {
                    let mut wide = Scratch::new(count);
                    let vectors = numbers.chunks_exact(S::LANES);
                    for (to, from) in wide.chunks_exact_mut(S::LANES).zip(vectors) {
                        // SAFETY: a vector has as many numbers as a chunk.
                        unsafe { E::load::<S>(from.as_ptr()) }.put(to);
                    }
                    self.over_vectors::<S, f32>(&wide, &stage, partial);
                }
            }
        }
    }

    #[inline(always)]
    fn over_vectors<S: Simd, E: Element>(
        &self,
        numbers: &[E],
        stage: &Stage<'_>,
        partial: &mut [f32],
    ) {
        match self.block.weights.vectors(stage.panel) {
            1 => self.over_tiles::<S, E, 1>(numbers, stage, partial),
            2 => self.over_tiles::<S, E, 2>(numbers, stage, partial),
            3 => self.over_tiles::<S, E, 3>(numbers, stage, partial),
            _ => self.over_tiles::<S, E, 4>(numbers, stage, partial),
        }
    }

    #[inline(always)]
    fn over_tiles<S: Simd, E: Element, const V: usize>(
        &self,
        panel: &[E],
        stage: &Stage<'_>,
        partial: &mut [f32],
    ) {
        // A level has no panels wider than its own, but the compiler does not know.
        if V > S::VECTORS {
            return;
        }
        let Block {
            rows,
            table,
            weights,
            ..
        } = self.block;
        let columns = V * S::LANES;
        let taps = weights.taps();
        let Part {
            taps: some,
            channels,
        } = stage.part;
        assert_eq!(panel.len(), some.len() * channels.len() * columns);
        for (index, first) in rows.clone().step_by(ROWS).enumerate() {
            let table = &table[index * taps..][some.clone()];
            // SAFETY: every row of the table has as many channels as a tap, and the panel has a column of weights for each of
            // the part's.
            let mut sums =
                unsafe { sums::<S, E, V>(table, channels.start, channels.len(), panel.as_ptr()) };
            if !(stage.first && stage.last) {
                let partial = &mut partial[index * ROWS * columns..][..ROWS * columns];
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let partial = &mut partial[row * columns + vector * S::LANES..];
                        if !stage.first {
                            *sum = sum.add(S::of(partial));
                        }
                        if !stage.last {
                            sum.put(partial);
                        }
                    }
                }
            }
            if stage.last {
                let count = ROWS.min(rows.end - first);
                self.write::<S, V>(first, stage.panel, &sums[..count]);
            }
        }
    }

    /// Finishes the rows of a tile.
    #[inline(always)]
    fn write<S: Simd, const V: usize>(&self, row: usize, panel: usize, sums: &[[S; V]]) {
        let weights = self.block.weights;
        let bias = weights.bias(panel);
        let bias: [S; V] = std::array::from_fn(|vector| S::of(&bias[vector * S::LANES..]));
        let first = weights.first_column(panel);
        let vectors = if weights.is_gated() { V / 2 } else { V };
        let count = weights.outputs() - first;
        for (row, sums) in (row..).zip(sums) {
            let mut results: [S; V] = std::array::from_fn(|vector| sums[vector].add(bias[vector]));
            if weights.is_gated() {
                for vector in 0..vectors {
                    results[vector] = results[vector].mul(gelu(results[vector + vectors]));
                }
            }
            match count.checked_sub(vectors * S::LANES) {
                Some(_) => self.put_all(row, first, &mut results[..vectors]),
                None => self.put_some(row, first, count, &results),
            }
        }
    }

    /// What is added to a row of the result, from a column on.
    #[inline(always)]
    fn added(&self, row: usize, column: usize) -> [Option<&[f32]>; 2] {
        let columns = self.block.weights.outputs();
        let shift = self.finish.shift.map(|shift| {
            let from = row / shift.rows * columns + column;
            &shift.numbers[from..]
        });
        let residual = self.finish.residual;
        let residual = residual.map(|residual| &residual[row * columns + column..]);
        [shift, residual]
    }

    /// Whole vectors of a row.
    #[inline(always)]
    fn put_all<S: Simd>(&self, row: usize, column: usize, results: &mut [S]) {
        let [shift, residual] = self.added(row, column);
        let add = |to: &mut [S], numbers: Option<&[f32]>| {
            if let Some(numbers) = numbers {
                for (to, numbers) in to.iter_mut().zip(numbers.chunks_exact(S::LANES)) {
                    *to = to.add(S::of(numbers));
                }
            }
        };
        add(results, shift);
        if self.finish.activation != Activation::Identity {
            for result in &mut *results {
                *result = self.finish.activation.of(*result);
            }
        }
        add(results, residual);
        let at = row * self.block.weights.outputs() + column;
        // SAFETY: blocks do not overlap, and these numbers are in this block.
        let out = unsafe { self.out.part(at, results.len() * S::LANES) };
        for (result, out) in results.iter().zip(out.chunks_exact_mut(S::LANES)) {
            result.put(out);
        }
    }

    /// The end of a row, `count` numbers.
    #[inline(always)]
    fn put_some<S: Simd>(&self, row: usize, column: usize, count: usize, results: &[S]) {
        for (vector, result) in results.iter().enumerate() {
            let from = vector * S::LANES;
            if from >= count {
                break;
            }
            let count = S::LANES.min(count - from);
            let [shift, residual] = self.added(row, column + from);
            let load = |numbers: &[f32]| S::of_some(&numbers[..count], 0.0);
            let mut result = *result;
            if let Some(shift) = shift {
                result = result.add(load(shift));
            }
            result = self.finish.activation.of(result);
            if let Some(residual) = residual {
                result = result.add(load(residual));
            }
            let at = row * self.block.weights.outputs() + column + from;
            // SAFETY: blocks do not overlap, and these numbers are in this block.
            result.put_some(unsafe { self.out.part(at, count) });
        }
    }
}

struct Stage<'a> {
    part: &'a Part,
    panel: usize,
    first: bool,
    last: bool,
}

/// The sums of a tile over some taps.
///
/// # Safety
///
/// `from + count` numbers must be readable at every pointer of `table`, and `count · V` vectors for each of its entries at
/// `panel`.
#[inline(always)]
pub(crate) unsafe fn sums<S: Simd, E: Element, const V: usize>(
    table: &[[*const f32; ROWS]],
    from: usize,
    count: usize,
    mut panel: *const E,
) -> [[S; V]; ROWS] {
    let mut sums = [[S::zero(); V]; ROWS];
    for rows in table {
        // SAFETY: the caller promises that the numbers before are there.
        let rows = rows.map(|row| unsafe { row.add(from) });
        for index in 0..count {
            let mut weights = [S::zero(); V];
            for (vector, weights) in weights.iter_mut().enumerate() {
                // SAFETY: the caller promises V vectors for each number of a row.
                *weights = unsafe { E::load::<S>(panel.add(vector * S::LANES)) };
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: the caller promises `count` numbers.
                let number = S::splat(unsafe { *row.add(index) });
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = number.mul_add(weights, *sum);
                }
            }
            // SAFETY: at most at the end of what the caller promises.
            panel = unsafe { panel.add(V * S::LANES) };
        }
    }
    sums
}
