//! The weights of a matrix product, in the order in which it reads them.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::simd::{Kernel, Simd, run};

/// The type that weights are held in. All sums are `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 10 are of the fraction.
    F16,
    /// 16 bits, of which 7 are of the fraction.
    Bf16,
}

/// A matrix of weights, cut into panels of as many outputs as a tile of the product has.
///
/// The inner dimension is made of `taps` of `channels` each: the positions that a convolution looks at, or one for a plain
/// product. In a panel the outputs of an input lie side by side, inputs one after another.
#[derive(Clone)]
pub struct Packed {
    taps: usize,
    channels: usize,
    outputs: usize,
    gated: bool,
    /// Outputs in a panel; the last may be narrower. With a gate, half of them are gates.
    width: usize,
    lanes: usize,
    numbers: Numbers,
    /// In the order of the panels, padded as they are.
    bias: Vec<f32>,
}

#[derive(Clone)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// A number of a panel.
pub(crate) trait Element: Copy + Default + Send + Sync {
    fn of(value: f32) -> Self;
    /// # Safety
    ///
    /// As many numbers as a vector has must be readable.
    unsafe fn load<S: Simd>(from: *const Self) -> S;
}

impl Element for f32 {
    fn of(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load(from) }
    }
}

impl Element for f16 {
    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(from) }
    }
}

impl Element for bf16 {
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(from) }
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

/// Lanes of a vector and the width of a panel of the level in use.
fn tile() -> (usize, usize) {
    struct Tile;
    impl Kernel for Tile {
        type Output = (usize, usize);
        #[inline(always)]
        fn run<S: Simd>(self) -> (usize, usize) {
            (S::LANES, S::LANES * S::VECTORS)
        }
    }
    run(Tile)
}

impl Packed {
    /// Packs `outputs` rows of `taps · channels` weights; `weight(output, tap, channel)` gives them. Splits the work among the
    /// threads of the pool that it is called in.
    ///
    /// # Panics
    ///
    /// If `bias` has not one number for each output.
    #[must_use]
    pub fn new(
        storage: Storage,
        [outputs, taps, channels]: [usize; 3],
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        Self::pack(storage, [outputs, taps, channels], bias, weight, false)
    }

    /// Packs the weights of a gated product: of `2 · inner` rows, the second half are the gates of the first, so that a tile
    /// holds both and only their product is written.
    ///
    /// # Panics
    ///
    /// As [`Packed::new`].
    #[must_use]
    pub fn gated(
        storage: Storage,
        [inner, channels]: [usize; 2],
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let weight = |output, _, channel| weight(output, channel);
        Self::pack(storage, [inner, 1, channels], bias, weight, true)
    }

    fn pack(
        storage: Storage,
        [outputs, taps, channels]: [usize; 3],
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
        gated: bool,
    ) -> Self {
        let mut packed = Self::empty([outputs, taps, channels], gated);
        if let Some(bias) = bias {
            let rows = if gated { 2 * outputs } else { outputs };
            assert_eq!(bias.len(), rows, "a bias has a number for each output");
            packed.set_bias(bias);
        }
        packed
            .fill(storage, 1, |columns, input, numbers| {
                let (tap, channel) = (input / channels, input % channels);
                for (number, output) in numbers.iter_mut().zip(columns) {
                    *number = output.map_or(0.0, |output| weight(output, tap, channel));
                }
            })
            .pop()
            .expect("one was asked for")
    }

    /// Packs `count` matrices of `[outputs, channels]` at once. `weights(columns, channel, numbers)` gives, for some of the
    /// outputs, a number of each matrix; there is none where a column only pads a panel.
    pub(crate) fn several(
        storage: Storage,
        count: usize,
        [outputs, channels]: [usize; 2],
        weights: impl Fn(&[Option<usize>], usize, &mut [f32]) + Sync,
    ) -> Vec<Self> {
        Self::empty([outputs, 1, channels], false).fill(storage, count, weights)
    }

    fn empty([outputs, taps, channels]: [usize; 3], gated: bool) -> Self {
        let (lanes, width) = tile();
        let mut packed = Self {
            taps,
            channels,
            outputs,
            gated,
            width,
            lanes,
            numbers: Numbers::F32(Vec::new()),
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
        weights: impl Fn(&[Option<usize>], usize, &mut [f32]) + Sync,
    ) -> Vec<Self> {
        let numbers: Vec<Numbers> = match storage {
            Storage::F32 => self.arrange(count, &weights).map(Numbers::F32).collect(),
            Storage::F16 => self.arrange(count, &weights).map(Numbers::F16).collect(),
            Storage::Bf16 => self.arrange(count, &weights).map(Numbers::Bf16).collect(),
        };
        let with = |numbers| Self {
            numbers,
            ..self.clone()
        };
        numbers.into_iter().map(with).collect()
    }

    fn arrange<E: Element>(
        &self,
        count: usize,
        weights: &(impl Fn(&[Option<usize>], usize, &mut [f32]) + Sync),
    ) -> impl Iterator<Item = Vec<E>> {
        let size = self.inputs() * self.bias.len();
        let mut matrices: Vec<Vec<E>> = (0..count).map(|_| vec![E::default(); size]).collect();
        let mut panels: Vec<Vec<&mut [E]>> = (0..self.panels()).map(|_| Vec::new()).collect();
        for matrix in &mut matrices {
            let chunks = matrix.chunks_mut((self.inputs() * self.width).max(1));
            for (panel, chunk) in panels.iter_mut().zip(chunks) {
                panel.push(chunk);
            }
        }
        let panels = panels.into_par_iter().enumerate();
        panels.for_each(|(panel, mut matrices)| {
            let columns = self.columns(panel);
            let mut numbers = vec![0.0; count * columns.len()];
            for input in 0..self.inputs() {
                weights(&columns, input, &mut numbers);
                let all = matrices.iter_mut().zip(numbers.chunks(columns.len()));
                for (matrix, numbers) in all {
                    let row = &mut matrix[input * columns.len()..][..columns.len()];
                    for (to, number) in row.iter_mut().zip(numbers) {
                        *to = E::of(*number);
                    }
                }
            }
        });
        matrices.into_iter()
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

    pub(crate) fn taps(&self) -> usize {
        self.taps
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.gated
    }

    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Where a panel begins in the bias; times [`Packed::inputs`], in the numbers.
    pub(crate) fn start(&self, panel: usize) -> usize {
        panel * self.width
    }

    /// The bias of a panel and all after it.
    pub(crate) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias[self.start(panel)..]
    }
}
