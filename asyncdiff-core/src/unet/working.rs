//! How much memory a block takes while it runs, beside its inputs.
//!
//! The figures follow from how `asyncdiff-models` computes the blocks on Burn's CPU backend, whose attention never holds all
//! scores at once, and were checked against the allocator. A backend that fuses operations takes less.

use super::{BlockKind, UNetBlock};

/// Output positions that the CPU backend's convolutions unfold at a time.
const TILE: u64 = 512;

impl UNetBlock {
    /// Tensor elements that the block holds at its peak beside its inputs, its output included, for `samples` feature maps
    /// with `pixels` output positions each.
    pub(super) fn working(&self, samples: u64, pixels: u64) -> u64 {
        let map = |channels: usize| samples * channels as u64 * pixels;
        // The rearranged kernel, and one tile of unfolded input with its result.
        let convolution = |input: usize, output: usize| {
            let (input, output) = (9 * input as u64, output as u64);
            input * output + TILE.min(pixels) * (input + output)
        };
        match self.kind {
            BlockKind::ConvIn { input, output } => {
                2 * map(input) + map(output) + convolution(input, output)
            }
            BlockKind::Resnet { input, output } => {
                let joined = if self.inputs.len() > 1 { map(input) } else { 0 };
                // Norm, activation and rearranged input.
                joined + 3 * map(input) + map(output) + convolution(input.max(output), output)
            }
            // In the feed-forward part: tokens, norm, eight times the features for GEGLU, and both halves of them apart.
            BlockKind::Transformer { channels, .. } | BlockKind::Motion { channels, .. } => {
                18 * map(channels)
            }
            BlockKind::SpatioTemporalResnet { input, output } => {
                let joined = if self.inputs.len() > 1 { map(input) } else { 0 };
                let spatial = 3 * map(input) + map(output);
                // Along time: what it began with, that in another order, norm, activation, and rearranged input.
                let temporal = 5 * map(output);
                joined + spatial.max(temporal) + convolution(input.max(output), output)
            }
            // As in a transformer, and what the layer along time began with.
            BlockKind::SpatioTemporalTransformer { channels, .. } => 19 * map(channels),
            BlockKind::Downsample { channels } => {
                // The input has four times the positions.
                6 * map(channels) + convolution(channels, channels)
            }
            BlockKind::Upsample { channels } => 4 * map(channels) + convolution(channels, channels),
            BlockKind::ConvOut { input, output } => {
                3 * map(input) + map(output) + convolution(input, output)
            }
        }
    }
}
