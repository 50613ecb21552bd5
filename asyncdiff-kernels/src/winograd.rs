//! 3x3 convolutions with fewer products: Winograd's F(2x2, 3x3) and F(4x4, 3x3).
//!
//! Of every square of 4x4 (6x6) pixels, weighted sums are taken; sixteen (36) products of these with likewise transformed
//! weights make a square of 2x2 (4x4) of the result, where a plain convolution has 36 (144) (Lavin and Gray, "Fast algorithms
//! for convolutional neural networks", 2016). The smaller transform adds and subtracts only, so its results are as exact as those
//! of the plain convolution; what the larger one multiplies with costs about one decimal.

mod transform;

use rayon::prelude::*;

use crate::convolution::{Surroundings, Window};
use crate::packed::{Packed, Storage};
use crate::product::tile::ROWS;
use crate::product::{Finish, product_here};
use crate::scratch::Scratch;
use crate::simd::{Kernel, run};
use crate::split::{Shared, worth_splitting};
use transform::{From, Grid, Into, Weights};

/// How large the squares of the result are that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Square {
    /// 2x2.
    Two,
    /// 4x4.
    Four,
}

/// The transformed weights of a 3x3 convolution.
#[derive(Clone, Debug)]
pub struct Winograd {
    square: Square,
    /// One matrix for each number of a transformed square.
    positions: Vec<Packed>,
    bias: Vec<f32>,
}

/// Squares that are transformed at a time, a multiple of a tile's rows: what they are transformed to should not leave the
/// last-level cache before it is read.
const CHUNK: usize = 16 * ROWS;
/// The same where few weights have to be read once more for each chunk.
const FEWER: usize = 9 * ROWS;
/// Numbers between the matrices of a chunk, so that they do not begin at the same place of a cache's ways.
const GAP: usize = 16;
/// Weights that stay in a cache from one chunk to the next.
const LIGHT: usize = 1 << 19;
/// More weights than these, and larger squares take too much memory for what they save on the small maps that so many channels
/// have.
const MOST_WEIGHTS: usize = 1920 * 640;
/// With fewer channels, the transforms cost more than they save.
const FEWEST_CHANNELS: usize = 32;
/// With fewer channels, maps are mostly small as well, and reading four times the weights costs more than the larger squares save.
const FEWEST_OF_FOUR: usize = 128;
/// On maps that are known to have so many pixels, it never does.
const MANY_PIXELS: usize = 256;
/// On smaller maps, reading transformed weights, of which there are almost twice as many, costs more than the squares save.
const FEWEST_PIXELS: usize = 32;

impl Square {
    /// The squares with which a convolution of `[input, output]` channels is the fastest on maps of so many pixels, if that is known;
    /// none if the transforms cost more than they save.
    #[must_use]
    pub fn that_pays(
        storage: Storage,
        [input, output]: [usize; 2],
        pixels: Option<usize>,
    ) -> Option<Square> {
        // Transformed weights of 16 bits would be too coarse for the larger transform.
        let four = storage == Storage::F32
            && (input.min(output) >= FEWEST_OF_FOUR
                || pixels.is_some_and(|pixels| pixels >= MANY_PIXELS))
            && input * output <= MOST_WEIGHTS;
        let square = if four { Square::Four } else { Square::Two };
        let small = pixels.is_some_and(|pixels| pixels < FEWEST_PIXELS);
        (input.min(output) >= FEWEST_CHANNELS && !small).then_some(square)
    }

    /// Pixels of a side of the result.
    fn result(self) -> usize {
        match self {
            Square::Two => 2,
            Square::Four => 4,
        }
    }

    /// Pixels of a side of what the result depends on.
    fn side(self) -> usize {
        self.result() + 2
    }
}

impl Winograd {
    /// Transforms and packs weights `[outputs, channels, 3, 3]`, as [`Packed::new`] does.
    ///
    /// # Panics
    ///
    /// If there are more or fewer weights, or `bias` has not one number for each output.
    #[must_use]
    pub fn new(
        square: Square,
        storage: Storage,
        [outputs, channels]: [usize; 2],
        bias: Option<&[f32]>,
        weights: &[f32],
    ) -> Self {
        let bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        assert_eq!(bias.len(), outputs, "a bias has a number for each output");
        assert_eq!(weights.len(), outputs * channels * 9, "the weights' size");
        let shape = [outputs, channels];
        let count = square.side() * square.side();
        let positions = match square {
            Square::Two => Packed::several(storage, count, shape, weights, &Weights::<4>),
            Square::Four => Packed::several(storage, count, shape, weights, &Weights::<6>),
        };
        Self {
            square,
            positions,
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
    if out.is_empty() {
        return;
    }
    let zeros = vec![0.0; inputs];
    let result = weights.square.result();
    // More squares than the kernel needs, where the result's sides are no multiples of theirs.
    let whole = [height, width].map(|side| side.next_multiple_of(result));
    let window = Window {
        output: whole,
        ..window
    };
    let source = Surroundings::new(x, &zeros, window);
    let grid = Grid {
        down: whole[0] / result,
        across: whole[1] / result,
        size: [height, width],
    };
    let squares = window.batch * grid.down * grid.across;
    let all_weights = weights.positions.len() * inputs * outputs;
    let split = worth_splitting(squares * all_weights);
    let threads = if split {
        rayon::current_num_threads()
    } else {
        1
    };
    // A chunk that a thread computes alone waits for no other, but reads all weights.
    let light = all_weights <= LIGHT;
    let least = if light {
        threads.min(squares.div_ceil(ROWS))
    } else {
        1
    };
    let most = if light { FEWER } else { CHUNK };
    let chunks = squares.div_ceil(most).max(least);
    let chunk = squares.div_ceil(chunks).next_multiple_of(ROWS).min(squares);
    let convolution = Convolution {
        source: &source,
        grid,
        weights,
        finish,
        out: &Shared::new(out),
    };
    let first = (0..squares).step_by(chunk);
    let range = |first: usize| first..squares.min(first + chunk);
    if split && (light || chunks >= 2 * threads) {
        let first: Vec<usize> = first.collect();
        let ranges = first.into_par_iter().with_max_len(1).map(range);
        ranges.for_each(|range| convolution.compute(range, false));
    } else {
        first
            .map(range)
            .for_each(|range| convolution.compute(range, split));
    }
}

struct Convolution<'a> {
    source: &'a Surroundings<'a>,
    grid: Grid,
    weights: &'a Winograd,
    finish: &'a Finish<'a>,
    out: &'a Shared<'a>,
}

impl Convolution<'_> {
    /// Computes some squares of the result.
    fn compute(&self, squares: std::ops::Range<usize>, split: bool) {
        let positions = &self.weights.positions;
        let (inputs, outputs) = (positions[0].inputs(), self.weights.bias.len());
        let (count, first) = (squares.len(), squares.start);
        let (from, to) = (count * inputs + GAP, count * outputs + GAP);
        let all = positions.len();
        let mut scratch = Scratch::new(all * (from + to));
        let (transformed, products) = scratch.split_at_mut(all * from);
        let shared = Shared::new(transformed);
        over(split, count, |squares| {
            self.transform(first, squares, &shared, from);
        });
        let multiply = |(position, (rows, out)): (usize, (&[f32], &mut [f32]))| {
            let (rows, out) = (&rows[..count * inputs], &mut out[..count * outputs]);
            product_here(rows, &positions[position], out);
        };
        if split {
            let pairs = transformed
                .par_chunks(from)
                .zip(products.par_chunks_mut(to));
            pairs.enumerate().with_max_len(1).for_each(multiply);
        } else {
            let pairs = transformed.chunks(from).zip(products.chunks_mut(to));
            pairs.enumerate().for_each(multiply);
        }
        over(split, count, |squares| {
            self.untransform(first, squares, products, to);
        });
    }

    fn transform(
        &self,
        first: usize,
        squares: std::ops::Range<usize>,
        out: &Shared<'_>,
        stride: usize,
    ) {
        fn of<const SIDE: usize>(into: Into<'_>) {
            struct Of<'a, const SIDE: usize>(Into<'a>);
            impl<const SIDE: usize> Kernel for Of<'_, SIDE> {
                type Output = ();
                #[inline(always)]
                fn run<S: crate::simd::Simd>(self) {
                    self.0.compute::<S, SIDE>();
                }
            }
            run(Of::<SIDE>(into));
        }
        let into = Into {
            source: self.source,
            grid: self.grid,
            first,
            squares,
            out,
            stride,
        };
        match self.weights.square {
            Square::Two => of::<4>(into),
            Square::Four => of::<6>(into),
        }
    }

    fn untransform(
        &self,
        first: usize,
        squares: std::ops::Range<usize>,
        products: &[f32],
        stride: usize,
    ) {
        fn of<const SIDE: usize, const RESULT: usize>(from: From<'_>) {
            struct Of<'a, const SIDE: usize, const RESULT: usize>(From<'a>);
            impl<const SIDE: usize, const RESULT: usize> Kernel for Of<'_, SIDE, RESULT> {
                type Output = ();
                #[inline(always)]
                fn run<S: crate::simd::Simd>(self) {
                    self.0.compute::<S, SIDE, RESULT>();
                }
            }
            run(Of::<SIDE, RESULT>(from));
        }
        let from = From {
            products,
            grid: self.grid,
            first,
            squares,
            stride,
            bias: &self.weights.bias,
            finish: self.finish,
            out: self.out,
        };
        match self.weights.square {
            Square::Two => of::<4, 2>(from),
            Square::Four => of::<6, 4>(from),
        }
    }
}

/// Squares that a thread transforms at a time.
const FEW: usize = 8;

/// Some of `count` squares after others, or at once.
fn over(split: bool, count: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    if split {
        let parts = (0..count.div_ceil(FEW)).into_par_iter();
        parts.for_each(|part| work(part * FEW..count.min((part + 1) * FEW)));
    } else {
        work(0..count);
    }
}
