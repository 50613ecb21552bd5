//! 3x3 convolutions with fewer products: Winograd's F(2x2, 3x3).
//!
//! Of every square of 4x4 pixels, sums and differences are taken; sixteen products of these with likewise transformed weights
//! make a square of 2x2 of the result, where a plain convolution has 36 (Lavin and Gray, "Fast algorithms for convolutional
//! neural networks", 2016). The transforms add and subtract only, so results are as exact as those of the plain convolution.

use rayon::prelude::*;

use crate::convolution::{Surroundings, Window};
use crate::packed::{Packed, Storage};
use crate::product::{Finish, product};
use crate::simd::{Kernel, Simd, run};
use crate::split::{Shared, worth_splitting};

/// The transformed weights of a 3x3 convolution.
#[derive(Clone, Debug)]
pub struct Winograd {
    /// One matrix for each number of a transformed square.
    positions: Vec<Packed>,
    bias: Vec<f32>,
}

/// Numbers of a square, and of a transformed one.
const SQUARE: usize = 16;
/// Squares that are transformed at a time.
const CHUNK: usize = 128;
/// What the transform of the weights multiplies rows and columns with.
const G: [[f32; 3]; 4] = [
    [1.0, 0.0, 0.0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0.0, 0.0, 1.0],
];

impl Winograd {
    /// Whether the transforms of a convolution of `[input, output]` channels cost less than they save.
    #[must_use]
    pub fn pays([input, output]: [usize; 2]) -> bool {
        input.min(output) >= 32
    }

    /// Transforms and packs the weights of `outputs` rows of nine times `channels`, as [`Packed::new`] does.
    ///
    /// # Panics
    ///
    /// If `bias` has not one number for each output.
    #[must_use]
    pub fn new(
        storage: Storage,
        [outputs, channels]: [usize; 2],
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        assert_eq!(bias.len(), outputs, "a bias has a number for each output");
        let position = |position: usize| {
            let (rows, columns) = (G[position / 4], G[position % 4]);
            Packed::new(
                storage,
                [outputs, 1, channels],
                None,
                |output, _, channel| {
                    let mut sum = 0.0;
                    for (row, factor) in rows
                        .iter()
                        .enumerate()
                        .filter(|(_, factor)| **factor != 0.0)
                    {
                        let mut line = 0.0;
                        for (column, factor) in columns.iter().enumerate() {
                            if *factor != 0.0 {
                                line += factor * weight(output, row * 3 + column, channel);
                            }
                        }
                        sum += factor * line;
                    }
                    sum
                },
            )
        };
        Self {
            positions: (0..SQUARE).map(position).collect(),
            bias,
        }
    }
}

/// [`convolution`](crate::convolution()) with transformed weights, of a kernel of 3x3 and a stride of 1.
///
/// # Panics
///
/// If a slice has not the size that follows from the window and the weights, or the window is of another convolution.
pub fn winograd(
    x: &[f32],
    window: Window,
    weights: &Winograd,
    finish: &Finish<'_>,
    out: &mut [f32],
) {
    assert_eq!((window.kernel, window.stride), ([3, 3], 1), "a 3x3 window");
    let (inputs, outputs) = (weights.positions[0].inputs(), weights.bias.len());
    let [height, width] = window.output;
    assert_eq!(
        out.len(),
        window.batch * height * width * outputs,
        "the result's size"
    );
    if let Some(residual) = finish.residual {
        assert_eq!(residual.len(), out.len(), "the residual's size");
    }
    if height * width == 0 {
        return;
    }
    let zeros = vec![0.0; inputs];
    // A square more than the kernel needs, where the result's sides are odd.
    let even = [height, width].map(|side| side.next_multiple_of(2));
    let window = Window {
        output: even,
        ..window
    };
    let source = Surroundings::new(x, &zeros, window);
    let across = even[1] / 2;
    let grid = Grid {
        down: even[0] / 2,
        across,
        size: [height, width],
    };
    let squares = window.batch * grid.down * grid.across;
    let chunk = CHUNK.min(squares);
    let mut transformed = vec![0.0; SQUARE * chunk * inputs];
    let mut products = vec![0.0; SQUARE * chunk * outputs];
    let out = Shared::new(out);
    let split = worth_splitting(squares * SQUARE * inputs * outputs);
    for first in (0..squares).step_by(chunk) {
        let count = chunk.min(squares - first);
        let shared = Shared::new(&mut transformed);
        let into = |index: usize| {
            run(Into {
                source: &source,
                grid,
                square: first + index,
                out: &shared,
                at: index * inputs,
                stride: count * inputs,
            });
        };
        let multiply = |(position, (rows, out)): (usize, (&[f32], &mut [f32]))| {
            let weights = &weights.positions[position];
            product(rows, weights, &Finish::default(), out);
        };
        let from = |products: &[f32], index: usize| {
            run(From {
                products,
                grid,
                square: first + index,
                at: index * outputs,
                stride: count * outputs,
                bias: &weights.bias,
                finish,
                out: &out,
            });
        };
        if split {
            (0..count).into_par_iter().with_min_len(8).for_each(into);
        } else {
            (0..count).for_each(into);
        }
        let rows = transformed[..SQUARE * count * inputs].par_chunks_exact(count * inputs);
        let sums = products[..SQUARE * count * outputs].par_chunks_exact_mut(count * outputs);
        let pairs = rows.zip(sums).enumerate();
        if split {
            pairs.for_each(multiply);
        } else {
            let rows = transformed[..SQUARE * count * inputs].chunks_exact(count * inputs);
            let sums = products[..SQUARE * count * outputs].chunks_exact_mut(count * outputs);
            rows.zip(sums).enumerate().for_each(multiply);
        }
        if split {
            let indices = (0..count).into_par_iter().with_min_len(8);
            indices.for_each(|index| from(&products, index));
        } else {
            (0..count).for_each(|index| from(&products, index));
        }
    }
}

/// Squares of pictures.
#[derive(Clone, Copy)]
struct Grid {
    down: usize,
    across: usize,
    /// `[height, width]` of the result.
    size: [usize; 2],
}

impl Grid {
    /// Picture, first row and first column of a square.
    fn place(&self, square: usize) -> [usize; 3] {
        let (line, column) = (square / self.across, square % self.across);
        [line / self.down, 2 * (line % self.down), 2 * column]
    }
}

/// Transforms a square of the input.
struct Into<'a> {
    source: &'a Surroundings<'a>,
    grid: Grid,
    square: usize,
    out: &'a Shared<'a>,
    at: usize,
    stride: usize,
}

impl Kernel for Into<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "columns of a matrix")]
    fn run<S: Simd>(self) {
        let [picture, line, column] = self.grid.place(self.square);
        let mut pixels = [[&[] as &[f32]; 4]; 4];
        for (row, pixels) in pixels.iter_mut().enumerate() {
            for (index, pixel) in pixels.iter_mut().enumerate() {
                *pixel = self.source.pixel(picture, line + row, column + index);
            }
        }
        let channels = pixels[0][0].len();
        for from in (0..channels).step_by(S::LANES) {
            let to = channels.min(from + S::LANES);
            let mut rows = [[S::zero(); 4]; 4];
            for (row, pixels) in rows.iter_mut().zip(&pixels) {
                let mut numbers = [S::zero(); 4];
                for (number, pixel) in numbers.iter_mut().zip(pixels) {
                    let pixel = &pixel[from..to];
                    *number = match pixel.get(..S::LANES) {
                        Some(all) => S::of(all),
                        None => S::of_some(pixel, 0.0),
                    };
                }
                *row = differences(numbers);
            }
            for column in 0..4 {
                let numbers = differences([
                    rows[0][column],
                    rows[1][column],
                    rows[2][column],
                    rows[3][column],
                ]);
                for (row, number) in numbers.into_iter().enumerate() {
                    let at = (4 * row + column) * self.stride + self.at + from;
                    // SAFETY: this square has a row of its own in each of the sixteen matrices.
                    let out = unsafe { self.out.part(at, to - from) };
                    match to - from == S::LANES {
                        true => number.put(out),
                        false => number.put_some(out),
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn differences<S: Simd>([a, b, c, d]: [S; 4]) -> [S; 4] {
    [a.sub(c), b.add(c), c.sub(b), b.sub(d)]
}

#[inline(always)]
fn sums<S: Simd>([a, b, c, d]: [S; 4]) -> [S; 2] {
    [a.add(b).add(c), b.sub(c).sub(d)]
}

/// Makes a square of the result of the products.
struct From<'a> {
    products: &'a [f32],
    grid: Grid,
    square: usize,
    at: usize,
    stride: usize,
    bias: &'a [f32],
    finish: &'a Finish<'a>,
    out: &'a Shared<'a>,
}

impl Kernel for From<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "columns of a matrix")]
    fn run<S: Simd>(self) {
        let [picture, line, column] = self.grid.place(self.square);
        let [height, width] = self.grid.size;
        let columns = self.bias.len();
        for from in (0..columns).step_by(S::LANES) {
            let count = S::LANES.min(columns - from);
            let load = |numbers: &[f32], at: usize| match numbers.get(at..at + S::LANES) {
                Some(all) if count == S::LANES => S::of(all),
                _ => S::of_some(&numbers[at..at + count], 0.0),
            };
            let mut rows = [[S::zero(); 2]; 4];
            for (row, rows) in rows.iter_mut().enumerate() {
                let mut numbers = [S::zero(); 4];
                for (index, number) in numbers.iter_mut().enumerate() {
                    let at = (4 * row + index) * self.stride + self.at + from;
                    *number = load(self.products, at);
                }
                *rows = sums(numbers);
            }
            let bias = load(self.bias, from);
            for right in 0..2 {
                let numbers = sums([
                    rows[0][right],
                    rows[1][right],
                    rows[2][right],
                    rows[3][right],
                ]);
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
