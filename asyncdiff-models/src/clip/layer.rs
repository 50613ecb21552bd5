//! The transformer layers of CLIP's text and vision encoders (transformers' `CLIPEncoderLayer`).

use asyncdiff_burn::layers;
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Tensor, activation};

use super::Activation;
use crate::attention::{Mask, attend};

/// What all layers of an encoder have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSettings {
    /// Features of a token.
    pub features: usize,
    /// Features inside the feed-forward.
    pub inner_features: usize,
    pub heads: usize,
    pub activation: Activation,
    /// Epsilon of the layer norms.
    pub epsilon: f64,
    pub mask: Mask,
}

#[derive(Debug)]
pub(crate) struct Layer {
    settings: LayerSettings,
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl LayerSettings {
    /// The first `count` layers of the encoder that `root` holds.
    pub fn load(self, root: &Loader<'_>, count: usize) -> Result<Vec<Layer>, WeightError> {
        let (features, inner) = (self.features, self.inner_features);
        let load = |index: usize| {
            let layer = root.at("encoder.layers").at(index);
            let attention =
                |name| layers::linear(&layer.at("self_attn").at(name), features, features, true);
            let norm = |name| layers::layer_norm(&layer.at(name), features, self.epsilon);
            Ok(Layer {
                settings: self,
                norm1: norm("layer_norm1")?,
                query: attention("q_proj")?,
                key: attention("k_proj")?,
                value: attention("v_proj")?,
                output: attention("out_proj")?,
                norm2: norm("layer_norm2")?,
                up: layers::linear(&layer.at("mlp.fc1"), features, inner, true)?,
                down: layers::linear(&layer.at("mlp.fc2"), inner, features, true)?,
            })
        };
        (0..count).map(load).collect()
    }
}

impl Layer {
    /// `hidden` is `[batch, tokens, features]`.
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let normed = self.norm1.forward(hidden.clone());
        let attended = attend(
            self.query.forward(normed.clone()),
            self.key.forward(normed.clone()),
            self.value.forward(normed),
            self.settings.heads,
            self.settings.mask,
        );
        let hidden = hidden + self.output.forward(attended);
        let inner = self.up.forward(self.norm2.forward(hidden.clone()));
        let inner = match self.settings.activation {
            Activation::QuickGelu => inner.clone() * activation::sigmoid(inner * 1.702),
            Activation::Gelu => activation::gelu(inner),
        };
        hidden + self.down.forward(inner)
    }
}
