//! What the blocks of a UNet cost: multiply-accumulate operations and weights.

use super::{BlockKind, UNet2d};

impl UNet2d {
    /// Multiply-accumulate operations for one sample with `pixels` output positions and `tokens` text tokens, in a video of
    /// `frames` samples. Norms and activations are not counted.
    pub(super) fn macs(&self, kind: &BlockKind, pixels: u64, tokens: u64, frames: u64) -> u64 {
        match *kind {
            BlockKind::Resnet { input, output } => {
                let (input, output) = (input as u64, output as u64);
                let shortcut = if input == output { 0 } else { input * output };
                (9 * (input * output + output * output) + shortcut) * pixels
            }
            BlockKind::Transformer {
                channels, layers, ..
            } => {
                let (channels, layers) = (channels as u64, layers as u64);
                let context = self.config.cross_attention_dim as u64;
                let projections = 2 * channels * channels * pixels;
                let self_attention =
                    4 * channels * channels * pixels + 2 * pixels * pixels * channels;
                let cross_attention = 2 * channels * channels * pixels
                    + 2 * context * channels * tokens
                    + 2 * pixels * tokens * channels;
                let feed_forward = 12 * channels * channels * pixels;
                projections + layers * (self_attention + cross_attention + feed_forward)
            }
            BlockKind::SpatioTemporalResnet { input, output } => {
                let spatial = BlockKind::Resnet { input, output };
                // Two convolutions over three frames.
                let temporal = 6 * (output * output) as u64 * pixels;
                self.macs(&spatial, pixels, tokens, frames) + temporal
            }
            BlockKind::SpatioTemporalTransformer {
                channels,
                heads,
                layers,
            } => {
                let spatial = BlockKind::Transformer {
                    channels,
                    heads,
                    layers,
                };
                let spatial = self.macs(&spatial, pixels, tokens, frames);
                let (channels, layers) = (channels as u64, layers as u64);
                // The keys and values of the cross-attention are counted with the spatial layer's: every position reads the same.
                let self_attention = 4 * channels * channels + 2 * frames * channels;
                let cross_attention = 2 * channels * channels + 2 * tokens * channels;
                let feed_forwards = 2 * 12 * channels * channels;
                spatial + layers * pixels * (self_attention + cross_attention + feed_forwards)
            }
            BlockKind::Motion {
                channels, layers, ..
            } => {
                let (channels, layers) = (channels as u64, layers as u64);
                let projections = 2 * channels * channels;
                let self_attention = 4 * channels * channels + 2 * frames * channels;
                let feed_forward = 12 * channels * channels;
                pixels * (projections + layers * (2 * self_attention + feed_forward))
            }
            BlockKind::ConvIn { input, output } | BlockKind::ConvOut { input, output } => {
                9 * (input * output) as u64 * pixels
            }
            BlockKind::Downsample { channels } | BlockKind::Upsample { channels } => {
                9 * (channels * channels) as u64 * pixels
            }
        }
    }

    pub(super) fn parameters(&self, kind: &BlockKind) -> u64 {
        let time = self.config.time_embed_dim();
        let conv3 = |input, output| 9 * input * output + output;
        let linear = |input, output| input * output + output;
        let norm = |channels| 2 * channels;
        // Query, key and value have no bias, the output projection has one.
        let attention =
            |channels, context| 2 * channels * channels + 2 * context * channels + channels;
        let feed_forward =
            |channels| linear(channels, 8 * channels) + linear(4 * channels, channels);
        let context = self.config.cross_attention_dim;
        let count = match *kind {
            BlockKind::ConvIn { input, output } => conv3(input, output),
            BlockKind::Resnet { input, output } => {
                let shortcut = if input == output {
                    0
                } else {
                    linear(input, output)
                };
                norm(input)
                    + conv3(input, output)
                    + linear(time, output)
                    + norm(output)
                    + conv3(output, output)
                    + shortcut
            }
            BlockKind::Transformer {
                channels, layers, ..
            } => {
                let layer = 3 * norm(channels)
                    + attention(channels, channels)
                    + attention(channels, context)
                    + feed_forward(channels);
                norm(channels) + 2 * linear(channels, channels) + layers * layer
            }
            BlockKind::SpatioTemporalResnet { input, output } => {
                let temporal =
                    2 * norm(output) + 2 * (3 * output * output + output) + linear(time, output);
                let mixer = 1;
                return self.parameters(&BlockKind::Resnet { input, output })
                    + (temporal + mixer) as u64;
            }
            BlockKind::SpatioTemporalTransformer {
                channels,
                heads,
                layers,
            } => {
                let spatial = BlockKind::Transformer {
                    channels,
                    heads,
                    layers,
                };
                let layer = 4 * norm(channels)
                    + attention(channels, channels)
                    + attention(channels, context)
                    + 2 * feed_forward(channels);
                let position = linear(channels, 4 * channels) + linear(4 * channels, channels);
                let mixer = 1;
                return self.parameters(&spatial) + (layers * layer + position + mixer) as u64;
            }
            BlockKind::Motion {
                channels,
                layers,
                positions,
                ..
            } => {
                let layer = 3 * norm(channels)
                    + 2 * attention(channels, channels)
                    + feed_forward(channels)
                    + positions * channels;
                norm(channels) + 2 * linear(channels, channels) + layers * layer
            }
            BlockKind::Downsample { channels } | BlockKind::Upsample { channels } => {
                conv3(channels, channels)
            }
            BlockKind::ConvOut { input, output } => norm(input) + conv3(input, output),
        };
        count as u64
    }

    /// Two linear layers that embed the timestep, and two for what is added to it.
    pub(super) fn shared_parameters(&self) -> u64 {
        let time = self.config.time_embed_dim();
        let embedding = |input| input * time + time + time * time + time;
        let added = self.config.added();
        let count = embedding(self.config.block_out_channels[0])
            + added.map_or(0, |added| embedding(added.input_features));
        count as u64
    }
}
