//! The weights of a matrix product, in the order in which it reads them.

use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::huge;
use crate::simd::{Kernel, Simd, run};

/// The type that weights are held in. All sums are `f32`, and so is what weights are multiplied with, if nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 10 are of the fraction.
    F16,
    /// 16 bits, of which 7 are of the fraction.
    Bf16,
    /// The same, and at [`Level::Avx512Bf16`](crate::Level::Avx512Bf16) what they are multiplied with is rounded to it, too, for
    /// which the processor multiplies twice as many at a time.
    Bf16Pairs,
}

/// A matrix of weights, cut into panels of as many outputs as a tile of the product has.
///
/// The inner dimension is made of `taps` of `channels` each: the positions that a convolution looks at, or one for a plain
/// product. In a panel the outputs of an input lie side by side, inputs one after another, or pairs of neighbouring inputs
/// where the processor multiplies pairs.
#[derive(Clone)]
pub struct Packed {
    taps: usize,
    channels: usize,
    /// Channels that lie side by side: 1, or 2 in pairs.
    together: usize,
    outputs: usize,
    gated: bool,
    /// Outputs in a panel; the last may be narrower. With a gate, half of them are gates.
    width: usize,
    lanes: usize,
    numbers: Arc<Numbers>,
    /// The first of its own among the numbers.
    first: usize,
    /// In the order of the panels, padded as they are.
    bias: Vec<f32>,
}

/// Those of all matrices that were packed at once.
pub(crate) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Bf16Pairs(Vec<[bf16; 2]>),
}

/// Numbers between two matrices, so that the same places of many do not compete for the same ways of a cache.
const GAP: usize = 16;

/// What a panel has for an output and a channel, or for an output and some channels.
pub trait Element: Pod + Default + Send + Sync {
    /// Whether it has to be widened before it is multiplied.
    const NARROW: bool = false;
    /// How many channels.
    const CHANNELS: usize = 1;
    fn set(&mut self, channel: usize, value: f32);
    /// # Safety
    ///
    /// As many as a vector has numbers must be readable.
    unsafe fn load<S: Simd>(from: *const Self) -> S;
    /// `sum` plus the products with what is in all lanes of `factors`.
    #[inline(always)]
    fn add_products<S: Simd>(weights: S, factors: S, sum: S) -> S {
        factors.mul_add(weights, sum)
    }
}

impl Element for f32 {
    fn set(&mut self, _: usize, value: f32) {
        *self = value;
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load(from) }
    }
}

impl Element for f16 {
    const NARROW: bool = true;

    fn set(&mut self, _: usize, value: f32) {
        *self = f16::from_f32(value);
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(from) }
    }
}

impl Element for bf16 {
    const NARROW: bool = true;

    fn set(&mut self, _: usize, value: f32) {
        *self = bf16::from_f32(value);
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(from) }
    }
}

impl Element for [bf16; 2] {
    const CHANNELS: usize = 2;

    fn set(&mut self, channel: usize, value: f32) {
        self[channel] = bf16::from_f32(value);
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise: a pair is as large as a number.
        unsafe { S::load(from.cast()) }
    }

    #[inline(always)]
    fn add_products<S: Simd>(weights: S, factors: S, sum: S) -> S {
        factors.add_products(weights, sum)
    }
}

/// How the panels of some matrices are made of a matrix of weights.
pub(crate) trait Arrange: Sync {
    /// Fills a panel of each matrix, which has zeros. For every column of the panels there is a row of the weights, or none where
    /// it is padding.
    fn panel<E: Element>(&self, columns: &[Option<&[f32]>], panels: &mut [&mut [E]]);
}

/// One matrix with the numbers of the weights.
struct Taps {
    taps: usize,
    channels: usize,
}

impl Arrange for Taps {
    fn panel<E: Element>(&self, columns: &[Option<&[f32]>], panels: &mut [&mut [E]]) {
        // Channels of which both what is read and what is written stay in the first-level cache.
        const SOME: usize = 16;
        let [panel] = panels else { return };
        let width = columns.len();
        let depth = self.channels.div_ceil(E::CHANNELS);
        for first in (0..self.channels).step_by(SOME) {
            let last = self.channels.min(first + SOME);
            for tap in 0..self.taps {
                let to = &mut panel[(tap * depth + first / E::CHANNELS) * width..];
                let to = &mut to[..(last - first).div_ceil(E::CHANNELS) * width];
                for (column, row) in columns.iter().enumerate() {
                    let Some(row) = row else { continue };
                    let numbers = row[first * self.taps..last * self.taps].iter();
                    let numbers = numbers.skip(tap).step_by(self.taps);
                    for (channel, number) in numbers.enumerate() {
                        let at = channel / E::CHANNELS * width + column;
                        to[at].set(channel % E::CHANNELS, *number);
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            taps,
            channels,
            outputs,
            ..
        } = self;
        write!(f, "Packed({outputs} of {taps} x {channels})")
    }
}

/// Lanes of a vector, the width of a panel, and whether pairs of `bf16` are multiplied at the level in use.
fn tile() -> (usize, usize, bool) {
    struct Tile;
    impl Kernel for Tile {
        type Output = (usize, usize, bool);
        #[inline(always)]
        fn run<S: Simd>(self) -> (usize, usize, bool) {
            (S::LANES, S::LANES * S::VECTORS, S::PAIRS)
        }
    }
    run(Tile)
}

impl Packed {
    /// Packs weights `[outputs, channels, taps]`, as PyTorch has those of a linear layer and, with the kernel's positions row by row
    /// as the taps, of a convolution. Splits the work among the threads of the pool that it is called in.
    ///
    /// # Panics
    ///
    /// If there are more or fewer weights, or `bias` has not one number for each output.
    #[must_use]
    pub fn new(storage: Storage, shape: [usize; 3], bias: Option<&[f32]>, weights: &[f32]) -> Self {
        Self::pack(storage, shape, bias, weights, false)
    }

    /// Packs the weights of a gated product, `[2 · inner, channels]`: the second half of the rows are the gates of the first, so
    /// that a tile holds both and only their product is written.
    ///
    /// # Panics
    ///
    /// As [`Packed::new`].
    #[must_use]
    pub fn gated(
        storage: Storage,
        [inner, channels]: [usize; 2],
        bias: Option<&[f32]>,
        weights: &[f32],
    ) -> Self {
        Self::pack(storage, [inner, 1, channels], bias, weights, true)
    }

    fn pack(
        storage: Storage,
        shape: [usize; 3],
        bias: Option<&[f32]>,
        weights: &[f32],
        gated: bool,
    ) -> Self {
        let mut packed = Self::empty(storage, shape, gated);
        if let Some(bias) = bias {
            assert_eq!(bias.len(), packed.rows(), "a number for each output");
            packed.set_bias(bias);
        }
        let [_, taps, channels] = shape;
        assert_eq!(
            weights.len(),
            packed.rows() * taps * channels,
            "the weights' size"
        );
        let as_it_is = Taps { taps, channels };
        let mut packed = packed.fill(storage, 1, weights, &as_it_is);
        packed.pop().expect("one was asked for")
    }

    /// Packs `count` matrices of `[outputs, channels]` at once, which `arrange` makes of the weights.
    pub(crate) fn several(
        storage: Storage,
        count: usize,
        [outputs, channels]: [usize; 2],
        weights: &[f32],
        arrange: &impl Arrange,
    ) -> Vec<Self> {
        Self::empty(storage, [outputs, 1, channels], false).fill(storage, count, weights, arrange)
    }

    fn empty(storage: Storage, [outputs, taps, channels]: [usize; 3], gated: bool) -> Self {
        let (lanes, width, pairs) = tile();
        let mut packed = Self {
            taps,
            channels,
            together: match storage {
                Storage::Bf16Pairs if pairs => 2,
                _ => 1,
            },
            outputs,
            gated,
            width,
            lanes,
            numbers: Arc::new(Numbers::F32(Vec::new())),
            first: 0,
            bias: Vec::new(),
        };
        let columns = (0..packed.panels()).map(|panel| packed.vectors(panel) * lanes);
        packed.bias = vec![0.0; columns.sum()];
        packed
    }

    fn set_bias(&mut self, bias: &[f32]) {
        let columns = (0..self.panels()).flat_map(|panel| self.columns(panel));
        let columns: Vec<f32> = columns
            .map(|output| output.map_or(0.0, |output| bias[output]))
            .collect();
        self.bias = columns;
    }

    fn fill(
        self,
        storage: Storage,
        count: usize,
        weights: &[f32],
        arrange: &impl Arrange,
    ) -> Vec<Self> {
        let numbers = Arc::new(match storage {
            Storage::F32 => Numbers::F32(self.matrices(count, weights, arrange)),
            Storage::F16 => Numbers::F16(self.matrices(count, weights, arrange)),
            Storage::Bf16Pairs if self.together == 2 => {
                Numbers::Bf16Pairs(self.matrices(count, weights, arrange))
            }
            Storage::Bf16 | Storage::Bf16Pairs => {
                Numbers::Bf16(self.matrices(count, weights, arrange))
            }
        });
        let matrix = |index| Self {
            numbers: numbers.clone(),
            first: index * self.stride(),
            ..self.clone()
        };
        (0..count).map(matrix).collect()
    }

    /// From a matrix to the next.
    fn stride(&self) -> usize {
        self.depth() * self.bias.len() + GAP
    }

    /// One after another, so that small ones, too, are in large pages.
    fn matrices<E: Element>(
        &self,
        count: usize,
        weights: &[f32],
        arrange: &impl Arrange,
    ) -> Vec<E> {
        let row = weights.len() / self.rows().max(1);
        assert_eq!(row * self.rows(), weights.len(), "a row for each output");
        let mut matrices = huge::zeros(count * self.stride());
        let mut panels: Vec<Vec<&mut [E]>> = (0..self.panels()).map(|_| Vec::new()).collect();
        for matrix in matrices.chunks_mut(self.stride()) {
            let (matrix, _) = matrix.split_at_mut(self.stride() - GAP);
            let chunks = matrix.chunks_mut((self.depth() * self.width).max(1));
            for (panel, chunk) in panels.iter_mut().zip(chunks) {
                panel.push(chunk);
            }
        }
        let panels = panels.into_par_iter().enumerate();
        panels.for_each(|(panel, mut matrices)| {
            let row_of = |output: usize| &weights[output * row..][..row];
            let columns = self.columns(panel).into_iter();
            let columns: Vec<_> = columns.map(|output| output.map(row_of)).collect();
            arrange.panel(&columns, &mut matrices);
        });
        matrices
    }

    /// Rows of the weights, gates included.
    fn rows(&self) -> usize {
        self.outputs * if self.gated { 2 } else { 1 }
    }

    /// The rows of the weights that are the columns of a panel.
    fn columns(&self, panel: usize) -> Vec<Option<usize>> {
        let columns = 0..self.vectors(panel) * self.lanes;
        columns.map(|column| self.output(panel, column)).collect()
    }

    /// Which row of the weights is a column of a panel; none for what only pads it.
    fn output(&self, panel: usize, column: usize) -> Option<usize> {
        let half = self.vectors(panel) * self.lanes / 2;
        let (column, gate) = match self.gated && column >= half {
            true => (column - half, self.outputs),
            false => (column, 0),
        };
        let output = self.first_column(panel) + column;
        (output < self.outputs).then_some(output + gate)
    }

    /// The first column of the result that a panel makes.
    pub(crate) fn first_column(&self, panel: usize) -> usize {
        panel * self.columns_of_panel()
    }

    /// Columns of the result that a full panel makes.
    fn columns_of_panel(&self) -> usize {
        if self.gated {
            self.width / 2
        } else {
            self.width
        }
    }

    /// Vectors side by side in a panel.
    pub(crate) fn vectors(&self, panel: usize) -> usize {
        let left = self.outputs - self.first_column(panel);
        let columns = left.min(self.columns_of_panel());
        let vectors = columns.div_ceil(self.lanes);
        if self.gated { 2 * vectors } else { vectors }
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(self.columns_of_panel())
    }

    /// Columns of the result.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The inner dimension.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.taps * self.channels
    }

    /// Numbers of a tap.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Steps that a product takes through the channels of a tap.
    pub(crate) fn steps(&self) -> usize {
        self.channels.div_ceil(self.together)
    }

    /// Rows of a panel.
    fn depth(&self) -> usize {
        self.taps * self.steps()
    }

    pub(crate) fn taps(&self) -> usize {
        self.taps
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.gated
    }

    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Where a panel begins in the numbers.
    pub(crate) fn start(&self, panel: usize) -> usize {
        self.first + panel * self.width * self.depth()
    }

    /// The bias of a panel and all after it.
    pub(crate) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias[panel * self.width..]
    }
}
