//! Convolutions of feature maps whose channels lie side by side, `[batch, height, width, channels]`.

use crate::packed::Packed;
use crate::product::{Finish, Rows, product_of};

/// What a convolution looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pictures.
    pub batch: usize,
    /// `[height, width]` of the input.
    pub input: [usize; 2],
    /// `[height, width]` that the input is enlarged to before, each pixel standing for its nearest.
    pub enlarged: Option<[usize; 2]>,
    /// `[height, width]` of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one position of the kernel to the next.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
    /// `[height, width]` of the result. What it needs beyond the last row and column is zero.
    pub output: [usize; 2],
}

/// Rows of a product that are the surroundings of pixels.
pub(crate) struct Surroundings<'a> {
    x: &'a [f32],
    zeros: &'a [f32],
    window: Window,
    /// For every position of the kernel's rows, the input's row.
    lines: Vec<usize>,
    columns: Vec<usize>,
}

/// Outside of the input.
const OUTSIDE: usize = usize::MAX;

impl Window {
    /// For each position that a side of the kernel takes, which of the input's pixels it is.
    fn sources(&self, side: usize) -> Vec<usize> {
        let input = self.input[side];
        let size = self.enlarged.map_or(input, |enlarged| enlarged[side]);
        let positions = (self.output[side] - 1) * self.stride + self.kernel[side];
        (0..positions)
            .map(|position| match position.checked_sub(self.padding[side]) {
                Some(pixel) if pixel < size => pixel * input / size,
                _ => OUTSIDE,
            })
            .collect()
    }
}

impl<'a> Rows<'a> for Surroundings<'a> {
    /// Picture, and the kernel's first row and column.
    type Place = [usize; 3];

    #[inline]
    fn place(&self, row: usize) -> [usize; 3] {
        let [height, width] = self.window.output;
        let stride = self.window.stride;
        let (line, column) = (row / width, row % width);
        [line / height, line % height * stride, column * stride]
    }

    #[inline]
    fn numbers(&self, [picture, line, column]: &[usize; 3], tap: usize) -> &'a [f32] {
        let kernel_width = self.window.kernel[1];
        self.pixel(
            *picture,
            line + tap / kernel_width,
            column + tap % kernel_width,
        )
    }
}

impl<'a> Surroundings<'a> {
    /// `zeros` has as many numbers as a pixel.
    pub fn new(x: &'a [f32], zeros: &'a [f32], window: Window) -> Self {
        let [height, width] = window.input;
        assert_eq!(
            x.len(),
            window.batch * height * width * zeros.len(),
            "the input's size"
        );
        Self {
            x,
            zeros,
            window,
            lines: window.sources(0),
            columns: window.sources(1),
        }
    }

    /// The pixel at a row and a column of the padded and enlarged map.
    #[inline]
    pub fn pixel(&self, picture: usize, line: usize, column: usize) -> &'a [f32] {
        let [height, width] = self.window.input;
        let (line, column) = (self.lines[line], self.columns[column]);
        if line == OUTSIDE || column == OUTSIDE {
            return self.zeros;
        }
        let channels = self.zeros.len();
        &self.x[((picture * height + line) * width + column) * channels..][..channels]
    }
}

/// A convolution without any copy of its input: every tap of the kernel is a part of the product's inner dimension.
///
/// The weights' taps are the kernel's positions, row by row.
///
/// # Panics
///
/// If a slice has not the size that follows from the window and the weights.
pub fn convolution(
    x: &[f32],
    window: Window,
    weights: &Packed,
    finish: &Finish<'_>,
    out: &mut [f32],
) {
    let [kernel_height, kernel_width] = window.kernel;
    assert_eq!(weights.taps(), kernel_height * kernel_width, "the kernel's");
    let [height, width] = window.output;
    if height * width == 0 {
        return;
    }
    let zeros = vec![0.0; weights.channels()];
    let source = Surroundings::new(x, &zeros, window);
    let rows = window.batch * height * width;
    product_of(rows, &source, weights, finish, out);
}
