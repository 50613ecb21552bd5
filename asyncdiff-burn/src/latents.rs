//! What all denoisers share: sums of latents and predictions, guidance, masks, and what a run is given. What a network does
//! of its own is in its [`Blocks`].

use std::convert::Infallible;

use asyncdiff_core::plan::{Branch, Part, Term, Versioned};
use asyncdiff_core::{BlockId, Denoiser};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// A network by its blocks, on one device, with everything that it is told beside the latents and the timestep.
///
/// Shapes are proved when weights are loaded, and a failing backend panics, so running a block has no error.
pub trait Blocks {
    /// Computes a block from its inputs, in the graph's order, for both halves of the guidance batch or for one of them.
    ///
    /// An input from the latents is `[batch, channels, height, width]`; where the block works on a larger batch (guidance), it
    /// repeats them. Every other input has the rows that `branch` says.
    fn run(
        &mut self,
        block: BlockId,
        branch: Branch,
        timestep: f64,
        inputs: Vec<Tensor<4>>,
    ) -> Tensor<4>;
}

/// Makes the values that [are given](asyncdiff_core::Value::is_given), as `[batch, channels, height, width]`.
pub type Given<'a> = Box<dyn FnMut(Versioned) -> Tensor<4> + Send + 'a>;

/// Runs the [`Blocks`] of a network, and everything around them, for one batch of latents.
pub struct OnLatents<'a, B> {
    blocks: B,
    device: Device,
    frames: usize,
    mask: Option<Tensor<4>>,
    given: Given<'a>,
}

impl<'a, B: Blocks> OnLatents<'a, B> {
    /// `blocks` for videos of `frames` frames each, next to each other in the batch (1 for pictures), whose tensors are on
    /// `device`.
    pub fn new(blocks: B, frames: usize, device: &Device, given: Given<'a>) -> Self {
        Self {
            blocks,
            device: device.clone(),
            frames,
            mask: None,
            given,
        }
    }

    /// The same for a run that keeps what is outside a mask: 1 where it paints and 0 where it keeps the picture,
    /// `[1, 1, height, width]`.
    #[must_use]
    pub fn with_mask(self, mask: Option<Tensor<4>>) -> Self {
        Self { mask, ..self }
    }

    fn part(&self, part: Part, tensor: Tensor<4>) -> Tensor<4> {
        let half = tensor.dims()[0] / 2;
        let mask = || {
            self.mask
                .clone()
                .expect("a plan that keeps what is outside a mask needs one")
        };
        match part {
            Part::Whole => tensor,
            Part::Unconditional => tensor.narrow(0, 0, half),
            Part::Conditional => tensor.narrow(0, half, half),
            Part::Inside => tensor * mask(),
            Part::Outside => tensor * (1.0 - mask()),
        }
    }

    /// A factor for every row of `like`, `[batch, 1, 1, 1]`: from `first` at a video's first frame to `last` at its last.
    fn over_frames(&self, first: f64, last: f64, like: &Tensor<4>) -> Tensor<4> {
        let batch = like.dims()[0];
        let intervals = (self.frames - 1).max(1) as f64;
        let weight = |row: usize| {
            let share = (row % self.frames) as f64 / intervals;
            (first + share * (last - first)) as f32
        };
        let weights: Vec<f32> = (0..batch).map(weight).collect();
        Tensor::from_data(TensorData::new(weights, [batch, 1, 1, 1]), &self.device)
    }
}

impl<B: Blocks> Denoiser for OnLatents<'_, B> {
    type Tensor = Tensor<4>;
    type Error = Infallible;

    fn run(
        &mut self,
        block: BlockId,
        branch: Branch,
        timestep: f64,
        inputs: Vec<Tensor<4>>,
    ) -> Result<Tensor<4>, Infallible> {
        Ok(self.blocks.run(block, branch, timestep, inputs))
    }

    fn combine(&mut self, terms: &[(Term, Tensor<4>)]) -> Result<Tensor<4>, Infallible> {
        let summands = terms.iter().map(|(term, tensor)| {
            // Whatever the blocks compute in, a narrower type would round the coefficients' work away.
            let tensor = tensor.clone().cast(FloatDType::F32);
            let part = self.part(term.part, tensor);
            match term.last_frame {
                None => part * term.weight,
                Some(last) => {
                    let weights = self.over_frames(term.weight, last, &part);
                    part * weights
                }
            }
        });
        // An update whose every coefficient is zero does not occur in a valid schedule.
        let zero = || Tensor::zeros([1, 1, 1, 1], &self.device);
        Ok(summands
            .reduce(|sum, summand| sum + summand)
            .unwrap_or_else(zero))
    }

    fn given(&mut self, what: Versioned) -> Result<Tensor<4>, Infallible> {
        Ok((self.given)(what))
    }
}
