//! `config.json` of a `UNetSpatioTemporalConditionModel` (Stable Video Diffusion).
//!
//! Its blocks are those of a `UNet2DConditionModel`, in the same order and under the same names; each resnet and each
//! transformer goes on along the frames of a video after it has gone over each frame.

use serde::Deserialize;

use super::config::{MOST_FEATURES, length, unsupported};
use super::{BlockKind, PerBlock, UNet2d, UNet2dConfig, UNetError};
use crate::graph::Structure;

/// The settings of a `UNetSpatioTemporalConditionModel`. Missing keys take diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SpatioTemporalConfig {
    /// Channels of the model input: those of the latents, and of the picture's latents beside them.
    pub in_channels: usize,
    /// Channels of the noise prediction.
    pub out_channels: usize,
    /// Latent height and width that the model was trained for.
    pub sample_size: Option<usize>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Classes of the down blocks.
    pub down_block_types: Vec<String>,
    /// Classes of the up blocks.
    pub up_block_types: Vec<String>,
    /// Features of each of the numbers that are added to the time embedding.
    pub addition_time_embed_dim: usize,
    /// Features of all these numbers together.
    pub projection_class_embeddings_input_dim: usize,
    /// Resnets in each down block; an up block has one more.
    pub layers_per_block: PerBlock<usize>,
    /// Features of the picture's embedding.
    pub cross_attention_dim: usize,
    /// Transformer layers in each attention block, over each frame and as many along time.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Number of attention heads.
    pub num_attention_heads: PerBlock<usize>,
    /// Frames of the videos that the model was trained for.
    pub num_frames: usize,
}

impl Default for SpatioTemporalConfig {
    fn default() -> Self {
        let types = |first: &str, middle: &str, last: &str| {
            [first, middle, middle, last].map(str::to_owned).to_vec()
        };
        Self {
            in_channels: 8,
            out_channels: 4,
            sample_size: None,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: types(CROSS_DOWN, CROSS_DOWN, DOWN),
            up_block_types: types(UP, CROSS_UP, CROSS_UP),
            addition_time_embed_dim: 256,
            projection_class_embeddings_input_dim: 768,
            layers_per_block: PerBlock::One(2),
            cross_attention_dim: 1024,
            transformer_layers_per_block: PerBlock::One(1),
            num_attention_heads: PerBlock::Each(vec![5, 10, 20, 20]),
            num_frames: 25,
        }
    }
}

const CROSS_DOWN: &str = "CrossAttnDownBlockSpatioTemporal";
const DOWN: &str = "DownBlockSpatioTemporal";
const CROSS_UP: &str = "CrossAttnUpBlockSpatioTemporal";
const UP: &str = "UpBlockSpatioTemporal";

/// Not in the config: diffusers fixes it for all group norms of this class.
const NORM_GROUPS: usize = 32;
/// The norm before `conv_out`, the middle block, and down blocks without attention.
const NORM_EPS: f64 = 1e-5;
/// The resnets of all up blocks, and of down blocks with attention.
const FINE_NORM_EPS: f64 = 1e-6;

impl SpatioTemporalConfig {
    /// The settings of the `UNet2DConditionModel` with the same blocks.
    fn flat(&self) -> Result<UNet2dConfig, UNetError> {
        let levels = self.block_out_channels.len();
        self.num_attention_heads
            .check("num_attention_heads", levels)?;
        length("down_block_types", self.down_block_types.len(), levels)?;
        length("up_block_types", self.up_block_types.len(), levels)?;
        for (key, found) in [
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            (
                "projection_class_embeddings_input_dim",
                self.projection_class_embeddings_input_dim,
            ),
            ("num_frames", self.num_frames),
        ] {
            if !(1..=MOST_FEATURES).contains(&found) {
                return Err(unsupported(key, &found.to_string(), "1 to 65536"));
            }
        }
        let mut flat = UNet2dConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            sample_size: self.sample_size,
            block_out_channels: self.block_out_channels.clone(),
            down_block_types: flat_types(
                "down_block_types",
                &self.down_block_types,
                [(CROSS_DOWN, "CrossAttnDownBlock2D"), (DOWN, "DownBlock2D")],
                "CrossAttnDownBlockSpatioTemporal and DownBlockSpatioTemporal",
            )?,
            up_block_types: flat_types(
                "up_block_types",
                &self.up_block_types,
                [(CROSS_UP, "CrossAttnUpBlock2D"), (UP, "UpBlock2D")],
                "CrossAttnUpBlockSpatioTemporal and UpBlockSpatioTemporal",
            )?,
            layers_per_block: self.layers_per_block.clone(),
            num_attention_heads: Some(self.num_attention_heads.clone()),
            transformer_layers_per_block: self.transformer_layers_per_block.clone(),
            cross_attention_dim: self.cross_attention_dim,
            use_linear_projection: true,
            norm_num_groups: NORM_GROUPS,
            norm_eps: NORM_EPS,
            ..UNet2dConfig::default()
        };
        flat.check()?;
        // A `UNet2DConditionModel` has no name for numbers without a text.
        flat.addition_embed_type = Some("time_ids".to_owned());
        flat.addition_time_embed_dim = Some(self.addition_time_embed_dim);
        flat.projection_class_embeddings_input_dim =
            Some(self.projection_class_embeddings_input_dim);
        Ok(flat)
    }
}

/// The names of the 2D classes with the same blocks.
fn flat_types(
    key: &'static str,
    types: &[String],
    known: [(&str, &str); 2],
    supported: &'static str,
) -> Result<Vec<String>, UNetError> {
    let flat = |name: &String| {
        known
            .iter()
            .find_map(|(class, flat)| (class == name).then(|| (*flat).to_owned()))
            .ok_or_else(|| unsupported(key, name, supported))
    };
    types.iter().map(flat).collect()
}

impl UNet2d {
    /// The blocks that the `config` of a `UNetSpatioTemporalConditionModel` describes.
    ///
    /// # Errors
    ///
    /// As [`UNet2d::new`].
    pub fn spatio_temporal(config: &SpatioTemporalConfig) -> Result<Self, UNetError> {
        let mut unet = Self::of(&config.flat()?);
        unet.structure = Structure::SpatioTemporal;
        for block in &mut unet.blocks {
            block.kind = match block.kind {
                BlockKind::Resnet { input, output } => {
                    let attends = block.name.starts_with("down_blocks")
                        && unet.config.down_attention(block.level);
                    if attends || block.name.starts_with("up_blocks") {
                        block.norm_eps = FINE_NORM_EPS;
                    }
                    BlockKind::SpatioTemporalResnet { input, output }
                }
                BlockKind::Transformer {
                    channels,
                    heads,
                    layers,
                } => BlockKind::SpatioTemporalTransformer {
                    channels,
                    heads,
                    layers,
                },
                other => other,
            };
        }
        Ok(unet)
    }
}
