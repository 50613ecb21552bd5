//! The segment graph: the blocks of a denoiser, what each reads, and what each costs.

use serde::Serialize;

pub use crate::value::BlockId;
use crate::value::{Value, Versioned};

/// Where a block's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The noisy latents, scaled as the noise scheduler asks.
    Latents,
    /// The output of an earlier block.
    Block(BlockId),
}

/// The smallest unit that is scheduled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// The diffusers module path, as `down_blocks.0.resnets.1`.
    pub name: String,
    /// What it reads, in order.
    pub inputs: Vec<Input>,
    /// Multiply-accumulate operations of a first call. A later one has the keys and values of the text already.
    pub macs: u64,
    /// Number of weights.
    pub parameters: u64,
    /// Tensor elements that computing it takes at the peak beside its inputs, the output included.
    pub working: u64,
    /// Tensor elements that it holds from its first call to the end of the run: the keys and values of the text.
    pub kept: u64,
    /// Shape of its output: `[batch, channels, height, width]`.
    pub output: [usize; 4],
}

impl Block {
    /// Number of elements of the output.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.output.iter().product::<usize>() as u64
    }
}

/// What a published partition table is chosen by, beside the block names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// A picture's UNet whose transformers project their tokens with 1x1 convolutions (Stable Diffusion 1.x).
    Convolution,
    /// A picture's UNet whose transformers project their tokens with linear layers (Stable Diffusion 2 and XL).
    Linear,
    /// A UNet with motion modules (AnimateDiff).
    Motion,
    /// A UNet whose resnets and transformers also run along time (Stable Video Diffusion).
    SpatioTemporal,
}

/// The blocks of a denoiser in evaluation order, for one batch and latent size.
///
/// The first block reads the latents, the last one makes the noise prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SegmentGraph {
    /// The blocks; a [`BlockId`] is an index into this list.
    pub blocks: Vec<Block>,
    /// Shape of the latents, `[batch, channels, height, width]`, without guidance's doubling.
    pub latents: [usize; 4],
    /// Weights that every rank holds, whatever its blocks (the time embedding and what is added to it).
    pub shared_parameters: u64,
    /// What a published table is chosen by.
    pub structure: Structure,
}

impl SegmentGraph {
    /// The blocks with their ids.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (BlockId, &Block)> {
        self.blocks
            .iter()
            .enumerate()
            .map(|(index, block)| (BlockId(index), block))
    }

    /// The block of that id.
    ///
    /// # Panics
    ///
    /// If the id belongs to another graph.
    #[must_use]
    pub fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0]
    }

    /// The block of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<BlockId> {
        self.iter()
            .find_map(|(id, block)| (block.name == name).then_some(id))
    }

    /// The block that makes the noise prediction.
    #[must_use]
    pub fn last(&self) -> BlockId {
        BlockId(self.blocks.len() - 1)
    }

    /// Multiply-accumulate operations of one denoiser call.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.blocks.iter().map(|block| block.macs).sum()
    }

    /// Shape of a value , `[batch, channels, height, width]`.
    #[must_use]
    pub fn shape(&self, what: Versioned) -> [usize; 4] {
        match what.value {
            Value::Block(id) => {
                let [batch, channels, height, width] = self.block(id).output;
                let parts = what.branch.divisor() as usize;
                [batch / parts, channels, height, width]
            }
            _ => self.latents,
        }
    }

    /// Number of elements of a value .
    #[must_use]
    pub fn elements(&self, what: Versioned) -> u64 {
        self.shape(what).iter().product::<usize>() as u64
    }

    /// Number of weights that a rank with these blocks holds.
    #[must_use]
    pub fn parameters(&self, blocks: &[BlockId]) -> u64 {
        self.shared_parameters
            + blocks
                .iter()
                .map(|id| self.block(*id).parameters)
                .sum::<u64>()
    }
}
