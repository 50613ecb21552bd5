//! The block structure of diffusers' `UNet2DConditionModel`, `UNetMotionModel` and `UNetSpatioTemporalConditionModel`, from
//! their `config.json`.
//!
//! This is arithmetic only: which blocks there are, how many channels each reads and writes, and what each costs. The
//! weights and the tensors are another crate's business; it builds its modules from the same [`UNetBlock`] list.

mod config;
mod cost;
mod motion;
mod spatio_temporal;
mod working;

pub use config::{AddedEmbedding, PerBlock, UNet2dConfig};
pub use motion::{MotionConfig, MotionError};
pub use spatio_temporal::SpatioTemporalConfig;

use crate::graph::{Block, BlockId, Input, SegmentGraph, Structure};
use crate::quoted;

/// What a block of a UNet computes. Channel counts are of its input and output, spatial sizes follow from the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// 3x3 convolution from the latents.
    ConvIn {
        /// Channels of the latents.
        input: usize,
        /// Channels out.
        output: usize,
    },
    /// `ResnetBlock2D`. With a second input (a skip connection) both are concatenated along the channels.
    Resnet {
        /// Channels in, skip connection included.
        input: usize,
        /// Channels out.
        output: usize,
    },
    /// `Transformer2DModel` with cross-attention to the text.
    Transformer {
        /// Channels in and out.
        channels: usize,
        /// Attention heads.
        heads: usize,
        /// Transformer layers.
        layers: usize,
    },
    /// `SpatioTemporalResBlock`: a [`BlockKind::Resnet`], then one along the frames of each video.
    SpatioTemporalResnet {
        /// Channels in, skip connection included.
        input: usize,
        /// Channels out.
        output: usize,
    },
    /// `TransformerSpatioTemporalModel`: each layer of a [`BlockKind::Transformer`] is followed by one along the frames.
    SpatioTemporalTransformer {
        /// Channels in and out.
        channels: usize,
        /// Attention heads.
        heads: usize,
        /// Transformer layers, of each of both.
        layers: usize,
    },
    /// `AnimateDiffTransformer3D`, a motion module: attention along the frames at each position.
    Motion {
        /// Channels in and out.
        channels: usize,
        /// Attention heads.
        heads: usize,
        /// Transformer layers.
        layers: usize,
        /// Positional encodings: the most frames that a video can have.
        positions: usize,
    },
    /// 3x3 convolution of stride 2.
    Downsample {
        /// Channels in and out.
        channels: usize,
    },
    /// Nearest-neighbour enlargement to the next level's size, then a 3x3 convolution.
    Upsample {
        /// Channels in and out.
        channels: usize,
    },
    /// GroupNorm, SiLU and 3x3 convolution to the noise prediction.
    ConvOut {
        /// Channels in.
        input: usize,
        /// Channels of the prediction.
        output: usize,
    },
}

/// One block of a UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetBlock {
    /// The diffusers module path.
    pub name: String,
    /// What it computes.
    pub kind: BlockKind,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// Its output is the latent size halved (rounded up) this many times.
    pub level: usize,
    /// Epsilon of the group norms of its resnet, or before its convolution.
    pub norm_eps: f64,
}

/// The blocks of a `UNet2DConditionModel`, or of a UNet with the same blocks that also compute along time.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2d {
    /// The configuration that they follow from.
    pub config: UNet2dConfig,
    /// What the published partitions are chosen by.
    pub structure: Structure,
    /// The blocks in evaluation order.
    pub blocks: Vec<UNetBlock>,
}

/// Why a UNet configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UNetError {
    /// A setting that this implementation does not know.
    #[error("unet config.json: {key} is {found}, supported is {supported}", found = quoted(found))]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What the config says.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// A list whose length does not fit the number of levels.
    #[error("unet config.json: {key} has {found} entries, block_out_channels has {expected}")]
    Length {
        /// The key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of levels.
        expected: usize,
    },
}

/// Builds the block list while it remembers the last output and the skip connections.
struct Builder {
    blocks: Vec<UNetBlock>,
    last: Input,
    channels: usize,
    skips: Vec<(Input, usize)>,
    norm_eps: f64,
}

impl Builder {
    fn push(&mut self, name: String, kind: BlockKind, skip: Option<Input>, level: usize) {
        self.blocks.push(UNetBlock {
            name,
            kind,
            inputs: std::iter::once(self.last).chain(skip).collect(),
            level,
            norm_eps: self.norm_eps,
        });
        self.last = Input::Block(BlockId(self.blocks.len() - 1));
    }

    fn resnet(&mut self, name: String, skip: Option<(Input, usize)>, output: usize, level: usize) {
        let input = self.channels + skip.map_or(0, |(_, channels)| channels);
        let kind = BlockKind::Resnet { input, output };
        self.push(name, kind, skip.map(|(input, _)| input), level);
        self.channels = output;
    }

    fn keep(&mut self) {
        self.skips.push((self.last, self.channels));
    }
}

impl UNet2d {
    /// The blocks that `config` describes.
    ///
    /// # Errors
    ///
    /// [`UNetError`] if the config asks for something that is not implemented, or contradicts itself.
    pub fn new(config: &UNet2dConfig) -> Result<Self, UNetError> {
        config.check()?;
        Ok(Self::of(config))
    }

    /// The blocks of a configuration that is checked.
    fn of(config: &UNet2dConfig) -> Self {
        let levels = config.block_out_channels.len();
        let transformer = |level: usize| BlockKind::Transformer {
            channels: config.block_out_channels[level],
            heads: config.heads(level),
            layers: *config.transformer_layers_per_block.at(level),
        };
        let first = config.block_out_channels[0];
        let mut build = Builder {
            blocks: Vec::new(),
            last: Input::Latents,
            channels: first,
            skips: Vec::new(),
            norm_eps: config.norm_eps,
        };
        let kind = BlockKind::ConvIn {
            input: config.in_channels,
            output: first,
        };
        build.push("conv_in".to_owned(), kind, None, 0);
        build.keep();

        for level in 0..levels {
            let name = format!("down_blocks.{level}");
            let channels = config.block_out_channels[level];
            for layer in 0..*config.layers_per_block.at(level) {
                build.resnet(format!("{name}.resnets.{layer}"), None, channels, level);
                if config.down_attention(level) {
                    let attention = format!("{name}.attentions.{layer}");
                    build.push(attention, transformer(level), None, level);
                }
                build.keep();
            }
            if level + 1 < levels {
                let kind = BlockKind::Downsample { channels };
                build.push(format!("{name}.downsamplers.0"), kind, None, level + 1);
                build.keep();
            }
        }

        let bottom = levels - 1;
        let channels = config.block_out_channels[bottom];
        build.resnet("mid_block.resnets.0".to_owned(), None, channels, bottom);
        let attention = "mid_block.attentions.0".to_owned();
        build.push(attention, transformer(bottom), None, bottom);
        build.resnet("mid_block.resnets.1".to_owned(), None, channels, bottom);

        for (index, level) in (0..levels).rev().enumerate() {
            let name = format!("up_blocks.{index}");
            let channels = config.block_out_channels[level];
            for layer in 0..=*config.layers_per_block.at(level) {
                let skip = build.skips.pop();
                build.resnet(format!("{name}.resnets.{layer}"), skip, channels, level);
                if config.up_attention(index) {
                    let attention = format!("{name}.attentions.{layer}");
                    build.push(attention, transformer(level), None, level);
                }
            }
            if level > 0 {
                let kind = BlockKind::Upsample { channels };
                build.push(format!("{name}.upsamplers.0"), kind, None, level - 1);
            }
        }
        let kind = BlockKind::ConvOut {
            input: build.channels,
            output: config.out_channels,
        };
        build.push("conv_out".to_owned(), kind, None, 0);
        Self {
            config: config.clone(),
            structure: if config.use_linear_projection {
                Structure::Linear
            } else {
                Structure::Convolution
            },
            blocks: build.blocks,
        }
    }

    /// The segment graph for pictures, whose latents are `[batch, out_channels, height, width]`, where the denoiser sees
    /// `passes` batches at once (2 with guidance), and texts of `tokens` tokens.
    #[must_use]
    pub fn graph(&self, passes: usize, batch: [usize; 3], tokens: usize) -> SegmentGraph {
        self.video_graph(passes, 1, batch, tokens)
    }

    /// The segment graph for videos of `frames` frames. The latents are `[batch, out_channels, height, width]` as for
    /// pictures, with a row for each frame: `batch` is the number of videos times `frames`.
    #[must_use]
    pub fn video_graph(
        &self,
        passes: usize,
        frames: usize,
        [batch, height, width]: [usize; 3],
        tokens: usize,
    ) -> SegmentGraph {
        let blocks = self
            .blocks
            .iter()
            .map(|block| {
                let size = |level| [level_size(height, level), level_size(width, level)];
                let [rows, columns] = size(block.level);
                let samples = passes * batch;
                let first = match block.inputs.first() {
                    Some(Input::Block(id)) => self.blocks[id.0].kind.output_channels(),
                    _ => 0,
                };
                Block {
                    name: block.name.clone(),
                    inputs: block.inputs.clone(),
                    macs: samples as u64
                        * self.macs(
                            &block.kind,
                            (rows * columns) as u64,
                            tokens as u64,
                            frames as u64,
                        ),
                    parameters: self.parameters(&block.kind),
                    working: block.working(samples as u64, (rows * columns) as u64, first),
                    kept: block.kept((samples / frames * tokens) as u64),
                    output: [samples, block.kind.output_channels(), rows, columns],
                }
            })
            .collect();
        SegmentGraph {
            blocks,
            latents: [batch, self.config.out_channels, height, width],
            shared_parameters: self.shared_parameters(),
            structure: self.structure,
        }
    }
}

/// `size` halved `level` times, rounded up each time, as stride-2 convolutions with padding 1 do.
#[must_use]
pub fn level_size(size: usize, level: usize) -> usize {
    (0..level).fold(size, |size, _| size.div_ceil(2))
}

impl BlockKind {
    /// Channels of the block's output.
    #[must_use]
    pub fn output_channels(&self) -> usize {
        match *self {
            BlockKind::ConvIn { output, .. }
            | BlockKind::Resnet { output, .. }
            | BlockKind::SpatioTemporalResnet { output, .. }
            | BlockKind::ConvOut { output, .. } => output,
            BlockKind::Transformer { channels, .. }
            | BlockKind::SpatioTemporalTransformer { channels, .. }
            | BlockKind::Motion { channels, .. }
            | BlockKind::Downsample { channels }
            | BlockKind::Upsample { channels } => channels,
        }
    }
}

impl UNetBlock {
    /// The modules whose weights the block holds: itself, and for the last convolution its norm.
    #[must_use]
    pub fn modules(&self) -> Vec<&str> {
        match self.kind {
            BlockKind::ConvOut { .. } => vec!["conv_norm_out", &self.name],
            _ => vec![&self.name],
        }
    }
}
