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
    let columns = weights.outputs();
    assert_eq!(out.len(), count * columns, "the result's size");
    if let Some(residual) = finish.residual {
        assert_eq!(residual.len(), out.len(), "the residual's size");
    }
    if let Some(shift) = finish.shift {
        let samples = count.div_ceil(shift.rows);
        assert!(shift.numbers.len() >= samples * columns, "the shift's size");
    }
    if count == 0 || columns == 0 {
        return;
    }
    let row_blocks = count.div_ceil(MOST_ROWS);
    let height = count.div_ceil(row_blocks).next_multiple_of(ROWS);
    let row_blocks = count.div_ceil(height);
    let panels = weights.panels();
    let column_blocks = (panels * columns.div_ceil(panels)).div_ceil(MOST_COLUMNS);
    let width = panels.div_ceil(column_blocks);
    let column_blocks = panels.div_ceil(width);
    // Whatever is in the inner loop is read again for every turn of the outer one: let it be the smaller matrix.
    let rows_outside = columns <= count;
    let shared = Shared::new(out);
    let block = |index: usize| {
        let (rows, columns) = if rows_outside {
            (index / column_blocks, index % column_blocks)
        } else {
            (index % row_blocks, index / row_blocks)
        };
        let rows = rows * height..((rows + 1) * height).min(count);
        let panels = columns * width..((columns + 1) * width).min(panels);
        Block::new(rows, panels, source, weights).compute(finish, &shared);
    };
    let blocks = row_blocks * column_blocks;
    let work = count * columns * weights.inputs() * if weights.is_gated() { 2 } else { 1 };
    if blocks > 1 && worth_splitting(work) {
        (0..blocks).into_par_iter().for_each(block);
    } else {
        (0..blocks).for_each(block);
    }
}
