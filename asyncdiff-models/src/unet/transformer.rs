//! diffusers' `Transformer2DModel`.

use asyncdiff_burn::layers::{
    GatedLinear, GroupNorm, Heads, LayerNorm, Linear, Mask, feature_map, tokens,
};
use asyncdiff_burn::weights::{Loader, WeightError};
use asyncdiff_core::unet::UNet2dConfig;
use burn::tensor::Tensor;

/// Attention over the positions of a feature map, and from them to the text.
#[derive(Debug)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    project_in: Linear,
    layers: Vec<Layer>,
    project_out: Linear,
}

/// diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
pub(super) struct Layer {
    norm1: LayerNorm,
    self_attention: Attention,
    norm2: LayerNorm,
    cross_attention: Attention,
    norm3: LayerNorm,
    feed_forward: FeedForward,
}

/// diffusers' `FeedForward` with a gated GELU.
#[derive(Debug)]
pub(super) struct FeedForward {
    up: GatedLinear,
    down: Linear,
}

/// diffusers' `Attention`, of several heads.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: Heads,
}

/// What tokens are to an [`Attention`] that looks at them, `[samples, tokens, channels]` each. That of a text is the same in all
/// steps.
#[derive(Clone, Debug)]
pub(super) struct KeysValues {
    key: Tensor<3>,
    value: Tensor<3>,
}

impl Transformer {
    pub fn load(
        loader: &Loader<'_>,
        config: &UNet2dConfig,
        channels: usize,
        heads: usize,
        layers: usize,
    ) -> Result<Self, WeightError> {
        let (groups, context) = (config.norm_num_groups, config.cross_attention_dim);
        let project = |name| {
            let loader = loader.at(name);
            if config.use_linear_projection {
                Linear::load(&loader, channels, channels, true)
            } else {
                Linear::pointwise(&loader, channels, channels)
            }
        };
        Ok(Self {
            // Not the UNet's epsilon: diffusers fixes it for this norm.
            norm: GroupNorm::load(&loader.at("norm"), groups, channels, 1e-6)?,
            project_in: project("proj_in")?,
            layers: (0..layers)
                .map(|index| {
                    Layer::load(
                        &loader.at("transformer_blocks").at(index),
                        channels,
                        heads,
                        context,
                    )
                })
                .collect::<Result<_, _>>()?,
            project_out: project("proj_out")?,
        })
    }

    /// What `context`, `[samples, tokens, features]`, is to each of the layers.
    pub fn keys_values(&self, context: &Tensor<3>) -> Vec<KeysValues> {
        let layers = self.layers.iter();
        layers.map(|layer| layer.keys_values(context)).collect()
    }

    /// `x` is `[batch, channels, height, width]`, `context` what [`keys_values`](Self::keys_values) made.
    pub fn forward(&self, x: Tensor<4>, context: &[KeysValues]) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut hidden = self
            .project_in
            .forward(tokens(self.norm.forward(x.clone())));
        for (layer, context) in self.layers.iter().zip(context) {
            hidden = layer.forward(hidden, context);
        }
        let sum = self.project_out.forward_onto(hidden, tokens(x));
        feature_map(sum, [height, width])
    }
}

impl Layer {
    pub fn load(
        loader: &Loader<'_>,
        channels: usize,
        heads: usize,
        context: usize,
    ) -> Result<Self, WeightError> {
        let norm = |name| LayerNorm::load(&loader.at(name), channels, 1e-5);
        Ok(Self {
            norm1: norm("norm1")?,
            self_attention: Attention::load(&loader.at("attn1"), channels, heads, channels)?,
            norm2: norm("norm2")?,
            cross_attention: Attention::load(&loader.at("attn2"), channels, heads, context)?,
            norm3: norm("norm3")?,
            feed_forward: FeedForward::load(&loader.at("ff"), channels)?,
        })
    }

    /// What `context`, `[samples, tokens, features]`, is to the cross-attention.
    pub fn keys_values(&self, context: &Tensor<3>) -> KeysValues {
        self.cross_attention.keys_values(context)
    }

    /// `hidden` is `[batch, tokens, channels]`; consecutive rows of the batch share a sample of the context, as the frames of a
    /// video do.
    pub fn forward(&self, hidden: Tensor<3>, context: &KeysValues) -> Tensor<3> {
        let normed = self.norm1.forward(hidden.clone());
        let hidden = self.self_attention.forward(normed, hidden);
        let normed = self.norm2.forward(hidden.clone());
        let hidden = self.cross_attention.look_at(context, normed, hidden);
        let normed = self.norm3.forward(hidden.clone());
        self.feed_forward.forward_onto(normed, hidden)
    }
}

impl FeedForward {
    pub fn load(loader: &Loader<'_>, channels: usize) -> Result<Self, WeightError> {
        let loader = loader.at("net");
        Ok(Self {
            up: GatedLinear::load(&loader.at("0.proj"), channels, 4 * channels)?,
            down: Linear::load(&loader.at("2"), 4 * channels, channels, true)?,
        })
    }

    /// Adds what it makes of `x` to `residual`.
    pub fn forward_onto(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.down.forward_onto(self.up.forward(x), residual)
    }
}

impl Attention {
    pub fn load(
        loader: &Loader<'_>,
        channels: usize,
        heads: usize,
        context: usize,
    ) -> Result<Self, WeightError> {
        Ok(Self {
            query: Linear::load(&loader.at("to_q"), channels, channels, false)?,
            key: Linear::load(&loader.at("to_k"), context, channels, false)?,
            value: Linear::load(&loader.at("to_v"), context, channels, false)?,
            output: Linear::load(&loader.at("to_out.0"), channels, channels, true)?,
            heads: Heads::new(loader, heads, Mask::None),
        })
    }

    /// What tokens, `[samples, tokens, features]`, are to who looks at them.
    fn keys_values(&self, tokens: &Tensor<3>) -> KeysValues {
        KeysValues {
            key: self.key.forward(tokens.clone()),
            value: self.value.forward(tokens.clone()),
        }
    }

    /// The tokens of `x`, `[batch, tokens, channels]`, look at each other; adds what comes of it to `residual`.
    pub fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let own = self.keys_values(&x);
        self.look_at(&own, x, residual)
    }

    /// The same, looking at a context. Consecutive rows of the batch share a sample of it.
    fn look_at(&self, context: &KeysValues, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let shape = x.dims();
        let [batch, tokens, channels] = shape;
        // What shares a context may as well be one text: no token looks at another.
        let samples = context.key.dims()[0];
        let query = self.query.forward(x);
        let attended = self.heads.attend(
            query.reshape([samples, batch / samples * tokens, channels]),
            context.key.clone(),
            context.value.clone(),
        );
        self.output.forward_onto(attended.reshape(shape), residual)
    }
}
