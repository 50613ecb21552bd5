//! `config.json` of a `MotionAdapter` (AnimateDiff), and what it adds to a UNet.
//!
//! The UNet of a picture becomes that of a video (diffusers' `UNetMotionModel.from_unet2d`): its own blocks see each frame as a
//! picture, and behind every pair of resnet and transformer there is a motion module, a block of its own, that attends along
//! the frames at each position.

use crate::quoted;
use serde::Deserialize;

use super::config::MOST_FEATURES;
use super::{BlockKind, PerBlock, UNet2d, UNetBlock};
use crate::graph::{BlockId, Input, Structure};

/// The settings of a `MotionAdapter`. Missing keys take diffusers' defaults.
///
/// `motion_norm_num_groups` is not among them: as in diffusers, the norms of a motion module have as many groups as those of the
/// UNet that it is put into.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct MotionConfig {
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Motion modules in each down block; an up block has one more.
    pub motion_layers_per_block: PerBlock<usize>,
    /// Transformer layers in each motion module.
    pub motion_transformer_layers_per_block: PerBlock<usize>,
    /// Motion modules in the middle block, where it has any.
    pub motion_mid_block_layers_per_block: usize,
    /// Transformer layers in each motion module of the middle block.
    pub motion_transformer_layers_per_mid_block: PerBlock<usize>,
    /// Number of attention heads.
    pub motion_num_attention_heads: PerBlock<usize>,
    /// Frames that the positional encodings reach to: the most that a video can have.
    pub motion_max_seq_length: usize,
    /// Whether the middle block has a motion module. Early adapters have none there.
    pub use_motion_mid_block: bool,
    /// Channels of a first convolution that replaces the UNet's (PIA), where the adapter has one.
    pub conv_in_channels: Option<usize>,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            block_out_channels: vec![320, 640, 1280, 1280],
            motion_layers_per_block: PerBlock::One(2),
            motion_transformer_layers_per_block: PerBlock::One(1),
            motion_mid_block_layers_per_block: 1,
            motion_transformer_layers_per_mid_block: PerBlock::One(1),
            motion_num_attention_heads: PerBlock::One(8),
            motion_max_seq_length: 32,
            use_motion_mid_block: true,
            conv_in_channels: None,
        }
    }
}

/// Why a motion adapter cannot be put into a UNet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MotionError {
    /// A setting that nothing can be built from, or that is not implemented.
    #[error("{key} is {found}, supported is {supported}", found = quoted(found))]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What the config says.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// An adapter for another UNet.
    #[error(
        "the adapter does not fit this UNet: its {key} is {found:?}, the UNet's {unet_key} is {expected:?}; use an adapter that was made for this kind of model"
    )]
    Mismatch {
        /// The adapter's key.
        key: &'static str,
        /// Its value for each level.
        found: Vec<usize>,
        /// The UNet's key.
        unet_key: &'static str,
        /// Its value for each level.
        expected: Vec<usize>,
    },
}

impl MotionConfig {
    fn check(&self, unet: &UNet2d) -> Result<(), MotionError> {
        let config = &unet.config;
        let levels = config.block_out_channels.len();
        let each = |setting: &PerBlock<usize>, levels| match setting {
            PerBlock::One(value) => vec![*value; levels],
            PerBlock::Each(values) => values.clone(),
        };
        same(
            ["block_out_channels", "block_out_channels"],
            &self.block_out_channels,
            &config.block_out_channels,
        )?;
        same(
            ["motion_layers_per_block", "layers_per_block"],
            &each(&self.motion_layers_per_block, levels),
            &each(&config.layers_per_block, levels),
        )?;
        if let Some(channels) = self.conv_in_channels {
            return Err(unsupported(
                "conv_in_channels",
                &channels,
                "null: adapters with a first convolution of their own (PIA) are not implemented",
            ));
        }
        if self.use_motion_mid_block && self.motion_mid_block_layers_per_block != 1 {
            return Err(unsupported(
                "motion_mid_block_layers_per_block",
                &self.motion_mid_block_layers_per_block,
                "1, the number of the UNet's own attention layers there",
            ));
        }
        let positions = self.motion_max_seq_length;
        if !(1..=MOST_FEATURES).contains(&positions) {
            return Err(unsupported(
                "motion_max_seq_length",
                &positions,
                "1 to 65536",
            ));
        }
        let layers = "motion_transformer_layers_per_block";
        let middle = "motion_transformer_layers_per_mid_block";
        let heads = "motion_num_attention_heads";
        for (key, setting, count) in [
            (layers, &self.motion_transformer_layers_per_block, levels),
            (middle, &self.motion_transformer_layers_per_mid_block, 1),
            (heads, &self.motion_num_attention_heads, levels),
        ] {
            let values = each(setting, count);
            if values.len() != count {
                let found = format_args!("{values:?}");
                return Err(unsupported(
                    key,
                    &found,
                    "one number, or one for each level",
                ));
            }
            // A motion module may have no layer at all; then it is a linear layer behind a norm.
            if let Some(value) = values.iter().find(|value| key != heads && **value > 64) {
                return Err(unsupported(key, value, "0 to 64"));
            }
        }
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let value = self.motion_num_attention_heads.at(level);
            if *value == 0 || !channels.is_multiple_of(*value) {
                let supported = "a divisor of every entry of block_out_channels";
                return Err(unsupported(heads, value, supported));
            }
        }
        Ok(())
    }

    /// The motion module behind `block`, unless there is none: it follows the transformer of a layer, or its resnet where there
    /// is no transformer.
    fn module(&self, block: &UNetBlock, next: Option<&UNetBlock>) -> Option<(String, BlockKind)> {
        let middle = block.name.starts_with("mid_block");
        let layers = if middle {
            self.use_motion_mid_block
                .then(|| self.motion_transformer_layers_per_mid_block.at(0))
        } else {
            Some(self.motion_transformer_layers_per_block.at(block.level))
        };
        let attends = |block: &UNetBlock| matches!(block.kind, BlockKind::Transformer { .. });
        let (name, channels) = match block.kind {
            BlockKind::Transformer { channels, .. } => {
                (block.name.replace("attentions", "motion_modules"), channels)
            }
            BlockKind::Resnet { output, .. } if !middle && !next.is_some_and(attends) => {
                (block.name.replace("resnets", "motion_modules"), output)
            }
            _ => return None,
        };
        let kind = BlockKind::Motion {
            channels,
            heads: *self.motion_num_attention_heads.at(block.level),
            layers: *layers?,
            positions: self.motion_max_seq_length,
        };
        Some((name, kind))
    }
}

fn same(keys: [&'static str; 2], found: &[usize], expected: &[usize]) -> Result<(), MotionError> {
    if found == expected {
        return Ok(());
    }
    let [key, unet_key] = keys;
    Err(MotionError::Mismatch {
        key,
        found: found.to_vec(),
        unet_key,
        expected: expected.to_vec(),
    })
}

fn unsupported(
    key: &'static str,
    found: &dyn std::fmt::Display,
    supported: &'static str,
) -> MotionError {
    MotionError::Unsupported {
        key,
        found: found.to_string(),
        supported,
    }
}

impl UNet2d {
    /// The same UNet with the motion modules that `config` describes.
    ///
    /// # Errors
    ///
    /// [`MotionError`] if the adapter was made for another UNet, or asks for something that is not implemented.
    ///
    /// # Panics
    ///
    /// If this is no UNet of a picture.
    pub fn with_motion(&self, config: &MotionConfig) -> Result<Self, MotionError> {
        assert!(
            matches!(self.structure, Structure::Convolution | Structure::Linear),
            "motion modules go into the UNet of a picture"
        );
        config.check(self)?;
        let mut blocks: Vec<UNetBlock> = Vec::new();
        // What readers of each block of the picture's UNet read now.
        let mut moved: Vec<BlockId> = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            let inputs = block.inputs.iter().map(|input| match input {
                Input::Latents => Input::Latents,
                Input::Block(from) => Input::Block(moved[from.0]),
            });
            blocks.push(UNetBlock {
                inputs: inputs.collect(),
                ..block.clone()
            });
            if let Some((name, kind)) = config.module(block, self.blocks.get(index + 1)) {
                blocks.push(UNetBlock {
                    name,
                    kind,
                    inputs: vec![Input::Block(BlockId(blocks.len() - 1))],
                    ..block.clone()
                });
            }
            moved.push(BlockId(blocks.len() - 1));
        }
        Ok(Self {
            config: self.config.clone(),
            structure: Structure::Motion,
            blocks,
        })
    }
}
