//! Matrix products with packed weights, and what is done to each number on its way out.

pub(crate) mod tile;

use rayon::prelude::*;

use crate::math::Activation;
use crate::packed::Packed;
use crate::split::{Shared, worth_splitting};
use tile::{Block, ROWS};

/// What happens to the sums of a product before they are written:
/// `activation(sum + bias + shift) + residual`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// Added to all rows of a sample.
    pub shift: Option<Shift<'a>>,
    /// Applied to what is there by then.
    pub activation: Activation,
    /// Added at the end: as large as the result.
    pub residual: Option<&'a [f32]>,
}

/// A row of numbers for every `rows` consecutive rows of a result.
#[derive(Clone, Copy, Debug)]
pub struct Shift<'a> {
    /// `[rows of the result / rows, columns]`
    pub numbers: &'a [f32],
    /// How many rows share one.
    pub rows: usize,
}

/// `rows · weights`, `[rows, inputs]` row-major to `[rows, outputs]`.
///
/// With [gated](Packed::gated) weights a result is `value · gelu(gate)`.
///
/// # Panics
///
/// If a slice has not the size that follows from the others.
pub fn product(rows: &[f32], weights: &Packed, finish: &Finish<'_>, out: &mut [f32]) {
    let inputs = weights.inputs();
    assert!(rows.len().is_multiple_of(inputs), "whole rows");
    let channels = weights.channels();
    let source = Matrix {
        numbers: rows,
        inputs,
        channels,
    };
    product_of(rows.len() / inputs, &source, weights, finish, out);
}

/// The product of rows, by the calling thread alone.
pub(crate) fn product_here(rows: &[f32], weights: &Packed, out: &mut [f32]) {
    let inputs = weights.inputs();
    let source = Matrix {
        numbers: rows,
        inputs,
        channels: weights.channels(),
    };
    let finish = Finish::default();
    let blocks = Blocks::new(rows.len() / inputs, &source, weights, &finish, out);
    (0..blocks.count).for_each(|index| blocks.compute(index));
}

/// Where the rows of a product come from.
pub(crate) trait Rows<'a>: Sync {
    /// What all taps of a row have in common.
    type Place;
    fn place(&self, row: usize) -> Self::Place;
    /// As many numbers as a tap has channels.
    fn numbers(&self, place: &Self::Place, tap: usize) -> &'a [f32];
}

struct Matrix<'a> {
    numbers: &'a [f32],
    inputs: usize,
    channels: usize,
}

impl<'a> Rows<'a> for Matrix<'a> {
    type Place = &'a [f32];

    #[inline]
    fn place(&self, row: usize) -> &'a [f32] {
        &self.numbers[row * self.inputs..][..self.inputs]
    }

    #[inline]
    fn numbers(&self, row: &&'a [f32], tap: usize) -> &'a [f32] {
        &row[tap * self.channels..][..self.channels]
    }
}

/// The most rows that are taken at a time: with [`Simd::DEPTH`](crate::simd::Simd::DEPTH) they fill a part of the
/// second-level cache.
const MOST_ROWS: usize = 96;
/// The most columns that are taken at a time: their partial sums are beside the rows in that cache.
const MOST_COLUMNS: usize = 512;

/// The product of rows that are gathered from anywhere.
///
/// The result is cut into blocks by its size alone, and every number of it is summed in the same order whatever its block.
pub(crate) fn product_of<'a>(
    count: usize,
    source: &impl Rows<'a>,
    weights: &Packed,
    finish: &Finish<'_>,
    out: &mut [f32],
) {
    let blocks = Blocks::new(count, source, weights, finish, out);
    let work = count * out_columns(weights) * weights.inputs();
    if blocks.count > 1 && worth_splitting(work) {
        let indices = (0..blocks.count).into_par_iter();
        indices.for_each(|index| blocks.compute(index));
    } else {
        (0..blocks.count).for_each(|index| blocks.compute(index));
    }
}

/// Columns that are computed, gates included.
fn out_columns(weights: &Packed) -> usize {
    weights.outputs() * if weights.is_gated() { 2 } else { 1 }
}

/// The blocks of a product.
struct Blocks<'a, R> {
    source: &'a R,
    weights: &'a Packed,
    finish: &'a Finish<'a>,
    out: Shared<'a>,
    /// Rows and panels of the product, and of a block.
    size: [usize; 2],
    block: [usize; 2],
    /// Blocks of the rows and of the columns.
    blocks: [usize; 2],
    count: usize,
}

impl<'a, 'r: 'a, R: Rows<'r>> Blocks<'a, R> {
    fn new(
        rows: usize,
        source: &'a R,
        weights: &'a Packed,
        finish: &'a Finish<'a>,
        out: &'a mut [f32],
    ) -> Self {
        let columns = weights.outputs();
        assert_eq!(out.len(), rows * columns, "the result's size");
        if let Some(residual) = finish.residual {
            assert_eq!(residual.len(), out.len(), "the residual's size");
        }
        if let Some(shift) = finish.shift {
            let samples = rows.div_ceil(shift.rows);
            assert!(shift.numbers.len() >= samples * columns, "the shift's size");
        }
        let height = rows
            .div_ceil(rows.div_ceil(MOST_ROWS).max(1))
            .next_multiple_of(ROWS)
            .max(ROWS);
        let panels = weights.panels();
        let wanted = (panels * columns.div_ceil(panels.max(1))).div_ceil(MOST_COLUMNS);
        let width = panels.div_ceil(wanted.max(1)).max(1);
        let blocks = [rows.div_ceil(height), panels.div_ceil(width)];
        Self {
            source,
            weights,
            finish,
            out: Shared::new(out),
            size: [rows, panels],
            block: [height, width],
            blocks,
            count: blocks[0] * blocks[1],
        }
    }

    fn compute(&self, index: usize) {
        // Whatever is in the inner loop is read again for every turn of the outer one: let it be the smaller matrix.
        let [row, column] = match self.weights.outputs() <= self.size[0] {
            true => [index / self.blocks[1], index % self.blocks[1]],
            false => [index % self.blocks[0], index / self.blocks[0]],
        };
        let range = |at: usize, side: usize| {
            at * self.block[side]..((at + 1) * self.block[side]).min(self.size[side])
        };
        let block = Block::new(range(row, 0), range(column, 1), self.source, self.weights);
        block.compute(self.finish, &self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Storage, Window, convolution, reference};

    /// As the processors that can do it at every level, in tests: only the instructions themselves are others.
    #[test]
    fn weights_of_bf16_meet_pairs_of_bf16() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            let number = |index: usize| ((index + seed) * 7919 % 1009) as f32 / 504.0 - 1.0;
            (0..count).map(number).collect()
        };
        let rounded = |numbers: &[f32]| -> Vec<f32> {
            let round = |x: &f32| half::bf16::from_f32(*x).to_f32();
            numbers.iter().map(round).collect()
        };
        for (channels, outputs, kernel) in [
            (1, 1, 1),
            (2, 9, 3),
            (35, 77, 3),
            (320, 4, 1),
            (2563, 33, 1),
        ] {
            let window = Window {
                batch: 1,
                input: [3, 5],
                enlarged: None,
                kernel: [kernel; 2],
                stride: 1,
                padding: [kernel / 2; 2],
                output: [3, 5],
            };
            let taps = kernel * kernel;
            let (x, weights) = (
                numbers(15 * channels, 1),
                numbers(outputs * taps * channels, 2),
            );
            let packed = Packed::new(
                Storage::Bf16Pairs,
                [outputs, taps, channels],
                None,
                &weights,
            );
            let mut found = vec![f32::NAN; 15 * outputs];
            convolution(&x, window, &packed, &Finish::default(), &mut found);
            let expected =
                reference::convolution(&rounded(&x), window, &rounded(&weights), channels);
            for (found, expected) in found.iter().zip(expected) {
                // Products of `bf16` are exact in `f32`: what is rounded are the sums, each of at most as many numbers of at
                // most 1.
                let inputs = (taps * channels) as f64;
                let bound = inputs * inputs.sqrt() * f64::from(f32::EPSILON);
                let error = (f64::from(*found) - expected).abs();
                assert!(
                    error <= bound,
                    "{channels} to {outputs}: {found}, {expected}"
                );
            }
        }
    }
}
