//! How much memory a block takes while it runs, beside its inputs, and from call to call.
//!
//! The figures follow from how `asyncdiff-models` computes the blocks with the CPU's kernels, which need no copies of a feature
//! map and hold only blocks of products and scores, and were checked against the allocator. A backend that fuses operations
//! takes less, one that unfolds convolutions more.

use super::{BlockKind, UNetBlock};

impl UNetBlock {
    /// Tensor elements that the block holds at its peak beside its inputs, its output included, for `samples` feature maps
    /// with `pixels` output positions each. Of the first input, `first` are the channels.
    pub(super) fn working(&self, samples: u64, pixels: u64, first: usize) -> u64 {
        let map = |channels: usize| samples * channels as u64 * pixels;
        let resnet = |input: usize, output: usize| {
            // The inputs side by side take the place of the first, which no other block reads.
            let joined = if self.inputs.len() > 1 {
                map(input) - map(first.min(input))
            } else {
                0
            };
            // The input's norm and the first convolution; that and its norm; at the end that, the shortcut and the sum.
            let first = joined + map(input) + map(output);
            first.max(joined + 2 * map(output)).max(3 * map(output))
        };
        match self.kind {
            // Repeated for guidance, and with its channels side by side.
            BlockKind::ConvIn { input, output } => 2 * map(input) + map(output),
            BlockKind::Resnet { input, output } => resnet(input, output),
            // In the feed-forward part: tokens, norm, and the four times wider activation.
            BlockKind::Transformer { channels, .. } | BlockKind::Motion { channels, .. } => {
                6 * map(channels)
            }
            // Along time, beside what it began with.
            BlockKind::SpatioTemporalResnet { input, output } => {
                resnet(input, output).max(4 * map(output))
            }
            // As in a transformer, and what the layer along time began with.
            BlockKind::SpatioTemporalTransformer { channels, .. } => 7 * map(channels),
            BlockKind::Downsample { channels } | BlockKind::Upsample { channels } => map(channels),
            BlockKind::ConvOut { input, output } => map(input) + map(output),
        }
    }

    /// Tensor elements that the block holds from its first call on: the keys and values of `tokens` tokens of text.
    pub(super) fn kept(&self, tokens: u64) -> u64 {
        let (channels, layers) = match self.kind {
            BlockKind::Transformer {
                channels, layers, ..
            } => (channels, layers),
            BlockKind::SpatioTemporalTransformer {
                channels, layers, ..
            } => (channels, 2 * layers),
            _ => return 0,
        };
        2 * tokens * (channels * layers) as u64
    }
}
