//! A block of a product: the tiles whose sums are in registers.

use std::ops::Range;

use half::bf16;

use super::{Finish, Rows};
use crate::math::{Activation, gelu};
use crate::packed::{Element, Numbers, Packed};
use crate::scratch::Scratch;
use crate::simd::{Kernel, MOST_LANES, Simd, run};
use crate::split::Shared;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;

/// Tiles for which narrow weights are widened once, not by each.
const MANY: usize = 4;

/// Panels for which rows are interleaved: each of them reads the rows once.
const MANY_PANELS: usize = 16;

/// Bytes that a cache fetches at a time.
const LINE: usize = 64;

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

impl Block<'_> {
    /// A part of the rows of each tile: a number of all rows, and then the next of all, so that the tile reads them in one stream.
    /// Where weights are pairs, such pairs of `bf16`, each in the bits of an `f32`.
    #[inline(always)]
    fn interleaved<S: Simd, E: Element>(&self, part: &Part) -> Scratch {
        let count = part.steps.len();
        let channels = E::CHANNELS * part.steps.start
            ..self.weights.channels().min(E::CHANNELS * part.steps.end);
        let tiles = self.table.chunks(self.weights.taps());
        let mut interleaved = Scratch::new(tiles.len() * part.taps.len() * ROWS * count);
        let mut pairs = Scratch::new(if E::CHANNELS == 1 { 0 } else { ROWS * count });
        let rows = tiles.flat_map(|tile| &tile[part.taps.clone()]);
        for (rows, to) in rows.zip(interleaved.chunks_exact_mut(ROWS * count)) {
            // SAFETY: every row of the table has as many channels as a tap.
            let rows = rows.map(|row| unsafe {
                std::slice::from_raw_parts(row.add(channels.start), channels.len())
            });
            if E::CHANNELS == 1 {
                interleave(rows, to);
            } else {
                for (row, to) in rows.into_iter().zip(pairs.chunks_exact_mut(count)) {
                    put_pairs::<S>(row, to);
                }
                interleave(
                    std::array::from_fn(|row| &pairs[row * count..][..count]),
                    to,
                );
            }
        }
        interleaved
    }
}

#[inline(always)]
fn interleave(rows: [&[f32]; ROWS], to: &mut [f32]) {
    let (to, _) = to.as_chunks_mut::<ROWS>();
    let [a, b, c, d, e, f] = rows.map(|row| &row[..to.len()]);
    for (index, to) in to.iter_mut().enumerate() {
        *to = [a[index], b[index], c[index], d[index], e[index], f[index]];
    }
}

struct Compute<'a> {
    block: &'a Block<'a>,
    finish: &'a Finish<'a>,
    out: &'a Shared<'a>,
}

/// A part of the inner dimension: some taps, and of each of them the same steps through its channels.
#[derive(Clone)]
struct Part {
    taps: Range<usize>,
    steps: Range<usize>,
}

/// Cuts the inner dimension into parts of about `depth`: whole taps, or pieces of one.
fn parts(taps: usize, steps: usize, depth: usize) -> Vec<Part> {
    let pieces = (steps + depth / 2) / depth;
    if pieces <= 1 {
        let most = (depth / steps.max(1)).max(1);
        let parts = taps.div_ceil(most);
        let cut = |part| part * taps / parts;
        return (0..parts)
            .map(|part| Part {
                taps: cut(part)..cut(part + 1),
                steps: 0..steps,
            })
            .collect();
    }
    let cut = |piece| piece * steps / pieces;
    (0..taps)
        .flat_map(|tap| (0..pieces).map(move |piece| (tap, piece)))
        .map(|(tap, piece)| Part {
            taps: tap..tap + 1,
            steps: cut(piece)..cut(piece + 1),
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
            Numbers::Bf16Pairs(numbers) if S::PAIRS => self.over_panels::<S, _>(numbers),
            Numbers::Bf16Pairs(_) => unreachable!("all weights are packed for the level in use"),
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
        let parts = parts(weights.taps(), weights.steps(), S::DEPTH);
        let last = parts.len() - 1;
        // Sums that are not complete, tile by tile; panels one after another.
        let tiles = rows.len().div_ceil(ROWS);
        let size = tiles * ROWS * S::VECTORS * S::LANES;
        let mut partial = Scratch::new(if last == 0 { 0 } else { size * panels.len() });
        let place = |part: &Part, panel: usize| {
            let columns = weights.vectors(panel) * S::LANES;
            let start = part.taps.start * weights.steps() + part.steps.start;
            let from = weights.start(panel) + start * columns;
            from..from + part.taps.len() * part.steps.len() * columns
        };
        for (index, part) in parts.iter().enumerate() {
            let pays = tiles >= MANY && panels.len() >= MANY_PANELS;
            let interleaved =
                (pays || E::CHANNELS > 1).then(|| self.block.interleaved::<S, E>(part));
            for panel in panels.clone() {
                let here = place(part, panel);
                let next = match parts.get(index + 1) {
                    _ if panel + 1 < panels.end => place(part, panel + 1),
                    Some(part) => place(part, panels.start),
                    // What lies behind: another block's, or those of the next of several matrices.
                    None => here.end..numbers.len().min(here.end + here.len()),
                };
                // A single tile would wait for them all.
                let next = if tiles > 1 { &numbers[next] } else { &[] };
                let stage = Stage {
                    part,
                    interleaved: interleaved.as_deref(),
                    panel,
                    next: bytemuck::cast_slice(next),
                    first: index == 0,
                    last: index == last,
                };
                let from = (panel - panels.start) * size;
                let partial = partial.get_mut(from..from + size).unwrap_or_default();
                let numbers = &numbers[here];
                if E::NARROW && tiles >= MANY {
                    let mut wide = Scratch::new(numbers.len());
                    let vectors = numbers.chunks_exact(S::LANES);
                    for (to, from) in wide.chunks_exact_mut(S::LANES).zip(vectors) {
                        // SAFETY: a vector has as many numbers as a chunk.
                        unsafe { E::load::<S>(from.as_ptr()) }.put(to);
                    }
                    self.over_vectors::<S, f32>(&wide, &stage, partial);
                } else {
                    self.over_vectors::<S, E>(numbers, &stage, partial);
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
        let Block { rows, table, .. } = self.block;
        let columns = V * S::LANES;
        let Part { taps, steps } = stage.part;
        let depth = taps.len() * steps.len();
        assert_eq!(panel.len(), depth * columns);
        let count = rows.len().div_ceil(ROWS);
        let tiles = table.chunks(table.len() / count);
        let mut next = stage.next.chunks(stage.next.len().div_ceil(count).max(1));
        for (index, (first, table)) in rows.clone().step_by(ROWS).zip(tiles).enumerate() {
            for line in next.next().unwrap_or_default().chunks(LINE) {
                S::prefetch(line.as_ptr());
            }
            // What cannot be is said for the compiler, which would make code for it.
            let mut sums = match stage.interleaved {
                Some(all) if !E::NARROW => {
                    let tile = &all[index * ROWS * depth..][..ROWS * depth];
                    // SAFETY: the panel has a row of weights for each step.
                    unsafe { sums_of_interleaved::<S, E, V>(tile, panel.as_ptr()) }
                }
                None if E::CHANNELS == 1 => {
                    let table = &table[taps.clone()];
                    // SAFETY: every row of the table has the part's steps, and the panel a row of weights for each of them.
                    unsafe { sums::<S, E, V>(table, steps.clone(), panel.as_ptr()) }
                }
                _ => unreachable!(
                    "pairs are interleaved, and what is meets weights that were widened"
                ),
            };
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
        // In loops: not all compilations put the closure of `from_fn` into this function, whose instructions it needs.
        let mut vectors = [S::zero(); V];
        for (index, vector) in vectors.iter_mut().enumerate() {
            *vector = S::of(&bias[index * S::LANES..]);
        }
        let biased = |sums: &[S; V]| -> [S; V] {
            let mut biased = *sums;
            for (sum, bias) in biased.iter_mut().zip(vectors) {
                *sum = sum.add(bias);
            }
            biased
        };
        let first = weights.first_column(panel);
        let count = weights.outputs() - first;
        let rows = (row..).zip(sums);
        // Loops of their own: with few channels, what is asked for each row counts.
        if weights.is_gated() {
            for (row, sums) in rows {
                let mut results = biased(sums);
                let (values, gates) = results.split_at_mut(V / 2);
                for (value, gate) in values.iter_mut().zip(gates) {
                    *value = value.mul(gelu(*gate));
                }
                match count >= values.len() * S::LANES {
                    true => self.put_all(row, first, values),
                    false => self.put_some(row, first, count, values),
                }
            }
        } else if count >= V * S::LANES {
            for (row, sums) in rows {
                self.put_all(row, first, &mut biased(sums));
            }
        } else {
            for (row, sums) in rows {
                self.put_some(row, first, count, &biased(sums));
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
    /// The part of the rows, if they are [interleaved](Block::interleaved).
    interleaved: Option<&'a [f32]>,
    panel: usize,
    /// The weights that are read after these: every tile fetches its share of them.
    next: &'a [u8],
    first: bool,
    last: bool,
}

/// Pairs of neighbours of a row; of an odd number, the last with zero.
#[inline(always)]
pub(crate) fn put_pairs<S: Simd>(row: &[f32], to: &mut [f32]) {
    let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
    let vectors = row.chunks_exact(S::LANES);
    let rest = vectors.remainder();
    let mut outs = to.chunks_exact_mut(S::LANES);
    for (numbers, out) in vectors.zip(&mut outs) {
        // SAFETY: there are as many.
        unsafe { S::of(numbers).store_bf16(out.as_mut_ptr()) };
    }
    if !rest.is_empty() {
        let mut last = [bf16::ZERO; MOST_LANES];
        // SAFETY: there is room for any vector's.
        unsafe { S::of_some(rest, 0.0).store_bf16(last.as_mut_ptr()) };
        let out = &mut to[row.len() - rest.len()..];
        out.copy_from_slice(&last[..out.len()]);
    }
}

/// The sums of a tile over some taps.
///
/// # Safety
///
/// The numbers at `steps` must be readable at every pointer of `table`, and V vectors for each of them, tap after tap, at `panel`.
#[inline(always)]
pub(crate) unsafe fn sums<S: Simd, E: Element, const V: usize>(
    table: &[[*const f32; ROWS]],
    steps: Range<usize>,
    panel: *const E,
) -> [[S; V]; ROWS] {
    let mut sums = [[S::zero(); V]; ROWS];
    let count = steps.len();
    for (tap, rows) in table.iter().enumerate() {
        // SAFETY: the caller promises as many vectors.
        let panel = unsafe { panel.add(tap * count * V * S::LANES) };
        // SAFETY: the caller promises the numbers.
        let number = |row: usize, step: usize| unsafe { *rows[row].add(steps.start + step) };
        // SAFETY: the caller promises V vectors for each step.
        unsafe { add_steps(count, number, panel, &mut sums) };
    }
    sums
}

/// The same of rows that are [interleaved](Block::interleaved).
///
/// # Safety
///
/// For all `ROWS` numbers of `tile` V vectors must be readable at `panel`.
#[inline(always)]
unsafe fn sums_of_interleaved<S: Simd, E: Element, const V: usize>(
    tile: &[f32],
    panel: *const E,
) -> [[S; V]; ROWS] {
    let mut sums = [[S::zero(); V]; ROWS];
    let (steps, _) = tile.as_chunks::<ROWS>();
    // SAFETY: steps are counted from 0 to their number.
    let number = |row: usize, step: usize| unsafe { steps.get_unchecked(step)[row] };
    // SAFETY: the caller promises V vectors for each step.
    unsafe { add_steps(steps.len(), number, panel, &mut sums) };
    sums
}

/// Steps between two tests whether there are more: with fewer instructions, less time is lost to what else shares the core. Of
/// narrow weights only one: with more of them widened ahead, the sums would not all be in registers.
const TOGETHER: usize = 4;

/// Adds the products of the `number` of each row, at each of `count` steps, with the weights of the step.
///
/// # Safety
///
/// V vectors must be readable for each step at `panel`.
#[inline(always)]
unsafe fn add_steps<S: Simd, E: Element, const V: usize>(
    count: usize,
    number: impl Fn(usize, usize) -> f32,
    mut panel: *const E,
    sums: &mut [[S; V]; ROWS],
) {
    let mut first = 0;
    while !E::NARROW && first + TOGETHER <= count {
        for step in 0..TOGETHER {
            // SAFETY: the caller promises V vectors for each step.
            unsafe {
                let weights = panel.add(step * V * S::LANES);
                add_step(|row| number(row, first + step), weights, sums);
            }
        }
        first += TOGETHER;
        // SAFETY: likewise.
        panel = unsafe { panel.add(TOGETHER * V * S::LANES) };
    }
    for step in first..count {
        // SAFETY: likewise.
        unsafe {
            add_step(|row| number(row, step), panel, sums);
            panel = panel.add(V * S::LANES);
        }
    }
}

/// One step of [`add_steps`].
///
/// # Safety
///
/// V vectors must be readable at `weights`.
#[inline(always)]
unsafe fn add_step<S: Simd, E: Element, const V: usize>(
    number: impl Fn(usize) -> f32,
    weights: *const E,
    sums: &mut [[S; V]; ROWS],
) {
    let weights: [S; V] = std::array::from_fn(|vector| {
        // SAFETY: the caller's promise.
        unsafe { E::load::<S>(weights.add(vector * S::LANES)) }
    });
    for (row, sums) in sums.iter_mut().enumerate() {
        let number = S::splat(number(row));
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = E::add_products(weights, number, *sum);
        }
    }
}
