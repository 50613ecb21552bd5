//! The transforms of squares, their results and the weights.
//!
//! A square of the result of side `m` and the 3x3 weights are seen as polynomials, whose product is found from its values at
//! `m + 1` points and at infinity (Toom and Cook): 0, 1 and -1 for `m = 2`. The four points beside 0 for `m = 4` are chosen
//! for small rounding errors; those at which numbers are halved and doubled only have twice as large ones.

use std::ops::Range;

use crate::convolution::Surroundings;
use crate::packed::{Arrange, Element};
use crate::product::Finish;
use crate::simd::{Kernel, Simd, run};
use crate::split::Shared;

/// The points are these, their negatives, 0 and infinity.
const A: f64 = 0.625;
const B: f64 = 1.5;

/// Transforms 3x3 weights: a matrix for each number of a square of side `SIDE`.
pub(super) struct Weights<const SIDE: usize>;

impl<const SIDE: usize> Arrange for Weights<SIDE> {
    fn panel<E: Element>(&self, columns: &[Option<&[f32]>], panels: &mut [&mut [E]]) {
        run(Panels::<SIDE, E> { columns, panels });
    }
}

struct Panels<'a, 'm, const SIDE: usize, E> {
    columns: &'a [Option<&'a [f32]>],
    panels: &'a mut [&'m mut [E]],
}

/// Outputs whose weights are transformed side by side.
const LANES: usize = 16;

impl<const SIDE: usize, E: Element> Kernel for Panels<'_, '_, SIDE, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { columns, panels } = self;
        let width = columns.len();
        let channels = columns
            .iter()
            .flatten()
            .next()
            .map_or(0, |row| row.len() / 9);
        for channel in 0..channels {
            for (some, first) in columns.chunks(LANES).zip((0..).step_by(LANES)) {
                let mut taps = [[0.0; LANES]; 9];
                for (lane, row) in some.iter().enumerate() {
                    let Some(row) = row else { continue };
                    let row: &[f32; 9] = row[9 * channel..][..9].try_into().expect("nine");
                    for (tap, number) in taps.iter_mut().zip(row) {
                        tap[lane] = f64::from(*number);
                    }
                }
                let square = transformed_weights::<SIDE>(&taps, some.len());
                for (panel, numbers) in panels.iter_mut().zip(square.as_flattened()) {
                    let to = &mut panel[channel / E::CHANNELS * width + first..][..some.len()];
                    for (to, number) in to.iter_mut().zip(numbers) {
                        to.set(channel % E::CHANNELS, *number as f32);
                    }
                }
            }
        }
    }
}

/// In `f64`, whose loops the compiler turns into the level's vectors: those over the lanes, whose number it must not know, or it
/// would take one around them.
#[inline(always)]
fn transformed_weights<const SIDE: usize>(
    taps: &[[f64; LANES]; 9],
    lanes: usize,
) -> [[[f64; LANES]; SIDE]; SIDE] {
    let mut square = [[[0.0; LANES]; SIDE]; SIDE];
    for (row, numbers) in square.iter_mut().enumerate() {
        let factors = weight_factors::<SIDE>(row);
        let mut line = [[0.0; LANES]; 3];
        for (column, line) in line.iter_mut().enumerate() {
            let taps = [column, 3 + column, 6 + column].map(|tap| &taps[tap][..lanes]);
            weighted_sum(factors, taps, &mut line[..lanes]);
        }
        for (column, number) in numbers.iter_mut().enumerate() {
            let line = line.each_ref().map(|numbers| &numbers[..lanes]);
            weighted_sum(weight_factors::<SIDE>(column), line, &mut number[..lanes]);
        }
    }
    square
}

#[inline(always)]
fn weighted_sum(factors: [f64; 3], [a, b, c]: [&[f64]; 3], to: &mut [f64]) {
    for (to, ((a, b), c)) in to.iter_mut().zip(a.iter().zip(b).zip(c)) {
        *to = factors[0] * a + factors[1] * b + factors[2] * c;
    }
}

/// What row (or column) `position` of the transformed weights is made of.
#[inline(always)]
fn weight_factors<const SIDE: usize>(position: usize) -> [f64; 3] {
    let value_at = |point: f64, divisor: f64| [1.0, point, point * point].map(|x| x / divisor);
    if SIDE == 4 {
        match position {
            0 => value_at(0.0, 1.0),
            1 => value_at(1.0, 2.0),
            2 => value_at(-1.0, 2.0),
            _ => [0.0, 0.0, 1.0],
        }
    } else {
        let (a, b) = (2.0 * A * A * (A * A - B * B), 2.0 * B * B * (B * B - A * A));
        match position {
            0 => value_at(0.0, A * A * B * B),
            1 => value_at(A, a),
            2 => value_at(-A, a),
            3 => value_at(B, b),
            4 => value_at(-B, b),
            _ => [0.0, 0.0, 1.0],
        }
    }
}

/// Transforms a row of a square.
#[inline(always)]
fn transform<S: Simd, const SIDE: usize>(x: [S; SIDE]) -> [S; SIDE] {
    let mut out = [S::zero(); SIDE];
    if SIDE == 4 {
        out[0] = x[0].sub(x[2]);
        out[1] = x[1].add(x[2]);
        out[2] = x[2].sub(x[1]);
        out[3] = x[1].sub(x[3]);
    } else {
        let constant = |number: f64| S::splat(number as f32);
        let (minus_a, minus_b) = (constant(-A * A), constant(-B * B));
        let (both, product) = (constant(-(A * A + B * B)), constant(A * A * B * B));
        out[0] = x[0].mul_add(product, x[2].mul_add(both, x[4]));
        // The even and the odd part of the polynomial at a point and its negative.
        let even = x[2].mul_add(minus_b, x[4]);
        let odd = x[1].mul_add(minus_b, x[3]).mul(constant(A));
        out[1] = even.add(odd);
        out[2] = even.sub(odd);
        let even = x[2].mul_add(minus_a, x[4]);
        let odd = x[1].mul_add(minus_a, x[3]).mul(constant(B));
        out[3] = even.add(odd);
        out[4] = even.sub(odd);
        out[5] = x[1].mul_add(product, x[3].mul_add(both, x[5]));
    }
    out
}

/// Makes a row of the result.
#[inline(always)]
fn untransform<S: Simd, const SIDE: usize, const RESULT: usize>(x: [S; SIDE]) -> [S; RESULT] {
    let mut out = [S::zero(); RESULT];
    if SIDE == 4 {
        out[0] = x[0].add(x[1]).add(x[2]);
        out[1] = x[1].sub(x[2]).sub(x[3]);
    } else {
        let constant = |number: f64| S::splat(number as f32);
        let (sum_a, difference_a) = (x[1].add(x[2]), x[1].sub(x[2]));
        let (sum_b, difference_b) = (x[3].add(x[4]), x[3].sub(x[4]));
        out[0] = x[0].add(sum_a).add(sum_b);
        out[1] = difference_a
            .mul(constant(A))
            .add(difference_b.mul(constant(B)));
        out[2] = sum_a.mul(constant(A * A)).add(sum_b.mul(constant(B * B)));
        let odd = difference_a.mul_add(constant(A * A * A), x[5]);
        out[3] = difference_b.mul_add(constant(B * B * B), odd);
    }
    out
}

/// Squares of pictures.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub down: usize,
    pub across: usize,
    /// `[height, width]` of the result.
    pub size: [usize; 2],
}

impl Grid {
    /// Picture, row and column of a square.
    fn place(&self, square: usize) -> [usize; 3] {
        let (line, column) = (square / self.across, square % self.across);
        [line / self.down, line % self.down, column]
    }
}

/// Transforms squares of the input.
pub(super) struct Into<'a> {
    pub source: &'a Surroundings<'a>,
    pub grid: Grid,
    /// The first square of the chunk.
    pub first: usize,
    /// Squares of the chunk.
    pub squares: Range<usize>,
    pub out: &'a Shared<'a>,
    /// From a matrix to the next.
    pub stride: usize,
}

impl Into<'_> {
    #[inline(always)]
    pub fn compute<S: Simd, const SIDE: usize>(self) {
        for square in self.squares.clone() {
            self.square::<S, SIDE>(square);
        }
    }

    #[inline(always)]
    fn square<S: Simd, const SIDE: usize>(&self, square: usize) {
        let [picture, line, column] = self.grid.place(self.first + square);
        let (line, column) = (line * (SIDE - 2), column * (SIDE - 2));
        let mut pixels = [[&[] as &[f32]; SIDE]; SIDE];
        for (row, pixels) in pixels.iter_mut().enumerate() {
            for (index, pixel) in pixels.iter_mut().enumerate() {
                *pixel = self.source.pixel(picture, line + row, column + index);
            }
        }
        let channels = pixels[0][0].len();
        let whole = channels / S::LANES * S::LANES;
        let first = square * channels;
        for from in (0..whole).step_by(S::LANES) {
            let load = |pixel: &[f32]| S::of(&pixel[from..][..S::LANES]);
            self.put(first + from, S::LANES, transformed(&pixels, load));
        }
        if whole < channels {
            let load = |pixel: &[f32]| S::of_some(&pixel[whole..], 0.0);
            self.put(first + whole, channels - whole, transformed(&pixels, load));
        }
    }

    /// Writes `count` lanes of each number of a square to its matrix.
    #[inline(always)]
    fn put<S: Simd, const SIDE: usize>(&self, at: usize, count: usize, square: [[S; SIDE]; SIDE]) {
        for (position, number) in square.as_flattened().iter().enumerate() {
            // SAFETY: this square has a row of its own in each of the matrices.
            let out = unsafe { self.out.part(position * self.stride + at, count) };
            match count == S::LANES {
                true => number.put(out),
                false => number.put_some(out),
            }
        }
    }
}

/// Transforms the columns and rows of a square.
#[inline(always)]
fn transformed<S: Simd, const SIDE: usize>(
    pixels: &[[&[f32]; SIDE]; SIDE],
    load: impl Fn(&[f32]) -> S,
) -> [[S; SIDE]; SIDE] {
    let mut rows = [[S::zero(); SIDE]; SIDE];
    for row in 0..SIDE {
        let mut numbers = [S::zero(); SIDE];
        for column in 0..SIDE {
            numbers[column] = load(pixels[row][column]);
        }
        rows[row] = transform(numbers);
    }
    let mut out = [[S::zero(); SIDE]; SIDE];
    for column in 0..SIDE {
        let mut numbers = [S::zero(); SIDE];
        for row in 0..SIDE {
            numbers[row] = rows[row][column];
        }
        let numbers = transform(numbers);
        for row in 0..SIDE {
            out[row][column] = numbers[row];
        }
    }
    out
}

/// Makes squares of the result of the products.
pub(super) struct From<'a> {
    pub products: &'a [f32],
    pub grid: Grid,
    /// The first square of the chunk.
    pub first: usize,
    /// Squares of the chunk.
    pub squares: Range<usize>,
    /// From a matrix to the next.
    pub stride: usize,
    pub bias: &'a [f32],
    pub finish: &'a Finish<'a>,
    pub out: &'a Shared<'a>,
}

impl From<'_> {
    #[inline(always)]
    pub fn compute<S: Simd, const SIDE: usize, const RESULT: usize>(self) {
        for square in self.squares.clone() {
            self.square::<S, SIDE, RESULT>(square);
        }
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "columns of a matrix")]
    fn square<S: Simd, const SIDE: usize, const RESULT: usize>(&self, square: usize) {
        let [picture, line, column] = self.grid.place(self.first + square);
        let (line, column) = (line * RESULT, column * RESULT);
        let [height, width] = self.grid.size;
        let columns = self.bias.len();
        for from in (0..columns).step_by(S::LANES) {
            let count = S::LANES.min(columns - from);
            let load = |numbers: &[f32], at: usize| match numbers.get(at..at + S::LANES) {
                Some(all) if count == S::LANES => S::of(all),
                _ => S::of_some(&numbers[at..at + count], 0.0),
            };
            let mut rows = [[S::zero(); RESULT]; SIDE];
            for (row, rows) in rows.iter_mut().enumerate() {
                let mut numbers = [S::zero(); SIDE];
                for (index, number) in numbers.iter_mut().enumerate() {
                    let at = (SIDE * row + index) * self.stride + square * columns + from;
                    *number = load(self.products, at);
                }
                *rows = untransform(numbers);
            }
            let bias = load(self.bias, from);
            for right in 0..RESULT {
                let mut numbers = [S::zero(); SIDE];
                for row in 0..SIDE {
                    numbers[row] = rows[row][right];
                }
                let numbers: [S; RESULT] = untransform(numbers);
                for (below, number) in numbers.into_iter().enumerate() {
                    let (line, column) = (line + below, column + right);
                    if line >= height || column >= width {
                        continue;
                    }
                    let row = (picture * height + line) * width + column;
                    let mut result = number.add(bias);
                    if let Some(shift) = self.finish.shift {
                        let at = row / shift.rows * columns + from;
                        result = result.add(load(shift.numbers, at));
                    }
                    result = self.finish.activation.of(result);
                    let at = row * columns + from;
                    if let Some(residual) = self.finish.residual {
                        result = result.add(load(residual, at));
                    }
                    // SAFETY: every pixel of the result is in one square.
                    let out = unsafe { self.out.part(at, count) };
                    match count == S::LANES {
                        true => result.put(out),
                        false => result.put_some(out),
                    }
                }
            }
        }
    }
}
