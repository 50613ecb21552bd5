//! The transformer layers of CLIP's text and vision encoders (transformers' `CLIPEncoderLayer`).

use asyncdiff_burn::layers::{self, Heads, LayerNorm, Linear, Mask};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::Tensor;

use super::Activation;

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
    heads: Heads,
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
                |name| Linear::load(&layer.at("self_attn").at(name), features, features, true);
            let norm = |name| LayerNorm::load(&layer.at(name), features, self.epsilon);
            Ok(Layer {
                settings: self,
                norm1: norm("layer_norm1")?,
                query: attention("q_proj")?,
                key: attention("k_proj")?,
                value: attention("v_proj")?,
                output: attention("out_proj")?,
                heads: Heads::new(&layer, self.heads, self.mask),
                norm2: norm("layer_norm2")?,
                up: Linear::load(&layer.at("mlp.fc1"), features, inner, true)?,
                down: Linear::load(&layer.at("mlp.fc2"), inner, features, true)?,
            })
        };
        (0..count).map(load).collect()
    }
}

impl Layer {
    /// `hidden` is `[batch, tokens, features]`.
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let normed = self.norm1.forward(hidden.clone());
        let attended = self.heads.attend(
            self.query.forward(normed.clone()),
            self.key.forward(normed.clone()),
            self.value.forward(normed),
        );
        let hidden = self.output.forward_onto(attended, hidden);
        let activation = match self.settings.activation {
            Activation::QuickGelu => layers::Activation::QuickGelu,
            Activation::Gelu => layers::Activation::Gelu,
        };
        let normed = self.norm2.forward(hidden.clone());
        let inner = self.up.forward_activated(normed, activation);
        self.down.forward_onto(inner, hidden)
    }
}
