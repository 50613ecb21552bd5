//! The CLIP text encoder (transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`).

pub(crate) mod layer;

use asyncdiff_burn::layers::{self, LayerNorm, Linear, Mask};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::nn::Embedding;
use burn::tensor::{Int, Tensor, TensorData};
use serde::Deserialize;

use layer::{Layer, LayerSettings};

/// `config.json` of a text encoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Features of a token.
    pub hidden_size: usize,
    /// Features inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// The longest text.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    #[serde(default = "quick_gelu")]
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Features of the projected pooled text, in a [`ClipTextModelWithProjection`].
    #[serde(default = "projection_dim")]
    pub projection_dim: usize,
    /// The token that ends a text. 2 is a legacy value that stands for the highest id in the text.
    #[serde(default = "legacy_eos")]
    pub eos_token_id: u32,
}

/// Activations of CLIP's feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(1.702 x)`, of OpenAI's models.
    QuickGelu,
    /// The exact GELU, of OpenCLIP's models.
    Gelu,
}

fn quick_gelu() -> Activation {
    Activation::QuickGelu
}

fn layer_norm_eps() -> f64 {
    1e-5
}

fn projection_dim() -> usize {
    512
}

fn legacy_eos() -> u32 {
    2
}

impl ClipTextConfig {
    /// The first setting that no text encoder can be built from: its key, its value, and what would work.
    pub(crate) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let heads = self.num_attention_heads;
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            return Some((
                "num_attention_heads",
                heads.to_string(),
                "a divisor of hidden_size",
            ));
        }
        None
    }
}

/// What the text encoder says about a batch of texts.
#[derive(Clone, Debug)]
pub struct TextEmbedding {
    /// The last layer's output after the final norm: `[batch, tokens, hidden_size]`.
    pub last_hidden_state: Tensor<3>,
    /// The last but one layer's output, without a norm: `[batch, tokens, hidden_size]`.
    pub penultimate: Tensor<3>,
    /// `last_hidden_state` at each text's end: `[batch, hidden_size]`.
    pub pooled: Tensor<2>,
}

/// The text encoder on a device.
#[derive(Debug)]
pub struct ClipTextModel {
    config: ClipTextConfig,
    tokens: Embedding,
    positions: Tensor<2>,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
}

impl ClipTextModel {
    /// Loads the weights. The file's keys may or may not begin with `text_model.`.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit `config`.
    pub fn load(config: &ClipTextConfig, loader: &Loader<'_>) -> Result<Self, WeightError> {
        let root = if loader.has("text_model") {
            loader.at("text_model")
        } else {
            loader.clone()
        };
        let width = config.hidden_size;
        let embeddings = root.at("embeddings");
        let settings = LayerSettings {
            features: width,
            inner_features: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            epsilon: config.layer_norm_eps,
            mask: Mask::Causal,
        };
        Ok(Self {
            tokens: layers::embedding(&embeddings.at("token_embedding"), config.vocab_size, width)?,
            positions: embeddings
                .at("position_embedding")
                .tensor("weight", [config.max_position_embeddings, width])?,
            layers: settings.load(&root, config.num_hidden_layers)?,
            final_norm: LayerNorm::load(
                &root.at("final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            config: config.clone(),
        })
    }

    /// Encodes texts of equal numbers of tokens, at most `max_position_embeddings`.
    ///
    /// # Panics
    ///
    /// If `ids` is empty, or its rows differ in length or are too long.
    #[must_use]
    pub fn encode(&self, ids: &[Vec<u32>]) -> TextEmbedding {
        let device = self.positions.device();
        let (batch, length) = (ids.len(), ids[0].len());
        let flat: Vec<i64> = ids.iter().flatten().map(|id| i64::from(*id)).collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(flat, [batch, length]), &device);
        let positions = self.positions.clone().narrow(0, 0, length).unsqueeze::<3>();
        let mut hidden = self.tokens.forward(indices) + positions;
        let mut penultimate = hidden.clone();
        for layer in &self.layers {
            penultimate = hidden.clone();
            hidden = layer.forward(hidden);
        }
        let last_hidden_state = self.final_norm.forward(hidden);
        let ends = ids.iter().enumerate().map(|(row, ids)| {
            last_hidden_state
                .clone()
                .slice([row..row + 1, self.end(ids)..self.end(ids) + 1])
        });
        let pooled = Tensor::cat(ends.collect(), 0).squeeze_dim::<2>(1);
        TextEmbedding {
            last_hidden_state,
            penultimate,
            pooled,
        }
    }

    /// The position that stands for the whole text.
    fn end(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            2 => ids.iter().max().copied(),
            eos => Some(eos),
        };
        ids.iter().position(|id| Some(*id) == end).unwrap_or(0)
    }
}

/// A text encoder that carries its pooled text into a space of its own.
#[derive(Debug)]
pub struct ClipTextModelWithProjection {
    model: ClipTextModel,
    projection: Linear,
}

impl ClipTextModelWithProjection {
    /// Loads the weights, as [`ClipTextModel::load`].
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit `config`.
    pub fn load(config: &ClipTextConfig, loader: &Loader<'_>) -> Result<Self, WeightError> {
        Ok(Self {
            model: ClipTextModel::load(config, loader)?,
            projection: Linear::load(
                &loader.at("text_projection"),
                config.hidden_size,
                config.projection_dim,
                false,
            )?,
        })
    }

    /// Encodes texts as [`ClipTextModel::encode`]; also gives transformers' `text_embeds`, the projection of
    /// [`TextEmbedding::pooled`]: `[batch, projection_dim]`.
    ///
    /// # Panics
    ///
    /// As [`ClipTextModel::encode`].
    #[must_use]
    pub fn encode(&self, ids: &[Vec<u32>]) -> (TextEmbedding, Tensor<2>) {
        let embedding = self.model.encode(ids);
        let text_embeds = self.projection.forward(embedding.pooled.clone());
        (embedding, text_embeds)
    }
}
