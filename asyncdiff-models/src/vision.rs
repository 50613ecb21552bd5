//! The CLIP vision encoder (transformers' `CLIPVisionModelWithProjection`) and what it sees of a picture.

mod preprocess;

use asyncdiff_burn::layers::{Conv2d, LayerNorm, Linear, Mask, tokens};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::Tensor;
use serde::Deserialize;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::clip::Activation;
use crate::clip::layer::{Layer, LayerSettings};

pub use preprocess::{ImageNormalization, resize_antialiased};

/// `config.json` of a vision encoder. Missing keys take transformers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Features of a token.
    pub hidden_size: usize,
    /// Features inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Features of the projected picture.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Height and width of the pictures that it sees.
    pub image_size: usize,
    /// Height and width of the patches that a picture is cut into.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// The first setting that no vision encoder can be built from: its key, its value, and what would work.
    pub(crate) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let heads = self.num_attention_heads;
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            let supported = "a divisor of hidden_size";
            return Some(("num_attention_heads", heads.to_string(), supported));
        }
        if self.patch_size == 0 || self.patch_size > self.image_size {
            let supported = "at least 1 and at most image_size";
            return Some(("patch_size", self.patch_size.to_string(), supported));
        }
        if self.image_size > MOST_PIXELS {
            return Some(("image_size", self.image_size.to_string(), "at most 4096"));
        }
        (self.num_channels != 3).then(|| ("num_channels", self.num_channels.to_string(), "3"))
    }

    fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

const MOST_PIXELS: usize = 4096;

/// A vision encoder and how it is shown pictures, without the weights.
#[derive(Clone, Debug)]
pub struct ImageEncoder {
    /// The encoder's configuration.
    pub config: ClipVisionConfig,
    /// What is done to a picture's samples before it sees them.
    pub normalization: ImageNormalization,
}

impl ImageEncoder {
    /// The encoder's folder in a checkpoint.
    pub const FOLDER: &str = "image_encoder";

    pub(crate) fn open(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        Ok(Self {
            config: checkpoint.json(&format!("{}/config.json", Self::FOLDER))?,
            normalization: checkpoint.json("feature_extractor/preprocessor_config.json")?,
        })
    }
}

/// What the vision encoder says about a batch of pictures.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// The last layer's output, without a norm: `[batch, 1 + patches, hidden_size]`.
    pub last_hidden_state: Tensor<3>,
    /// The projection of the first token after the final norm: `[batch, projection_dim]`.
    pub image_embeds: Tensor<2>,
}

/// The vision encoder on a device.
#[derive(Debug)]
pub struct ClipVisionModelWithProjection {
    patches: Conv2d,
    /// The token that stands for the whole picture, before all patches.
    class: Tensor<1>,
    positions: Tensor<2>,
    norm_in: LayerNorm,
    layers: Vec<Layer>,
    norm_out: LayerNorm,
    projection: Linear,
}

impl ClipVisionModelWithProjection {
    /// Loads the weights.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit `config`.
    pub fn load(config: &ClipVisionConfig, loader: &Loader<'_>) -> Result<Self, WeightError> {
        let root = loader.at("vision_model");
        let (features, epsilon) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = root.at("embeddings");
        let settings = LayerSettings {
            features,
            inner_features: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            epsilon,
            mask: Mask::None,
        };
        Ok(Self {
            patches: Conv2d::patches(
                &embeddings.at("patch_embedding"),
                [config.num_channels, features],
                config.patch_size,
            )?,
            class: embeddings.tensor("class_embedding", [features])?,
            positions: embeddings
                .at("position_embedding")
                .tensor("weight", [1 + config.patches(), features])?,
            // The misspelling is the checkpoints'.
            norm_in: LayerNorm::load(&root.at("pre_layrnorm"), features, epsilon)?,
            layers: settings.load(&root, config.num_hidden_layers)?,
            norm_out: LayerNorm::load(&root.at("post_layernorm"), features, epsilon)?,
            projection: Linear::load(
                &loader.at("visual_projection"),
                features,
                config.projection_dim,
                false,
            )?,
        })
    }

    /// Encodes pictures `[batch, 3, image_size, image_size]`, normalised with [`ImageNormalization`].
    ///
    /// # Panics
    ///
    /// If the pictures have another size.
    #[must_use]
    pub fn encode(&self, pictures: Tensor<4>) -> ImageEmbedding {
        let pictures = pictures.cast(self.class.dtype());
        let patches = tokens(self.patches.forward(pictures));
        let [batch, _, features] = patches.dims();
        let class: Tensor<3> = self.class.clone().reshape([1, 1, features]);
        let all = Tensor::cat(vec![class.repeat_dim(0, batch), patches], 1);
        let hidden = all + self.positions.clone().unsqueeze::<3>();
        let hidden = self.norm_in.forward(hidden);
        let last_hidden_state = self
            .layers
            .iter()
            .fold(hidden, |hidden, layer| layer.forward(hidden));
        let first = last_hidden_state.clone().narrow(1, 0, 1);
        let pooled = self.norm_out.forward(first.squeeze_dim::<2>(1));
        ImageEmbedding {
            last_hidden_state,
            image_embeds: self.projection.forward(pooled),
        }
    }
}
